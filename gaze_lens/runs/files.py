"""Files that are either complete or not there at all, and JSON that people can read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gaze_lens.errors import GazeLensError, HeadError, InputError
from gaze_lens.utf8 import is_utf8, printable


def to_json(content: Any) -> str:
    """JSON with one line for each entry. Raises HeadError for something that JSON cannot hold."""
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise HeadError(
            f"This cannot be written as JSON ({error}): expected text, finite numbers, lists and dicts, as in "
            "provenance=. Turn paths into str and arrays into lists."
        ) from error


def read_json(path: str | os.PathLike[str], expected: str, *, error: type[GazeLensError] = InputError) -> Any:
    """What a JSON file holds. Raises `error`, with the file's name and what was expected, where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise error(f"There is no file {path}; expected {expected}.") from missing
    except OSError as unreadable:
        raise error(f"{path} cannot be read ({unreadable.strerror}); expected {expected}.") from unreadable
    except RecursionError as deep:
        raise error(f"{path} cannot be read (its lists are nested too deep); expected {expected}.") from deep
    except ValueError as other:  # not UTF-8, not JSON, or a number of more digits than Python reads
        raise error(f"{path} cannot be read: it is not JSON ({other}); expected {expected}.") from other


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """`with writing(path):` InputError, with the path and the reason, where the code inside cannot write."""
    if not is_utf8(os.fspath(path)):
        raise InputError(
            f"{printable(path)} cannot be written: its name is not UTF-8, and safetensors could not read it. Give "
            "another one."
        )
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike[str], error: OSError) -> InputError:
    """The error for a file or folder that the disk does not take."""
    return InputError(
        f"{path} cannot be written ({error.strerror or error}): expected a folder that has room and may be written to. "
        "Give another one."
    )


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that is either complete or not there at all; its folder is made if there is none.

    Raises InputError where the disk is full, or does not let it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
