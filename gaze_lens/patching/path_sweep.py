"""Path patching of one sender after another: `gl.path_patch`.

result = gl.path_patch(model, clean, corrupted, None, gaze_heads, into="q", positions="last", metric=metric)
print(result.table()); senders = result.top(5)
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.position_groups import Group, groups
from gaze_lens.model_protocol import Model
from gaze_lens.patching.cells import Cell
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.patching.paths import Paths, paths_between
from gaze_lens.patching.result import PatchResult
from gaze_lens.patching.sweep import Sweep, check_inputs, digests


@torch.no_grad()
def path_patch(
    model: Model,
    clean: Any,
    corrupted: Any,
    senders: HeadSet | Sequence[Any] | None,
    receivers: HeadSet | Sequence[Any] | str,
    *,
    into: str | Sequence[str] = "q",
    positions: Any = "every",
    metric: Any,
    batch_size: int = 16,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PatchResult:
    """Patch the direct paths from one sender at a time to all receivers, in a run of the corrupted inputs.

    senders: heads, each patched on its own; None for every head before the last receiver.
    receivers: heads, patched together; or "logits", the final residual stream.
    into: the receivers' input that is patched: "q", "k", "v", or several of them, such as "kv". Keys and values belong
        to KV heads: a receiver stands for its KV head, and a warning names the query heads that share it.
    positions: where the senders' outputs are patched, as for `gl.patch`. Into queries these are the positions that a
        receiver looks from, into keys and values those that it looks to.
    metric, batch_size, resume: as for `gl.patch`. Layers below the first receiver are not run again.
    In the result, layer and head are the sender's. The values are those of patching in three runs (Wang et al. 2022,
    appendix B), with one forward for several senders.
    Raises InputError for a sender without a receiver after it, and for models whose blocks scale or gate the residual
    stream; otherwise as `gl.patch`.
    """
    metrics = BatchMetrics.of(metric, check_inputs(model, clean, corrupted, batch_size))
    where = groups(corrupted, positions)
    senders, paths = paths_between(model, clean, corrupted, senders, receivers, into)
    cells = [Cell(*head, group.name) for head in senders for group in where]
    source = PathSource(paths, {group.name: group for group in where})
    sweep = Sweep.prepare(model, clean, corrupted, source, cells, metrics)
    run = {"what": str(paths), **digests(clean, corrupted), "positions": {group.name: group.rows for group in where}}
    values = sweep.values(cells, sweep.log(resume, run), batch_size, title="patching paths" if progress else None)
    return sweep.result(str(paths), pd.DataFrame(cells), values)


@dataclass(frozen=True, eq=False)
class PathSource:
    """The `Source` of a sweep over paths; a cell is a sender at a group of positions."""

    paths: Paths
    where: Mapping[str, Group]

    def capture(self, _model: Any, _cells: Sequence[Cell]) -> AbstractContextManager:
        """A context that does nothing: the paths hold both runs."""
        return nullcontext()

    def patch(self, model: Model, cells: Sequence[Cell]) -> AbstractContextManager:
        """A context: a run of the corrupted inputs inside, with a copy of every row for each cell, is patched."""
        return model.hooks(self.paths.hooks([(HeadSet([cell[:2]]), self.where[cell.positions]) for cell in cells]))

    def first_layer(self, model: Model, _cell: Cell) -> int:
        """The layer of the first receiver."""
        return min(model.cfg.n_layers - 1, *(reader.layer for reader in self.paths.readers))
