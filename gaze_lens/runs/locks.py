"""One writer at a time: a file of a run is locked while a process writes it.

with one_writer("out/generations.jsonl"):    # InputError if another process, or another run of this one, is writing it
    ...

The lock is the operating system's, on a file beside it (".generations.jsonl.lock"), which stays. A process that dies
gives the lock up: the file that it leaves blocks nobody. Where a file system has no locks, `filelock` writes the number
of the process into the file instead.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gaze_lens.errors import InputError
from gaze_lens.runs.files import unwritable, writing


@contextmanager
def one_writer(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Hold a file's lock; its folder is made if there is none. With None nothing is written, and nothing locked."""
    if path is None:
        yield
        return
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, is_singleton=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{path} is being written by another process: expected one for each folder. Wait until it has ended, or "
            "choose another folder; several jobs share a run with --shard i/n."
        ) from error
    except OSError as error:  # Timeout is one, too
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()
