"""Rank heads by what steering each of them does to a metric: blocks first, then the heads of the best blocks.

    effects = gl.rank_by_effect(model, inputs, inputs.region(targets), metric=metric, mass=0.8, resume="effects.jsonl")
    print(effects.table())
    heads = effects.top(10)
    hooks = gl.steer(heads, region, mass=0.8, weights=effects.weights(heads))

A head that looks at a region need not matter for what the model says. Here each block, and then each head, is steered
alone. Rows that took no part in the choice confirm it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from gaze_lens.data.picture_digests import image_digest
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.steering import steer
from gaze_lens.model_protocol import Model
from gaze_lens.patching.cell_log import CellLog
from gaze_lens.patching.head_effects import HeadEffects
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.patching.sweep import Sweep, check_inputs, digests
from gaze_lens.regions.layout import Region
from gaze_lens.regions.segments import Source
from gaze_lens.whole_numbers import is_count

SIZES = (1, 2, 5, 10, 20, 50, 100)  # of sets of the best heads, which are steered together at the end


class SteeredHeads(NamedTuple):
    """A cell: heads that are steered together in one of the batches."""

    batch: int
    heads: str


@torch.no_grad()
def rank_by_effect(
    model: Model,
    inputs: VLMInputs | Sequence[VLMInputs],
    region: Region | Sequence[Region],
    *,
    metric: Any,
    n_blocks: int = 3,
    layers: Sequence[int] | None = None,
    held_out: float = 0.5,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **steering: Any,
) -> HeadEffects:
    """`gl.rank_by_effect(model, inputs, region, metric=metric, mass=0.8)`: what steering does to a metric, by head.

    inputs, region: a batch of prompts, and the region that each row is steered to; or lists of batches and of regions.
    metric: as for `gl.patch`, larger where steering does what it should; for several batches a list with one for each.
    n_blocks: all heads of a layer are steered at once, layer by layer; in so many of the best layers, each head alone.
    layers: those to look at; by default all that see the region.
    held_out: the share of rows, drawn by `seed`, that takes no part in any choice; `table()` tells their effect apart.
    resume: a file of JSON lines that gets one for each measurement; the same command goes on where it stopped.
    steering: as for `gl.steer`: mass=, at_least=, mode=, where=, ...
    At the end the best 1, 2, 5, 10, ... heads are steered together. An effect is the metric less that of the unsteered
    run, row by row. Raises InputError for fewer than two rows, and where no steering changed anything.
    """
    cases = _cases(model, inputs, region, metric, steering)
    chosen_on = _selection(sum(case.inputs.n_rows for case in cases), held_out, seed)
    blocks = {layer: _block(model, layer) for layer in _layers(model, cases[0].region, layers)}
    if not is_count(n_blocks) or n_blocks > len(blocks):
        raise InputError(f"n_blocks={n_blocks!r} was given; give 1 to {len(blocks)}, the layers to look at.")
    effects = _Measurements.prepare(model, cases, list(blocks.values()), steering, resume)
    n_heads = model.cfg.n_heads * n_blocks
    total = (len(blocks) + n_heads + sum(size <= n_heads for size in SIZES)) * len(cases)
    with tqdm(total=total, desc="steering heads", unit="run", disable=not progress) as effects.bar:
        by_block = effects.of(list(blocks.values()))
        if not by_block.any():
            raise InputError("No steering of any layer changed the metric: see that it is meant for these prompts.")
        order = by_block[:, chosen_on].mean(-1).argsort(descending=True, stable=True)
        best = sorted([*blocks][index] for index in order[:n_blocks].tolist())
        heads = [HeadSet([head]) for layer in best for head in blocks[layer]]
        by_head = effects.of(heads)
        ranked = by_head[:, chosen_on].mean(-1).argsort(descending=True, stable=True).tolist()
        sets = [HeadSet([heads[i][0] for i in ranked[:size]]) for size in SIZES if size <= len(heads)]
        together = effects.of(sets)
    sources: list[Source] = [picture for case in cases for row in case.inputs.pictures for picture in row]
    sources += [one for case in cases for one in case.inputs.passages if one is not None]
    return HeadEffects(
        values=torch.cat([by_block, by_head, together]), sets=(*blocks.values(), *heads, *sets),
        kinds=("block",) * len(blocks) + ("head",) * len(heads) + ("set",) * len(sets), chosen_on=chosen_on,
        unsteered=effects.unsteered, model=model.cfg.model_name, fingerprint=model.fingerprint, seed=seed,
        images=" ".join(sorted({image_digest(source) for source in sources})),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Case:
    """One batch, and how it is steered: the `Source` of a sweep whose cells are sets of heads."""

    inputs: VLMInputs
    region: Region
    metrics: BatchMetrics
    steering: dict[str, Any]

    def capture(self, _model: Any, _cells: Sequence[Any]) -> AbstractContextManager:
        return nullcontext()

    def patch(self, model: Model, cells: Sequence[SteeredHeads]) -> AbstractContextManager:
        """A layer that cannot see the region, as under a sliding window, has no effect and is no error."""
        (cell,) = cells
        hooks = steer(_heads(cell), self.region, **self.steering)
        edits = {edit: replace(edit, required=False) for _, edit in hooks}  # type: ignore[type-var]
        return model.hooks([(name, edits[edit]) for name, edit in hooks])

    def first_layer(self, _model: Any, cell: SteeredHeads) -> int:
        return min(_heads(cell).by_layer())


@dataclass(eq=False)
class _Measurements:
    """Effects of sets of heads on all rows; those in the log are not measured again."""

    sweeps: list[Sweep]
    log: CellLog
    values: dict[SteeredHeads, Tensor]
    bar: Any = None

    @classmethod
    def prepare(
        cls, model: Model, cases: Sequence[_Case], blocks: Sequence[HeadSet], steering: dict[str, Any], resume: Any
    ) -> "_Measurements":
        """Run every batch unsteered, and open the log."""
        cells = [SteeredHeads(0, str(block)) for block in blocks]
        sweeps = [Sweep.prepare(model, case.inputs, case.inputs, case, cells, case.metrics) for case in cases]
        run = {
            "what": "effects of heads", "model": [model.cfg.model_name, model.fingerprint],
            "inputs": [digests(case.inputs, case.inputs)["clean inputs"] for case in cases],
            "regions": [[case.region.positions, case.region.weights] for case in cases],
            "steering": {name: repr(value) for name, value in sorted(steering.items())},
        }  # fmt: skip
        measured = torch.cat([sweep.baseline for sweep in sweeps], -1)
        log = CellLog.open(resume, _as_json(run), measured, SteeredHeads)
        return cls(sweeps, log, {**log.done})

    @property
    def unsteered(self) -> Float[Tensor, " row"]:
        """The metric of the unsteered runs."""
        return torch.cat([sweep.baseline[0] for sweep in self.sweeps])

    def of(self, sets: Sequence[HeadSet]) -> Float[Tensor, "set row"]:
        """The effects of steering each set of heads."""
        return torch.stack([torch.cat(list(self._of(heads))) for heads in sets]) - self.unsteered

    def _of(self, heads: HeadSet) -> Iterator[Float[Tensor, " row"]]:
        for batch, sweep in enumerate(self.sweeps):
            cell = SteeredHeads(batch, str(heads))
            if cell not in self.values:
                measured = sweep.run([cell])
                self.log.write(measured)
                self.values |= measured
            self.bar.update()
            yield self.values[cell][0]


def _heads(cell: SteeredHeads) -> HeadSet:
    return HeadSet(cell.heads.split(", "))


def _block(model: Model, layer: int) -> HeadSet:
    return HeadSet([Head(layer, head) for head in range(model.cfg.n_heads)])


def _layers(model: Model, region: Region, layers: Sequence[int] | None) -> list[int]:
    """The layers to look at; InputError for none, or some that have no heads that see the region."""
    able = [
        layer.layer for layer in model.capabilities().layers
        if layer.live and (layer.attention == "cross") == region.cross_attention
    ]  # fmt: skip
    chosen = able if layers is None else list(dict.fromkeys(layers))
    if not chosen or not set(chosen) <= set(able):
        raise InputError(f"layers={layers!r} was given; give some of {able}, which have heads that see the region.")
    return chosen


def _cases(model: Model, inputs: Any, region: Any, metric: Any, steering: dict[str, Any]) -> list[_Case]:
    """The batches; InputError where there are not as many regions and metrics."""
    batches = [inputs] if isinstance(inputs, VLMInputs) else list(inputs)
    regions = [region] if isinstance(region, Region) else list(region)
    metrics = list(metric) if isinstance(metric, list | tuple) else [metric]
    if not len(batches) == len(regions) == len(metrics) or not batches:
        raise InputError(
            f"{len(batches)} batches, {len(regions)} regions and {len(metrics)} metrics were given; give one of each "
            "for every batch."
        )
    cases = []
    for batch, own, function in zip(batches, regions, metrics, strict=True):
        checked = BatchMetrics.of(function, check_inputs(model, batch, batch, 1))
        if checked.named:
            raise InputError("metric= has several metrics by name; heads are ranked by one function.")
        own.check(batch.layout)
        cases.append(_Case(batch, own, checked, steering))
    return cases


def _selection(n_rows: int, held_out: Any, seed: int) -> Bool[Tensor, " row"]:
    """Which rows heads are chosen on; InputError where there are none, or none are left."""
    if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 < held_out < 1 or n_rows < 2:
        raise InputError(
            f"held_out={held_out!r} was given for {n_rows} rows; give a share between 0 and 1, and two rows or more: "
            "heads that are chosen on all rows are confirmed by none."
        )
    n_held = min(max(1, round(held_out * n_rows)), n_rows - 1)
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    chosen = torch.ones(n_rows, dtype=torch.bool)
    chosen[order[:n_held]] = False
    return chosen


def _as_json(value: Any) -> Any:
    """Tuples as the lists that they are in JSON, so that headers compare equal."""
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value
