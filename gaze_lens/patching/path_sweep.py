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
from gaze_lens.patching.cells import Cell
from gaze_lens.patching.measuring import Measure
from gaze_lens.patching.paths import Paths, paths_between
from gaze_lens.patching.result import PatchResult
from gaze_lens.patching.sweep import Sweep, check_inputs, digests


@torch.no_grad()
def path_patch(
    model: Any,
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
    """Run the corrupted inputs with the direct paths from one sender to all receivers patched, sender after sender.

    senders: heads, each patched on its own; None for every head before the last receiver.
    receivers: heads, patched together; or "logits", the final residual stream.
    into: what of the receivers reads the sender: "q", "k", "v", or several, "kv". Keys and values belong to KV heads:
        a receiver stands for its KV head, and a warning names the query heads that share it.
    positions: where the senders' outputs are patched, and so where they are read, as for `gl.patch`; queries are
        where a head looks from, keys and values where it looks to.
    metric, batch_size, resume: as for `gl.patch`. Layers below the first receiver are not run again.
    The result's layer and head are the sender's. Equal to patching in three runs (Wang et al. 2022, appendix B), with
    one forward for several senders. Raises InputError for a sender that no receiver comes after, and for models whose
    blocks scale or gate the residual stream; otherwise as `gl.patch`.
    """
    measure = Measure.of(metric, check_inputs(model, clean, corrupted, batch_size))
    where = groups(corrupted, positions)
    senders, paths = paths_between(model, clean, corrupted, senders, receivers, into)
    cells = [Cell(*head, group.name) for head in senders for group in where]
    source = PathSource(paths, {group.name: group for group in where})
    sweep = Sweep.prepare(model, clean, corrupted, source, cells, measure)
    run = {"what": str(paths), **digests(clean, corrupted), "positions": {group.name: group.rows for group in where}}
    values = sweep.values(cells, sweep.log(resume, run), batch_size, title="patching paths" if progress else None)
    return sweep.result(str(paths), pd.DataFrame(cells), values)


@dataclass(frozen=True, eq=False)
class PathSource:
    """The paths of a sweep, whose cells are senders at groups of positions."""

    paths: Paths
    where: Mapping[str, Group]

    def taking(self, _model: Any, _cells: Sequence[Cell]) -> AbstractContextManager:
        """Nothing: the paths hold both runs."""
        return nullcontext()

    def giving(self, model: Any, cells: Sequence[Cell]) -> AbstractContextManager:
        """A context in which the corrupted run, with a copy of every row for each cell, has its paths patched."""
        return model.hooks(self.paths.hooks([(HeadSet([cell[:2]]), self.where[cell.positions]) for cell in cells]))

    def starts(self, model: Any, _cell: Cell) -> int:
        """The layer of the first receiver."""
        return min(model.cfg.n_layers - 1, *(reader.layer for reader in self.paths.readers))
