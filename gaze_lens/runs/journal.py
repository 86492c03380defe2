"""A file of JSON lines that survives being killed: a header, then one line for everything that was done.

    journal = Journal.open("out/generations.jsonl", header("generations", {"model": ..., "seed": 0}), resume=True)
    journal.lines                      # what had been done before
    journal.append([{...}, {...}])     # on the disk when this returns

Lines are only ever added at the end. What a killed process leaves half written is the last line, which is cut off when
the file is opened again.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.runs.files import write_whole

FORMAT = "gaze_lens {} 1"
Line = dict[str, Any]
Check = Callable[[Path, Line, Line], None]  # (path, its header, that of the run): InputError where they do not agree


def header(kind: str, run: Line | None) -> Line:
    """The first line of a file. kind: of its lines. run: what the run is of, as JSON can hold it; None for any."""
    return {"format": FORMAT.format(kind), "run": run}


def same_run(path: Path, found: Line, expected: Line) -> None:
    """InputError unless a file's header is the expected one; an expected run of None is any."""
    if found.get("format") != expected["format"]:
        kind = expected["format"].split()[1]
        raise InputError(f"{path} holds no {kind}: expected a file whose first line has format {expected['format']!r}.")
    ours, theirs = expected["run"], found["run"]
    if ours is not None and theirs != ours:
        changed = sorted(name for name in {*ours, *theirs} if theirs.get(name) != ours.get(name))
        raise InputError(f"{path} holds a run with other {', '.join(changed)}; choose another folder.")


@dataclass(eq=False)
class Journal:
    """Lines on disk, or nowhere where `path` is None. lines: those that were there when it was opened."""

    path: Path | None
    lines: list[Line] = field(default_factory=list, repr=False)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, header: Line, *, check: Check = same_run, resume: bool = False
    ) -> "Journal":
        """Begin a file, or go on with one of the same run.

        header: what the run is of, as JSON can hold it. check: whether the header of a file that is there agrees.
        Raises InputError where the file is of another run, or there already and not to be resumed.
        """
        if path is None:
            return cls(None)
        path, header = Path(path), json.loads(json.dumps(header))
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _begun(path, header):
            path.write_bytes(b"")
            _append(path, [header])
            return cls(path)
        _, lines = _read(path, header, check)
        if not resume:
            raise InputError(f"{path} is there already; resume it (resume=True, --resume), or choose another.")
        _cut_torn_line(path)
        return cls(path, lines)

    def append(self, lines: Sequence[Line]) -> list[Line]:
        """Add lines, and return them as they will be read; when this returns they are on the disk."""
        lines = [json.loads(json.dumps(line)) for line in lines]
        if lines and self.path is not None:
            _append(self.path, lines)
        return lines


def read(path: str | os.PathLike[str], *, kind: str, run: Line | None = None) -> tuple[Line, list[Line]]:
    """The run and the lines of a file, as far as they are whole.

    run: the run that is expected. Raises InputError for a file of another run or kind, or that cannot be read.
    """
    found, lines = _read(Path(path), header(kind, run), same_run)
    return found["run"], lines


def write(path: str | os.PathLike[str], run: Line, lines: Sequence[Line], *, kind: str) -> None:
    """Write a whole file at once, in place of one that may be there."""
    write_whole(path, b"".join(map(_bytes, [header(kind, run), *lines])))


def _bytes(line: Line) -> bytes:
    return (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _append(path: Path, lines: Sequence[Line]) -> None:
    """Write whole lines in one go."""
    with path.open("ab") as file:
        file.write(b"".join(map(_bytes, lines)))
        file.flush()
        os.fsync(file.fileno())


def _begun(path: Path, header: Line) -> bool:
    """Whether there is a file with more in it than the beginning of this header."""
    return path.exists() and not _bytes(header)[:-1].startswith(path.read_bytes())


def _cut_torn_line(path: Path) -> None:
    """Cut off what follows the last end of a line: a line that was being written when its process was killed."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _read(path: Path, header: Line, check: Check) -> tuple[Line, list[Line]]:
    """The header, checked before anything else, and the lines behind it."""
    lines = _parsed(path)
    found = next(lines, {})
    check(path, found, header)
    return found, list(lines)


def _parsed(path: Path) -> Iterator[Line]:
    """The whole lines of a file."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): expected the JSON lines of a run.") from error
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            parsed = _object(line)
        except ValueError as error:
            raise InputError(
                f"Line {number} of {path} cannot be read ({error}): expected the JSON lines of a run."
            ) from error
        yield parsed


def _object(line: bytes) -> Line:
    parsed = json.loads(line)
    if not isinstance(parsed, dict):
        raise ValueError("no JSON object")
    return parsed
