"""Answers about one picture. Conditions and targets are rows of one batch, and each row is steered separately.

inputs = model.encode(model.prepare([picture] * len(rows), [row.prompt for row in rows]))
for row, answer in zip(rows, answers(model, protocol, inputs, rows)): ...
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.decoding.contrast import contrast_decoding
from gaze_lens.errors import HookError, InputError, NotFiniteError
from gaze_lens.evaluation.ablated_rows import Ablations
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.steering import steer
from gaze_lens.model.generation import Generation
from gaze_lens.model_protocol import Model

Steps = list[list[int]]  # for each row, the steps at which it was steered to a new target


@dataclass(frozen=True)
class Row:
    """One answer to generate.

    targets: the regions that it should describe, one after the other. steered_to: where the heads are steered to, one
    for each target: the targets themselves, or boxes elsewhere (None if there is no such place).
    """

    condition: Condition
    targets: tuple[str, ...]
    prompt: str
    steered_to: tuple[Any, ...]


@dataclass(frozen=True)
class Text:
    """An answer. pieces: the text, cut where the target changes. steps: the tokens, from 0, at which pieces begin.

    failed: why there is none, where the logits were no numbers. exposure: its means, where heads were steered.
    likelihoods: of the choices of a question, in nats; see `choice_likelihoods.py`.
    """

    text: str
    pieces: tuple[str, ...]
    steps: tuple[int, ...]
    failed: str | None = None
    exposure: Mapping[str, float] | None = field(default=None, compare=False)
    likelihoods: tuple[float, ...] = ()


def answers(
    model: Model, protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row], ablations: Ablations | None = None
) -> list[Text]:
    """One answer for each row of a batch; each is the answer that the row would get alone.

    rows: of conditions with one contrast, or without.

    ablations: for rows of conditions that ablate.
    """
    if protocol.moves:
        generation, steps, error = _narrate(model, protocol, inputs, rows)
        ids = generation.tokens.tolist()
        texts = [cut(model, protocol, text, ids[n], steps[n]) for n, text in enumerate(generation.texts)]
    else:
        hooks = row_hooks(protocol, inputs, rows, ablations)
        options: dict[str, Any] = {"fwd_hooks": hooks, **protocol.generation_options}
        contrast = rows[0].condition.contrast
        if contrast is not None:
            options["decoding"] = contrast_decoding(model, inputs, plus=hooks, strength=contrast)
            options["fwd_hooks"] = []
        generation, error = _generated(model, inputs, **options)
        texts = [Text(text, (text,), (0,)) for text in generation.texts]
    reasons = {} if error is None else error.reasons
    if generation.exposure is not None:
        means = [generation.exposure.mean(n) for n in range(len(texts))]
        texts = [replace(text, exposure=_rounded(mean)) for text, mean in zip(texts, means, strict=True)]
    return [Text("", (), (), reasons[n]) if n in reasons else text for n, text in enumerate(texts)]


def _rounded(means: Mapping[str, float] | None) -> dict[str, float] | None:
    """Means without the digits that depend on what else is in a batch: a resumed run writes the same lines."""
    return None if means is None else {name: round(mean, 5) for name, mean in means.items()}


def row_hooks(
    protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row], ablations: Ablations | None
) -> list[tuple[str, Any]]:
    """What steers each row of a batch to its first target, as its condition says."""
    region = inputs.region([row.steered_to[0] for row in rows])
    hooks: list[tuple[str, Any]] = []
    for condition, heads, group in _by_condition(rows):
        if condition.ablate:
            hooks += _given(ablations).hooks(condition, group, inputs.n_rows)
        else:
            hooks += steer(heads, region, rows=group, **protocol.steering, **condition.steering)
    return hooks


def _given(ablations: Ablations | None) -> Ablations:
    if ablations is None:
        raise InputError("A condition ablates heads, and there are no prompts to take means over; use gl.evaluate.")
    return ablations


def _generated(model: Model, inputs: VLMInputs, **options: Any) -> tuple[Generation, NotFiniteError | None]:
    """A generation, and the error of its rows whose logits were no numbers, if there are any."""
    exposure = any(isinstance(function, ScoreEdit | SwitchableBias) for _, function in options["fwd_hooks"])
    try:
        return model.generate(inputs, exposure=exposure, **options), None
    except NotFiniteError as error:
        return error.generation, error


def narrate(model: Model, protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row]) -> tuple[Generation, Steps]:
    """One generation in which the targets change, and for each row the steps at which its target changed.

    Raises NotFiniteError where logits are no numbers.
    """
    generation, steps, error = _narrate(model, protocol, inputs, rows)
    if error is not None:
        raise error
    return generation, steps


def _narrate(
    model: Model, protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row]
) -> tuple[Generation, Steps, NotFiniteError | None]:
    """As `narrate`, with the error of some rows beside what the others wrote."""
    changes = _TargetChanges(model, protocol, inputs, rows)
    generation, error = _generated(
        model,
        inputs,
        fwd_hooks=[hook for switch in changes.switches.values() for hook in switch.hooks()],
        **protocol.generation_options,
        stopping_criteria=StoppingCriteriaList([changes]),
    )
    if error is None and not all(bias in generation.acted for bias in changes.first):
        raise HookError(f"A steering never acted: {protocol} lets no forward of the generation be steered.")
    return generation, changes.steps, error


def _by_condition(rows: Sequence[Row]) -> Iterator[tuple[Condition, HeadSet, list[int]]]:
    """The conditions that steer heads, each with its heads and its rows."""
    for key in dict.fromkeys(row.condition.key for row in rows):
        group = [n for n, row in enumerate(rows) if row.condition.key == key]
        condition = rows[group[0]].condition
        if condition.heads is not None:
            yield condition, condition.heads, group


class _TargetChanges(StoppingCriteria):
    """Runs between two forwards: rows whose piece has ended get their next target. It never stops the generation."""

    def __init__(self, model: Model, protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row]) -> None:
        self.model, self.protocol, self.inputs, self.rows = model, protocol, inputs, rows
        self.steps: Steps = [[0] for _ in rows]
        self.groups = list(_by_condition(rows))
        self.switches = {condition.key: SwitchableBias(heads) for condition, heads, _ in self.groups}
        self._steer([condition.key for condition, _, _ in self.groups])
        self.first = [switch.current for switch in self.switches.values()]

    def _steer(self, keys: Collection[Any]) -> None:
        """Steer the rows of some conditions to their present targets."""
        places = [row.steered_to[len(steps) - 1] for row, steps in zip(self.rows, self.steps, strict=True)]
        region = self.inputs.region(places)
        for condition, heads, group in self.groups:
            if condition.key in keys:
                options = {**self.protocol.steering, **condition.steering}
                ((_, bias), *_) = steer(heads, region, rows=group, **options)
                self.switches[condition.key].to(bias)

    def __call__(self, input_ids: Int[Tensor, "row position"], _scores: Any, **_options: Any) -> Bool[Tensor, " row"]:
        written = input_ids.shape[1] - self.inputs.layout.length
        moved = set()
        for row, steps, ids in zip(self.rows, self.steps, input_ids.tolist(), strict=True):
            piece = ids[self.inputs.layout.length + steps[-1] :]
            if len(steps) < len(row.targets) and _ends(self.model, self.protocol, piece, written):
                steps.append(written)
                moved.add(row.condition.key)
        if moved:
            self._steer(moved)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _ends(model: Model, protocol: Protocol, piece: Sequence[int], written: int) -> bool:
    """Whether a piece ends after the tokens `piece`. written: the number of tokens of the text so far."""
    if protocol.every is not None:
        since = written - protocol.delay
        return since > 0 and since % protocol.every == 0
    return (protocol.end or "") in model.processor.decode(piece, skip_special_tokens=True)


def cut(model: Model, protocol: Protocol, text: str, ids: Sequence[int], steps: Sequence[int]) -> Text:
    """Cut a text into the pieces that begin at the steps. The last piece stops at its own end, or that of the text."""
    last = range(steps[-1] + 1, len(ids) + 1)
    ends = (n for n in last if protocol.end and _ends(model, protocol, ids[steps[-1] : n], n))
    bounds = [*steps, next(ends, len(ids))]
    pieces = [model.processor.decode(ids[a:b], skip_special_tokens=True).strip() for a, b in pairwise(bounds)]
    return Text(text, tuple(pieces), tuple(steps))
