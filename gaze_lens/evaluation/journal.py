"""A file of JSON lines that survives being killed: a header, then one line for everything that was done.

    journal = Journal.open("out/generations.jsonl", {"model": ..., "seed": 0}, kind="generations", resume=True)
    journal.lines                      # what had been done before
    journal.append([{...}, {...}])     # on the disk when this returns

Lines are only ever added at the end. What a killed process leaves half written is the last line, which is cut off when
the file is opened again.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.heads import write_whole

FORMAT = "gaze_lens {} 1"
Line = dict[str, Any]


@dataclass(eq=False)
class Journal:
    """Lines on disk, or in memory where `path` is None.

    header: {"format": ..., "run": what the run is of}. lines: those that were there when it was opened.
    """

    path: Path | None
    header: Line
    lines: list[Line] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, path: str | Path | None, run: Line, *, kind: str, resume: bool = False) -> "Journal":
        """Begin a file, or go on with one of the same run.

        run: what is to be run, as JSON can hold it; a file that was begun for another is refused.
        Raises InputError where the file is of another run, or there already and not to be resumed.
        """
        header = json.loads(json.dumps({"format": FORMAT.format(kind), "run": run}))
        journal = cls(None if path is None else Path(path), header)
        if journal.path is None:
            return journal
        journal.path.parent.mkdir(parents=True, exist_ok=True)
        if _begun(journal.path, header):
            _, journal.lines = read(journal.path, kind=kind, run=header["run"])
            if not resume:
                raise InputError(f"{path} is there already; resume it (resume=True, --resume), or choose another.")
            _cut_torn_line(journal.path)
        else:
            journal.path.write_bytes(b"")
            journal._write([header])
        return journal

    def append(self, lines: Sequence[Line]) -> list[Line]:
        """Add lines, and return them as they will be read; when this returns they are on the disk."""
        lines = [json.loads(json.dumps(line)) for line in lines]
        if lines:
            self._write(lines)
        return lines

    def _write(self, lines: Sequence[Line]) -> None:
        if self.path is None:
            return
        with self.path.open("ab") as file:
            file.write(b"".join(map(_bytes, lines)))
            file.flush()
            os.fsync(file.fileno())


def _bytes(line: Line) -> bytes:
    return (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write(path: str | Path, run: Line, lines: Sequence[Line], *, kind: str) -> None:
    """Write a whole file at once, in place of one that may be there."""
    write_whole(path, b"".join(map(_bytes, [{"format": FORMAT.format(kind), "run": run}, *lines])))


def _begun(path: Path, header: Line) -> bool:
    """Whether there is a file with more in it than the beginning of this header."""
    return path.exists() and not _bytes(header)[:-1].startswith(path.read_bytes())


def _cut_torn_line(path: Path) -> None:
    """Cut off what follows the last end of a line: a line that was being written when its process was killed."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def read(path: str | Path, *, kind: str, run: Line | None = None) -> tuple[Line, list[Line]]:
    """The run and the lines of a file, as far as they are whole.

    run: the run that is expected. Raises InputError for a file of another run or kind, or that cannot be read.
    """
    path = Path(path)
    try:
        whole, newline, _ = path.read_bytes().rpartition(b"\n")
        lines = [json.loads(line) for line in whole.split(b"\n")] if newline else [{}]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): expected the JSON lines of a run of gl.evaluate."
        ) from error
    header, rest = lines[0], lines[1:]
    if not isinstance(header, dict) or header.get("format") != FORMAT.format(kind):
        raise InputError(
            f"{path} holds no {kind}: expected a file whose first line has format {FORMAT.format(kind)!r}."
        )
    if run is not None and header["run"] != run:
        changed = sorted(name for name in {*run, *header["run"]} if header["run"].get(name) != run.get(name))
        raise InputError(f"{path} holds a run with other {', '.join(changed)}; choose another folder.")
    return header["run"], rest
