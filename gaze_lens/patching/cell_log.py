"""The file of an interrupted sweep: a line that says which sweep it is, then a line for each cell that is done.

log = CellLog.open("sweep.jsonl", run, measured)      # run: whatever tells this sweep from others, as JSON
log.done                                              # cell -> values
log.write({cell: values})
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.patching.cells import Cell
from gaze_lens.runs.journal import Journal, Line

FORMAT = "gaze_lens patch 1"
Values = Float[Tensor, "metric batch"]


@dataclass(frozen=True, eq=False)
class CellLog:
    """done: the cells that the file had, with their values."""

    journal: Journal
    done: dict[Any, Values] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, run: Mapping[str, Any], measured: Values, kind: type = Cell
    ) -> "CellLog":
        """Read what was done of this run, or begin a file; a path of None keeps nothing.

        run: what tells it from other runs. measured: the metrics of its unpatched runs, as another model or metric of
            the same names would have others; they may differ by rounding. kind: of the cells, a named tuple.
        Raises InputError for the file of another run, and for one that no run wrote.
        """
        head = {"format": FORMAT, **run, "measured": measured.tolist()}
        journal = Journal.open(path, head, check=_same_sweep, resume=True)
        return cls(
            journal, dict(_read(journal.path, number, line, kind) for number, line in enumerate(journal.lines, start=2))
        )

    def write(self, cells: Mapping[Any, Values]) -> None:
        """Add cells, at once."""
        self.journal.append([{**cell._asdict(), "values": values.tolist()} for cell, values in cells.items()])


def _same_sweep(path: Path, found: Line, head: Line) -> None:
    """InputError unless a file's header is that of the sweep, up to rounding."""
    if found.get("format") != FORMAT:
        raise InputError(f"{path} holds no patching sweep; give another file to resume=, or a new one.")
    different = [key for key in head if key != "measured" and found.get(key) != head[key]]
    if not different:
        theirs, ours = (torch.tensor(entry["measured"]) for entry in (found, head))
        different = [] if torch.allclose(theirs, ours, rtol=1e-3, atol=1e-4) else ["values of the metric"]
    if different:
        raise InputError(
            f"{path} belongs to another run; its {', '.join(different)} differ. The same command goes on where it "
            "stopped; for another one give another file to resume=."
        )


def _read(path: Path | None, number: int, line: Line, kind: type) -> tuple[Any, Values]:
    """A line's cell and values."""
    try:
        return kind(*(line[name] for name in kind._fields)), torch.tensor(line["values"])
    except KeyError as error:
        raise InputError(
            f"Line {number} of {path} has no {error}; delete the line, and its cell is run again."
        ) from error
