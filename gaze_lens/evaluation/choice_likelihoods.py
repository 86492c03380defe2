"""How probable each choice of a question is as the answer, under the steering of each row.

likelihoods = choice_likelihoods(model, protocol, question, rows, encoded, ablations)    # row by row, in nats
"""

from collections.abc import Sequence

import torch

from gaze_lens.data.questions import Question
from gaze_lens.evaluation.ablated_rows import Ablations
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.evaluation.steered_rows import Row, row_hooks
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.patching.metrics import log_probabilities


@torch.no_grad()
def choice_likelihoods(
    model: Model,
    protocol: Protocol,
    question: Question,
    rows: Sequence[Row],
    encoded: VLMInputs,
    ablations: Ablations | None,
) -> list[tuple[float, ...]]:
    """For each row, the log-probability of each choice as the whole answer, in nats, summed over its tokens.

    Where the question is asked with lettered choices, it is that of the letter. () where there are no choices, and
    where a probability is no number.
    """
    choices = protocol.choices_of(question)
    if not choices:
        return [()] * len(rows)
    each = [row for row in rows for _ in choices]
    inputs = model.prepare([question] * len(each), [row.prompt for row in each], answers=list(choices) * len(rows))
    inputs = model.encode(inputs, reuse=encoded) if inputs.maps else inputs
    longest = inputs.layout.length - min(inputs.answers)
    hooks = row_hooks(protocol, inputs, each, ablations)
    logits = model.run_with_hooks(
        inputs, fwd_hooks=hooks, return_type="logits", logits_to_keep=longest + 1, use_cache=False
    )
    answers = [ids[start:] for ids, start in zip(inputs.input_ids, inputs.answers, strict=True)]
    pairs = zip(logits, answers, strict=True)
    sums = torch.stack([log_probabilities(row[-1 - len(ids) : -1], ids).sum() for row, ids in pairs])
    by_row = sums.reshape(len(rows), len(choices))
    return [tuple(round(one, 4) for one in row.tolist()) if bool(row.isfinite().all()) else () for row in by_row.cpu()]
