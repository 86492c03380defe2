"""Image files in folders: a list of them in natural order, and checks of their names and headers."""

import re
from collections.abc import Iterable
from pathlib import Path

from gaze_lens.errors import ImageError, InputError
from gaze_lens.regions.reading import read_size
from gaze_lens.utf8 import is_utf8

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def existing(folder: str | Path, expected: str) -> Path:
    """The folder as a path. Raises InputError where there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"There is no folder {root}; give one with {expected} in it.")
    return root


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    return sorted((path for path in _entries(folder) if path.is_dir()), key=natural)


def image_files(folder: Path) -> list[Path]:
    """The files in a folder that have the suffix of an image, in natural order."""
    return sorted((path for path in _entries(folder) if path.suffix.lower() in SUFFIXES), key=natural)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); give a folder that may be read.") from error


def natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts "page 2" before "page 10"."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(-1, path.name)]


def unnameable(path: Path) -> str | None:
    """Why a file or folder cannot give a picture its name; None where it can."""
    return None if is_utf8(path.name) else "a name is not UTF-8"


def is_inside(path: Path, *folders: Path) -> bool:
    """Whether a file, with all links followed, lies in one of the folders."""
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def fault(paths: Iterable[Path]) -> str | None:
    """Why a picture cannot be made of these files, judged by their headers; None where it can."""
    for path in paths:
        try:
            if not path.is_file():
                return "an image is missing"
            read_size(path)
        except (ImageError, OSError):  # OSError: a name that is too long for the file system
            return "an image cannot be read"
    return None
