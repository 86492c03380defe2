"""Answers about one picture: conditions and targets as rows of one batch, each steered in its own way.

inputs = model.encode(model.prepare([picture] * len(rows), [row.prompt for row in rows]))
for row, answer in zip(rows, answers(model, protocol, inputs, rows)): ...
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from gaze_lens.attention.switchable_bias import Wheel
from gaze_lens.errors import HookError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.steering import steer
from gaze_lens.model.generation import Generation

Steps = list[list[int]]  # for each row, the steps at which its targets begin


@dataclass(frozen=True)
class Row:
    """One answer to be made.

    targets: the regions that it should be about, in turn. aims: what it is steered to, in turn: the targets, or shapes.
    """

    condition: Condition
    targets: tuple[str, ...]
    prompt: str
    aims: tuple[Any, ...]


@dataclass(frozen=True)
class Text:
    """A text, its pieces, one for each target whose turn came, and the steps (tokens, from 0) at which they begin."""

    text: str
    pieces: tuple[str, ...]
    steps: tuple[int, ...]


def answers(model: Any, protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row]) -> list[Text]:
    """The answers of a batch, one for each row, as each would be alone."""
    if protocol.moves:
        generation, steps = narrate(model, protocol, inputs, rows)
        ids = generation.tokens.tolist()
        return [cut(model, protocol, text, ids[n], steps[n]) for n, text in enumerate(generation.texts)]
    region = inputs.region([row.aims[0] for row in rows])
    hooks = []
    for condition, group in _by_condition(rows):
        hooks += steer(condition.heads, region, mode=condition.mode, where=protocol.where, rows=group)
    generation = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=protocol.max_new_tokens)
    return [Text(text, (text,), (0,)) for text in generation.texts]


def narrate(model: Any, protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row]) -> tuple[Generation, Steps]:
    """One generation during which the rows' targets move on, and for each row the steps at which they did."""
    turns = _Turns(model, protocol, inputs, rows)
    generation = model.generate(
        inputs,
        fwd_hooks=[hook for wheel in turns.wheels.values() for hook in wheel.hooks()],
        max_new_tokens=protocol.max_new_tokens,
        stopping_criteria=StoppingCriteriaList([turns]),
    )
    if not all(bias.acted for bias in turns.first):
        raise HookError(f"A steering never acted: {protocol} lets no forward of the generation be steered.")
    return generation, turns.steps


def _by_condition(rows: Sequence[Row]) -> Iterator[tuple[Condition, list[int]]]:
    """The conditions that steer, each with its rows."""
    for key in dict.fromkeys(row.condition.key for row in rows):
        group = [n for n, row in enumerate(rows) if row.condition.key == key]
        if rows[group[0]].condition.heads is not None:
            yield rows[group[0]].condition, group


class _Turns(StoppingCriteria):
    """Called between two forwards; moves the targets of those rows on whose turn has ended, and never stops."""

    def __init__(self, model: Any, protocol: Protocol, inputs: VLMInputs, rows: Sequence[Row]) -> None:
        self.model, self.protocol, self.inputs, self.rows = model, protocol, inputs, rows
        self.steps: Steps = [[0] for _ in rows]
        self.groups = list(_by_condition(rows))
        self.wheels = {condition.key: Wheel.of(condition.heads) for condition, _ in self.groups}
        self._aim([condition.key for condition, _ in self.groups])
        self.first = [bias for wheel in self.wheels.values() for bias in wheel.held]

    def _aim(self, keys: Collection[Any]) -> None:
        """Turn the wheels of some conditions to where their rows are now."""
        turns = [row.aims[len(steps) - 1] for row, steps in zip(self.rows, self.steps, strict=True)]
        region = self.inputs.region(turns)
        for condition, group in self.groups:
            if condition.key in keys:
                options = {"mode": condition.mode, "where": self.protocol.where, "rows": group}
                ((_, bias), *_) = steer(condition.heads, region, **options)
                self.wheels[condition.key].turn(bias)

    def __call__(self, input_ids: Int[Tensor, "row position"], _scores: Any, **_options: Any) -> Bool[Tensor, " row"]:
        written = input_ids.shape[1] - self.inputs.layout.length
        moved = set()
        for row, steps, ids in zip(self.rows, self.steps, input_ids.tolist(), strict=True):
            said = ids[self.inputs.layout.length + steps[-1] :]
            if len(steps) < len(row.targets) and _ends(self.model, self.protocol, said, written):
                steps.append(written)
                moved.add(row.condition.key)
        if moved:
            self._aim(moved)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _ends(model: Any, protocol: Protocol, said: Sequence[int], written: int) -> bool:
    """Whether a turn ends behind the tokens said in it, of a text that has `written` tokens by then."""
    if protocol.every is not None:
        return written % protocol.every == 0
    return (protocol.end or "") in model.processor.decode(said, skip_special_tokens=True)


def cut(model: Any, protocol: Protocol, text: str, ids: Sequence[int], steps: Sequence[int]) -> Text:
    """The pieces that begin at the steps; the last one runs to its own end, or that of the text."""
    last = range(steps[-1] + 1, len(ids) + 1)
    ends = (n for n in last if protocol.end and _ends(model, protocol, ids[steps[-1] : n], n))
    bounds = [*steps, next(ends, len(ids))]
    pieces = [model.processor.decode(ids[a:b], skip_special_tokens=True).strip() for a, b in pairwise(bounds)]
    return Text(text, tuple(pieces), tuple(steps))
