"""The file of a run that can be resumed: JSON lines, a header first, then one line for each finished piece of work.

    journal = Journal.open("out/generations.jsonl", header("generations", {"model": ..., "seed": 0}), resume=True)
    journal.lines                      # what was finished before
    journal.append([{...}, {...}])     # on the disk when this returns

Lines are only added at the end. A process that is killed while it writes leaves an incomplete last line, which is cut
off when the file is opened again.
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
Check = Callable[[Path, Line, Line], None]  # (path, its header, the expected one): InputError where they differ


def header(kind: str, run: Line | None) -> Line:
    """The first line of a file. kind: what its lines are. run: the settings of the run, as JSON; None for any run."""
    return {"format": FORMAT.format(kind), "run": run}


def same_run(path: Path, actual: Line, expected: Line) -> None:
    """Raises InputError unless the header of a file is the expected one; an expected run of None is any run."""
    if actual.get("format") != expected["format"]:
        kind = expected["format"].split()[1]
        raise InputError(f"{path} holds no {kind}: expected a file whose first line has format {expected['format']!r}.")
    run, expected_run = actual["run"], expected["run"]
    if expected_run is not None and run != expected_run:
        changed = sorted(name for name in {*run, *expected_run} if run.get(name) != expected_run.get(name))
        raise InputError(f"{path} holds a run with other {', '.join(changed)}; choose another folder.")


@dataclass(eq=False)
class Journal:
    """Lines on disk; with a path of None nothing is written. lines: those that the file had when it was opened."""

    path: Path | None
    lines: list[Line] = field(default_factory=list, repr=False)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, header: Line, *, check: Check = same_run, resume: bool = False
    ) -> "Journal":
        """Begin a file, or resume one of the same run.

        header: the settings of the run, as JSON. check: compares the header of an existing file with it.
        Raises InputError for a file of another run, and for an existing file if `resume` is False.
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
        """Add lines, and return them as they will be read. They are on the disk when this returns."""
        lines = [json.loads(json.dumps(line)) for line in lines]
        if lines and self.path is not None:
            _append(self.path, lines)
        return lines


def read(path: str | os.PathLike[str], *, kind: str, run: Line | None = None) -> tuple[Line, list[Line]]:
    """The run and the complete lines of a file.

    run: the expected run. Raises InputError for a file of another run or kind, and for one that cannot be read.
    """
    first, lines = _read(Path(path), header(kind, run), same_run)
    return first["run"], lines


def write(path: str | os.PathLike[str], run: Line, lines: Sequence[Line], *, kind: str) -> None:
    """Write a whole file at once; it replaces an existing one."""
    write_whole(path, b"".join(map(_bytes, [header(kind, run), *lines])))


def _bytes(line: Line) -> bytes:
    return (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _append(path: Path, lines: Sequence[Line]) -> None:
    """Write complete lines at once."""
    with path.open("ab") as file:
        file.write(b"".join(map(_bytes, lines)))
        file.flush()
        os.fsync(file.fileno())


def _begun(path: Path, header: Line) -> bool:
    """Whether there is a file that holds more than a part of this header."""
    return path.exists() and not _bytes(header)[:-1].startswith(path.read_bytes())


def _cut_torn_line(path: Path) -> None:
    """Cut off an incomplete last line, which a process was writing when it was killed."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _read(path: Path, header: Line, check: Check) -> tuple[Line, list[Line]]:
    """The header, which is checked before the other lines are parsed, and these lines."""
    lines = _parsed(path)
    first = next(lines, {})
    check(path, first, header)
    return first, list(lines)


def _parsed(path: Path) -> Iterator[Line]:
    """The complete lines of a file."""
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
