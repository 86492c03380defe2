"""The file of a sweep that can be resumed: a line that says which sweep it is, then a line for each finished cell.

log = CellLog.open("sweep.jsonl", run, measured)      # run: what distinguishes this sweep from others, as JSON
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
    """done: the cells that were in the file when it was opened, with their values."""

    journal: Journal
    done: dict[Any, Values] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, run: Mapping[str, Any], measured: Values, kind: type = Cell
    ) -> "CellLog":
        """Read the finished cells of this run, or begin a file. With a path of None nothing is written.

        run: what distinguishes it from other runs. measured: the metrics of its unpatched runs, by which another model
            or metric of the same name is noticed; they may differ by rounding. kind: the named tuple that cells are.
        Raises InputError for the file of another run, and for a file that no sweep wrote.
        """
        header = {"format": FORMAT, **run, "measured": measured.tolist()}
        journal = Journal.open(path, header, check=_same_sweep, resume=True)
        numbered = enumerate(journal.lines, start=2)
        return cls(journal, dict(_read(journal.path, number, line, kind) for number, line in numbered))

    def write(self, cells: Mapping[Any, Values]) -> None:
        """Add cells; they are on the disk when this returns."""
        self.journal.append([{**cell._asdict(), "values": values.tolist()} for cell, values in cells.items()])


def _same_sweep(path: Path, header: Line, expected: Line) -> None:
    """Raises InputError unless the header of a file is the expected one, up to rounding."""
    if header.get("format") != FORMAT:
        raise InputError(f"{path} holds no patching sweep; give another file to resume=, or a new one.")
    different = [key for key in expected if key != "measured" and header.get(key) != expected[key]]
    if not different:
        try:
            before, now = (torch.tensor(entry["measured"]) for entry in (header, expected))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} has a damaged first line ({error}); give a new file to resume=.") from error
        different = (
            []
            if before.shape == now.shape and torch.allclose(before, now, rtol=1e-3, atol=1e-4)
            else ["values of the metric"]
        )
    if different:
        raise InputError(
            f"{path} belongs to another run; its {', '.join(different)} differ. The same command goes on where it "
            "stopped; for another one give another file to resume=."
        )


def _read(path: Path | None, number: int, line: Line, kind: Any) -> tuple[Any, Values]:
    """The cell and the values of a line."""
    try:
        return kind(*(line[name] for name in kind._fields)), torch.tensor(line["values"])
    except KeyError as error:
        raise InputError(
            f"Line {number} of {path} has no {error}; delete the line, and its cell is run again."
        ) from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Line {number} of {path} has damaged values ({error}); delete the line, and its cell is run again."
        ) from error
