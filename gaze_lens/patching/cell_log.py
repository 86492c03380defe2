"""The file of an interrupted sweep: a line that says which sweep it is, then a line for each cell that is done.

log = CellLog.open("sweep.jsonl", run)      # run: whatever tells this sweep from others, as JSON
log.done                                    # Cell -> values
log.write({cell: values})

A process that is killed leaves whole lines, or part of a last one, which the next one takes away.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.patching.cells import Cell

FORMAT = "gaze_lens patch 1"
Values = Float[Tensor, "metric batch"]


@dataclass(frozen=True, eq=False)
class CellLog:
    """path: None keeps nothing. done: the cells that the file had, with their values."""

    path: Path | None
    done: dict[Cell, Values]

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None, run: Mapping[str, Any], measured: Values) -> "CellLog":
        """Read what was done of this run, or begin a file.

        run: what tells it from other runs. measured: the metrics of its unpatched runs, as another model or metric of
            the same names would have others; they may differ by rounding.
        Raises InputError for the file of another run, and for one that no run wrote.
        """
        if path is None:
            return cls(None, {})
        path = Path(path)
        head = json.loads(json.dumps({"format": FORMAT, **run, "measured": measured.tolist()}))
        lines = _whole_lines(path, head)
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, [head])
            return cls(path, {})
        _check_head(path, lines[0], head)
        return cls(path, dict(_read(path, number, line) for number, line in enumerate(lines[1:], start=2)))

    def write(self, cells: Mapping[Cell, Values]) -> None:
        """Add cells, at once."""
        if self.path is not None:
            _append(self.path, [{**cell._asdict(), "values": values.tolist()} for cell, values in cells.items()])


def _append(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write whole lines in one go."""
    lines = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries).encode()
    with path.open("ab", buffering=0) as file:
        file.write(lines)


def _whole_lines(path: Path, head: Mapping[str, Any]) -> list[bytes]:
    """The lines of a file, without a last one that was cut off, which is taken out of the file, too."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content) and (whole or json.dumps(head).encode().startswith(content)):
        if whole:
            _check_head(path, whole.splitlines()[0], head)  # nobody else's file is cut
        os.truncate(path, len(whole))
    elif not whole and content:
        raise InputError(f"{path} holds no patching sweep; give another file to resume=, or a new one.")
    return whole.splitlines()


def _check_head(path: Path, line: bytes, head: Mapping[str, Any]) -> None:
    """InputError unless a first line is that of the run, up to rounding."""
    found = _parsed(path, 1, line)
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


def _read(path: Path, number: int, line: bytes) -> tuple[Cell, Values]:
    entry = _parsed(path, number, line)
    try:
        return Cell(entry["layer"], entry["head"], entry["positions"]), torch.tensor(entry["values"])
    except KeyError as error:
        raise InputError(
            f"Line {number} of {path} has no {error}; delete the line, and its cell is run again."
        ) from error


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"Line {number} of {path} cannot be read ({error}); was it written by gl.patch?") from error
    if not isinstance(entry, dict):
        raise InputError(f"Line {number} of {path} is no entry of a patching sweep; was it written by gl.patch?")
    return entry
