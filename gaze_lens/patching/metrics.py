"""Metrics of patching: functions of logits `[batch, pos, d_vocab]` that return one number for each row, `[batch]`.

metric = gl.metrics.logit_difference(model, "red", "green")
metric = gl.metrics.answer_log_probability(model.prepare(strip, question, answers="red ring above blue bar."))
gl.patch(model, clean, corrupted, what="z", metric=metric)

inputs = gl.metrics.descriptions(model, strip, question)          # one row per region: its caption as the answer
gl.metrics.description_probability(inputs)(model(inputs))         # how probable each is among them

TransformerLens takes them as metrics. They keep gradients and compute in float32 or better. Each raises InputError for
logits with other rows or positions than those of the inputs that it was made for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.patching.answer_tokens import answer_mass, choice_accuracy, expected_score
from gaze_lens.patching.descriptions import Block, blocks_of, descriptions
from gaze_lens.patching.logits import (
    At,
    Metric,
    Word,
    check_shape,
    columns_of,
    first_tokens,
    next_token_logits,
    one_each,
    precise,
)

__all__ = [
    "Metric", "answer_log_probability", "answer_mass", "choice_accuracy", "description_margin",
    "description_probability", "descriptions", "expected_score", "kl", "logit_difference", "steering_success",
]  # fmt: skip


@dataclass(frozen=True)
class BatchMetrics:
    """`BatchMetrics.of(metric, n_rows)`: one metric, or several by name, with checks of what they return.

    functions: name -> metric. named: whether the user gave names.
    """

    functions: Mapping[str, Metric]
    n_rows: int
    named: bool

    @classmethod
    def of(cls, metric: Any, n_rows: int) -> "BatchMetrics":
        """Raises InputError for anything but a function or a mapping of names to functions."""
        functions = metric if isinstance(metric, Mapping) else {"metric": metric}
        if not functions or not all(callable(function) for function in functions.values()):
            raise InputError(
                f"metric={metric!r} was given; expected a function of logits [batch, pos, d_vocab] that returns a "
                "number for each row, or a mapping of names to such functions."
            )
        return cls(functions, n_rows, isinstance(metric, Mapping))

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"], run: Any) -> Float[Tensor, "metric batch"]:
        """The metrics of a run; `run` is its name in messages. Raises InputError for wrong shapes, NaN and infinity."""
        return torch.stack([self._checked(name, function(logits), run) for name, function in self.functions.items()])

    def _checked(self, name: str, value: Any, run: Any) -> Float[Tensor, " batch"]:
        if not isinstance(value, Tensor) or value.shape != (self.n_rows,):
            returned = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"The metric {name!r} returned {returned} for a batch of {self.n_rows} rows; expected one number for "
                f"each row, shape ({self.n_rows},). Leave out .mean() and .item()."
            )
        value = value.detach().float().cpu()
        if not value.isfinite().all():
            raise InputError(
                f"The metric {name!r} returned {value.tolist()} for {run}; expected finite numbers. Take logarithms "
                "with log_softmax, and divide by nothing that can be 0."
            )
        return value


def logit_difference(
    model: Model, right: Word | Sequence[Word], wrong: Word | Sequence[Word], *, at: At = -1
) -> Metric:
    """`logit_difference(model, "red", "green")`: the logit of one token minus that of another.

    right, wrong: texts or token ids; one for all rows, or a list with one for each. A text stands for its first token,
        as the tokenizer writes it at the beginning of a text.
    at: the column whose next token is compared, by default the last; or one for each row. In inputs with answers, the
        column before the answer: `[row[0] for row in inputs.answer_positions]`.
    Raises InputError where right and wrong begin with the same token.
    Wang et al. 2022, "Interpretability in the Wild" (indirect objects).
    """
    rights, wrongs = (first_tokens(model.processor.tokenizer, words) for words in (right, wrong))
    n_rows = max(len(rights), len(wrongs))
    for first, second in zip(one_each(rights, n_rows), one_each(wrongs, n_rows), strict=True):
        if first == second:
            raise InputError(
                f"right={right!r} and wrong={wrong!r} begin with the same token, {first}: their difference is always "
                "0. Give texts whose first tokens differ, or ids of later tokens with at=."
            )

    def metric(logits: Tensor) -> Tensor:
        at_column = next_token_logits(logits, at)
        rows = torch.arange(len(logits), device=logits.device)
        right_ids, wrong_ids = (one_each(tokens, len(logits)) for tokens in (rights, wrongs))
        return at_column[rows, right_ids] - at_column[rows, wrong_ids]

    return metric


def answer_log_probability(inputs: VLMInputs, *, per_token: bool = False) -> Metric:
    """`answer_log_probability(inputs)`: the log-probability of each row's whole answer, teacher-forced, in nats.

    inputs: prepared with `answers=`. The metric takes logits of these inputs, or of others with the same answers at the
        same positions. per_token: the mean over the answer's tokens instead of their sum.
    Raises InputError where a row has no answer.
    """
    for row, positions in enumerate(inputs.answer_positions):
        if not positions:
            raise InputError(f"Row {row} has no answer to score; prepare the inputs with answers=.")
    ids = [inputs.input_ids[row, start:] for row, start in enumerate(inputs.answers)]

    def metric(logits: Tensor) -> Tensor:
        check_shape(logits, inputs.shape)
        rows = zip(logits, inputs.answer_positions, ids, strict=True)
        answers = [log_probabilities(row[list(columns)], answer) for row, columns, answer in rows]
        return torch.stack([tokens.mean() if per_token else tokens.sum() for tokens in answers])

    return metric


def log_probabilities(logits: Float[Tensor, "token d_vocab"], ids: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """The log-probability of each token of a text, in nats. logits: at the positions that predict these tokens."""
    return precise(logits).log_softmax(-1).gather(-1, ids.to(logits.device)[:, None]).squeeze(-1)


def kl(reference_logits: Float[Tensor, "batch pos d_vocab"], *, at: At = -1) -> Metric:
    """`kl(model(clean))`: the Kullback-Leibler divergence of the next token's distribution, in nats.

    It is the sum over the vocabulary of p log(p / q); p are the reference's probabilities, q those of the logits.
    at: a column, one for each row, or several for each row (`inputs.answer_positions`), over which the mean is taken.
    Raises InputError for logits of another shape than the reference's.
    """
    check_shape(reference_logits)
    columns = columns_of(at, reference_logits)
    shape, reference = reference_logits.shape, _log_softmax_at(reference_logits.detach(), columns)

    def metric(logits: Tensor) -> Tensor:
        check_shape(logits, shape)
        both = zip(reference, _log_softmax_at(logits, columns), strict=True)
        pairs = [(log_p.to(log_q.device), log_q) for log_p, log_q in both]
        return torch.stack([(log_p.exp() * (log_p - log_q)).sum(-1).mean() for log_p, log_q in pairs])

    return metric


def _log_softmax_at(
    logits: Float[Tensor, "batch pos d_vocab"], columns: Sequence[Sequence[int]]
) -> list[Float[Tensor, "column d_vocab"]]:
    """For each row the log-probabilities of the next token at its columns."""
    return [precise(row[here]).log_softmax(-1) for row, here in zip(logits, columns, strict=True)]


def description_probability(inputs: VLMInputs, *, per_token: bool = False) -> Metric:
    """The probability of each description among all descriptions of its picture.

        description_probability(gl.metrics.descriptions(model, strip, question))

    It is the softmax, over a picture's descriptions, of their log-probabilities as answers.
    per_token: take the mean log-probability per token instead; for descriptions of different lengths.
    The rows of a picture sum to one, so that their mean says nothing: read the row of the description that you ask
    about. Raises InputError unless the rows are, picture by picture, one for each caption.
    """
    blocks, score = blocks_of(inputs), answer_log_probability(inputs, per_token=per_token)

    def metric(logits: Tensor) -> Tensor:
        return torch.cat([rows.softmax(0) for rows in score(logits).split([len(block) for block in blocks])])

    return metric


def description_margin(inputs: VLMInputs, target: str | Sequence[str], *, per_token: bool = False) -> Metric:
    """`description_margin(inputs, "panel 4")`: how far the target's description is ahead of the best other one.

    It is the difference of their log-probabilities, in nats.
    target: a region's name; or a list with one for each picture. The rest as for `description_probability`.
    All rows of a picture have the margin of that picture. For an interval over pictures, count each picture once:
    `metric(logits)[:: n_descriptions]`.
    """
    blocks, score = blocks_of(inputs), answer_log_probability(inputs, per_token=per_token)
    targets = _targets(blocks, target)

    def metric(logits: Tensor) -> Tensor:
        scores = score(logits).split([len(block) for block in blocks])
        return torch.cat([_margin(rows, index).expand(len(rows)) for rows, index in zip(scores, targets, strict=True)])

    return metric


def steering_success(inputs: VLMInputs, target: str | Sequence[str], *, per_token: bool = False) -> Metric:
    """`steering_success(inputs, "panel 4")`: 1.0 where the target's description is the most probable one, else 0.0.

    It is the sign of `description_margin`, which says the rest about arguments, rows and errors. It has no gradient.
    """
    margin = description_margin(inputs, target, per_token=per_token)
    return lambda logits: (margin(logits) > 0).float()


def _margin(rows: Float[Tensor, " description"], index: int) -> Float[Tensor, ""]:
    return rows[index] - torch.cat([rows[:index], rows[index + 1 :]]).max()


def _targets(blocks: Sequence[Block], target: str | Sequence[str]) -> list[int]:
    """For each picture the index of the row, among its own, that describes the target."""
    names = [target] * len(blocks) if isinstance(target, str) else list(target)
    if len(names) != len(blocks):
        raise InputError(f"{len(names)} targets were given for {len(blocks)} pictures; give one, or one for each.")
    for block, name in zip(blocks, names, strict=True):
        if name not in block or len(block) < 2:
            raise InputError(
                f"The target {name!r} was given, and the picture describes {', '.join(map(repr, block))}: expected one "
                "of at least two described regions."
            )
    return [block.index(name) for block, name in zip(blocks, names, strict=True)]
