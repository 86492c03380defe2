"""Image files in folders: a list of them in natural order, and a check of their headers."""

import re
from collections.abc import Iterable
from pathlib import Path

from gaze_lens.errors import ImageError, InputError
from gaze_lens.regions.reading import read_size

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def existing(folder: str | Path, expected: str) -> Path:
    """The folder as a path. Raises InputError where there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"There is no folder {root}; give one with {expected} in it.")
    return root


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=natural)


def image_files(folder: Path) -> list[Path]:
    """The files in a folder that have the suffix of an image, in natural order."""
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), key=natural)


def natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts "page 2" before "page 10"."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(-1, path.name)]


def fault(paths: Iterable[Path]) -> str | None:
    """Why a picture cannot be made of these files, judged by their headers; None where it can."""
    for path in paths:
        if not path.is_file():
            return "an image is missing"
        try:
            read_size(path)
        except ImageError:
            return "an image cannot be read"
    return None
