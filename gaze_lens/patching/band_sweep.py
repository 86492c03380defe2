"""Sweep a direction over bands of layers, to see in which layers it acts.

result = gl.sweep_bands(model, inputs, direction, bands=3, metric=metric)
print(result.table())
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.position_groups import Group, group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.direction import Direction
from gaze_lens.model_protocol import Model
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.patching.result import PatchResult
from gaze_lens.patching.sweep import Sweep, check_inputs, digests
from gaze_lens.runs.digests import digest


class Band(NamedTuple):
    """Layers `start <= layer < stop`."""

    start: int
    stop: int


@torch.no_grad()
def sweep_bands(
    model: Model,
    inputs: VLMInputs,
    direction: Direction,
    *,
    bands: int | Sequence[range],
    metric: Any,
    scale: float = 1.0,
    positions: Any = None,
    towards: VLMInputs | None = None,
    batch_size: int = 16,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PatchResult:
    """Add a direction in one band of layers at a time, and measure the metric.

    bands: a width, for all bands of so many neighbouring layers of the direction; or a list of ranges of layers.
    positions: of the prompt, as for `gl.patching.group`; by default all. scale: as for `Direction.hooks`.
    towards: inputs whose metric would be the full effect: the result's `recovery` is relative to it, and NaN without.
    metric, batch_size: as for `gl.patch`.
    resume: a file, "bands.jsonl", that gets a line for each band; the same command goes on where it stopped.
    The result's columns are start and stop (excluded); its baseline is the metric of `inputs`.
    """
    goal = inputs if towards is None else towards
    metrics = BatchMetrics.of(metric, check_inputs(model, goal, inputs, batch_size))
    where = None if positions is None else group(inputs, positions)
    cells = _bands(direction, bands)
    source = _BandEdits(direction, scale, where)
    sweep = Sweep.prepare(model, goal, inputs, source, cells, metrics)
    log = sweep.log(resume, {"what": "a direction", **digests(goal, inputs), **source.about()}, Band)
    values = sweep.values(cells, log, batch_size, title="adding a direction" if progress else None)
    result = sweep.result("a direction", pd.DataFrame(cells), values)
    return result if towards is not None else replace(result, clean=torch.full_like(result.clean, torch.nan))


def _bands(direction: Direction, bands: int | Sequence[range]) -> list[Band]:
    ranges = [range(layer, layer + bands) for layer in direction.layers] if isinstance(bands, int) else list(bands)
    if isinstance(bands, int):
        ranges = [band for band in ranges if set(band) <= set(direction.layers)]
    cells = [Band(band.start, band.stop) for band in ranges if len(band)]
    if not cells or len(set(cells)) < len(ranges):
        raise InputError(
            f"bands={bands!r} was given for a direction in the layers {list(direction.layers)}; give a width of 1 to "
            f"{len(direction.layers)}, or different ranges with a layer in each, such as [range(2, 4), range(4, 6)]."
        )
    return cells


@dataclass(frozen=True, eq=False)
class _BandEdits:
    """The `Source` of a sweep over bands."""

    direction: Direction
    scale: float
    where: Group | None

    def capture(self, _model: Any, _cells: Sequence[Band]) -> AbstractContextManager:
        return nullcontext()

    def patch(self, model: Model, cells: Sequence[Band]) -> AbstractContextManager:
        return model.hooks(
            [
                (name, partial(on_copy, add=add, copy=copy, n_copies=len(cells)))
                for copy, band in enumerate(cells)
                for name, add in self.direction.hooks(range(*band), scale=self.scale, positions=self.where)
            ]
        )

    def first_layer(self, _model: Any, cell: Band) -> int:
        return cell.start

    def about(self) -> dict[str, Any]:
        """What distinguishes these edits from others, for the log."""
        vectors = self.direction.vectors.float().cpu().contiguous().numpy().tobytes()
        positions = None if self.where is None else self.where.rows
        return {"direction": digest(repr(self.direction.layers), vectors), "scale": self.scale, "positions": positions}


def on_copy(stream: Tensor, hook: Any, *, add: Any, copy: int, n_copies: int) -> Tensor:
    """The hook function: add the direction to one copy of every row. The copies of a row lie side by side."""
    edited = stream.clone()
    edited[copy::n_copies] = add(stream[copy::n_copies], hook)
    return edited
