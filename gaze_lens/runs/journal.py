"""The file of a run that can be resumed: JSON lines, a header first, then one line for each finished piece of work.

    journal = Journal.open("out/generations.jsonl", header("generations", {"model": ..., "seed": 0}), resume=True)
    journal.lines                      # what was finished before
    journal.append([{...}, {...}])     # on the disk when this returns

Lines are only added at the end. A process that is killed while it writes leaves an incomplete last line, which is cut
off when the file is opened again. A file that vanishes, or that something else changes, is an error at the next line.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.runs.files import write_whole, writing
from gaze_lens.runs.shards import Shard, str_of

FORMAT = "gaze_lens {} 1"
Line = dict[str, Any]
Check = Callable[[Path, Line, Line], None]  # (path, its header, the expected one): InputError where they differ


def header(kind: str, run: Line | None, *, shard: Shard | None = None) -> Line:
    """The first line of a file.

    kind: what its lines are. run: the settings of the run, as JSON; None for any run. shard: the part of the run that
    the file has; None for any.
    """
    part = {} if shard is None else {"shard": str_of(shard)}
    return {"format": FORMAT.format(kind), **part, "run": run}


def refuse_changes(path: Path, changed: Collection[str]) -> None:
    """Raises InputError, with the names of the settings, where a run has others than the one in a file."""
    if changed:
        date = " The chat template writes another prompt than it did then; some write today's date."
        hint = date if "rendered_prompt" in changed else ""
        raise InputError(f"{path} holds a run with other {', '.join(sorted(changed))}; choose another folder.{hint}")


def same_run(path: Path, actual: Line, expected: Line) -> None:
    """Raises InputError unless the header of a file is the expected one; an expected run of None is any run.

    A header without a shard is of any shard: version 0.1 did not write it.
    """
    if actual.get("format") != expected["format"]:
        kind = expected["format"].split()[1]
        raise InputError(f"{path} holds no {kind}: expected a file whose first line has format {expected['format']!r}.")
    if "shard" in actual and "shard" in expected and actual["shard"] != expected["shard"]:
        raise InputError(
            f"{path} holds shard {actual['shard']} of a run, expected {expected['shard']}: it was copied or renamed. "
            "Give each shard a file of its own, or choose another folder."
        )
    run, expected_run = actual.get("run"), expected["run"]
    if not isinstance(run, dict):
        raise InputError(f"{path} has no settings of a run in its first line: expected what gaze_lens wrote there.")
    if expected_run is not None and run != expected_run:
        refuse_changes(path, {name for name in {*run, *expected_run} if run.get(name) != expected_run.get(name)})


@dataclass(eq=False)
class Journal:
    """Lines on disk; with a path of None nothing is written. lines: those that the file had when it was opened.

    header: that of the file. It may differ from the one that was asked for, as far as `check` lets it.
    """

    path: Path | None
    lines: list[Line] = field(default_factory=list, repr=False)
    header: Line = field(default_factory=dict, repr=False)
    _size: int = field(default=0, repr=False)  # of the file, in bytes, after the last line

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None, header: Line, *, check: Check = same_run, resume: bool = False
    ) -> "Journal":
        """Begin a file, or resume one of the same run.

        header: the settings of the run, as JSON. check: compares the header of an existing file with it.
        Raises InputError for a file of another run, and for an existing file if `resume` is False.
        """
        header = json.loads(json.dumps(header))
        if path is None:
            return cls(None, header=header)
        path = Path(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = _begun(path, header)
            if not begun:
                path.write_bytes(b"")
        if not begun:
            journal = cls(path, header=header)
            journal.append([header])
            return journal
        actual, lines = _read(path, header, check)
        if not resume:
            raise InputError(f"{path} is there already; resume it (resume=True, --resume), or choose another.")
        return cls(path, lines, actual, _cut_torn_line(path))

    def append(self, lines: Sequence[Line]) -> list[Line]:
        """Add lines, and return them as they will be read. They are on the disk when this returns.

        Raises InputError if the file has vanished, or has lines that are not from here.
        """
        lines = [json.loads(json.dumps(line)) for line in lines]
        if lines and self.path is not None:
            with writing(self.path):
                self._size = _append(self.path, lines, self._size)
        return lines


def read(
    path: str | os.PathLike[str], *, kind: str, run: Line | None = None, shard: Shard | None = None
) -> tuple[Line, list[Line]]:
    """The run and the complete lines of a file.

    run, shard: those expected. Raises InputError for a file of another run, shard or kind, and for one that cannot be
    read.
    """
    first, lines = _read(Path(path), header(kind, run, shard=shard), same_run)
    return first["run"], lines


def write(path: str | os.PathLike[str], run: Line, lines: Sequence[Line], *, kind: str) -> None:
    """Write the file of a whole run at once; it replaces an existing one."""
    write_whole(path, b"".join(map(_bytes, [header(kind, run, shard=(0, 1)), *lines])))


def _bytes(line: Line) -> bytes:
    return (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _append(path: Path, lines: Sequence[Line], size: int) -> int:
    """Write complete lines at once. size: that of the file so far; returns the new one."""
    try:
        with path.open("r+b") as file:  # "ab" would make a new file, without a header
            if file.seek(0, os.SEEK_END) != size:
                raise InputError(
                    f"{path} was changed by something else while it was written: expected {size} bytes. Nothing was "
                    "added. Let one process at a time write into a folder; then resume the run, or begin it again."
                )
            file.write(b"".join(map(_bytes, lines)))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
    except FileNotFoundError as error:
        raise InputError(
            f"{path} has vanished while it was written: expected the lines of this run. Begin the run again."
        ) from error


def _begun(path: Path, header: Line) -> bool:
    """Whether there is a file that holds more than a part of this header."""
    return path.exists() and not _bytes(header)[:-1].startswith(path.read_bytes())


def _cut_torn_line(path: Path) -> int:
    """Cut off an incomplete last line, which a process was writing when it was killed; returns the size."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return whole


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
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"Line {number} of {path} cannot be read ({error}): expected the JSON lines of a run."
            ) from error
        yield parsed


def _object(line: bytes) -> Line:
    parsed = json.loads(line)
    if not isinstance(parsed, dict):
        raise ValueError("no JSON object")
    return parsed
