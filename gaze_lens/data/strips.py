"""Comic strips in the layout of the paper's authors: a folder for each comic, a file for each panel.

strips = read_strips("comics")                # comics/<comic>/p1.png, p2.png, ..., with captions p1.txt, ... if any
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gaze_lens.comics.strips import HEIGHT, strip
from gaze_lens.data.folders import existing, fault, image_files, is_inside, subfolders, unnameable
from gaze_lens.data.pictures import Pictures, Reader, check_limit, collected
from gaze_lens.regions.picture import Picture
from gaze_lens.utf8 import printable

LAYOUT = "<comic>/p1.png, p2.png, ..."


def read_strips(
    folder: str | Path,
    *,
    captions: Mapping[str, Sequence[str]] | None = None,
    limit: int | None = None,
    height: int = HEIGHT,
    as_published: bool = False,
) -> Pictures:
    """The strips of a folder, by name of comic, with regions "panel 1", "panel 2", ...

    Every subfolder is a comic. Its panels are its images p1, p2, ... or, without such names, all its images in the
    order of their names. limit: the largest number of strips.
    captions: name of comic -> the captions of its panels. For other comics, captions are read from files beside the
        images, p1.txt, p2.txt, ... in UTF-8; a panel without such a file has no caption.
    height, as_published: as for `gl.comics.strip`: the height of every panel in pixels, and how widths are rounded.
    Comics are left out if they have fewer than two panels, missing numbers, files that are not images, captions that
    are not text or are links out of the folder, or a name that is not UTF-8. Raises InputError where no strip is left.
    """
    check_limit(limit)
    root = existing(folder, LAYOUT)
    readers: dict[str, Reader] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for comic in subfolders(root):
        if len(readers) == limit:
            break
        numbers, files = _panels(comic)
        reason = unnameable(comic) or _misnumbered(numbers) or fault(files) or _caption_fault(files, root)
        if reason:
            left_out[reason].append(printable(comic.name))
        else:
            readers[comic.name] = partial(
                _read, files, (captions or {}).get(comic.name), height=height, as_published=as_published
            )
    expected = f"{LAYOUT} (for panels in one image see read_pages, or --panels)"
    return collected(readers, left_out, source=str(root), expected=expected)


def _panels(comic: Path) -> tuple[list[int], list[Path]]:
    """The numbers and files of a comic's panels, in order."""
    files = image_files(comic)
    numbered = [(int(match[1]), path) for path in files if (match := re.fullmatch(r"p(\d+)", path.stem))]
    pairs = sorted(numbered) or list(enumerate(files, start=1))
    return [number for number, _ in pairs], [path for _, path in pairs]


def _misnumbered(numbers: list[int]) -> str | None:
    if len(numbers) < 2:
        return "fewer than two panels"
    return None if numbers == list(range(1, len(numbers) + 1)) else "panels are not numbered 1, 2, 3, ..."


def _read(files: Sequence[Path], captions: Sequence[str] | None, **cutting: Any) -> Picture:
    captions = [_caption_beside(path) for path in files] if captions is None else captions
    return strip(files, captions=captions, **cutting)


def _caption_beside(panel: Path) -> str:
    """The caption beside an image, on one line; empty where there is none."""
    file = panel.with_suffix(".txt")
    if file.is_symlink():
        file = file.resolve(strict=True)  # an error where links lead nowhere or in a circle, in Python 3.13, too
    return " ".join(file.read_text(encoding="utf-8-sig").split()) if file.is_file() else ""


def _caption_fault(panels: Sequence[Path], root: Path) -> str | None:
    """Why the captions beside the images cannot be read; what a link shows of other folders would go into reports."""
    try:
        for path in panels:
            if not is_inside(path.with_suffix(".txt"), root, path.parent):
                return "a caption is a link out of the folder"
            _caption_beside(path)
    except UnicodeDecodeError:
        return "a caption is not UTF-8 text"
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return "a caption cannot be read"
    return None
