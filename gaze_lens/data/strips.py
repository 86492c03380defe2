"""Comic strips in the paper authors' layout: a folder for each comic, a file for each panel.

strips = read_strips("comics")                # comics/<comic>/p1.png, p2.png, ..., with captions p1.txt, ... if any
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gaze_lens.comics.strips import strip
from gaze_lens.data.folders import existing, fault, image_files, subfolders
from gaze_lens.data.pictures import Pictures, check_limit, collected
from gaze_lens.regions.picture import Picture

LAYOUT = "<comic>/p1.png, p2.png, ..."


def read_strips(
    folder: str | Path, *, captions: Mapping[str, Sequence[str]] | None = None, limit: int | None = None
) -> Pictures:
    """The strips of a folder, by name of comic, with regions "panel 1", "panel 2", ...

    Every subfolder is a comic whose panels are its images p1, p2, ... or, failing such names, all its images in order
    of name. limit: no more than so many strips.
    captions: name of comic -> what each of its panels shows. A comic that is not among them has those that lie beside
        its images, p1.txt, p2.txt, ... in UTF-8; panels without such a file have none.
    Comics with fewer than two panels, with gaps in their numbers, with files that are no images or captions that are
    no text are left out.
    Raises InputError where no strip is left.
    """
    check_limit(limit)
    root = existing(folder, LAYOUT)
    readers, left_out = {}, defaultdict(list)
    for comic in subfolders(root):
        if len(readers) == limit:
            break
        numbers, files = _panels(comic)
        if reason := _misnumbered(numbers) or fault(files) or _garbled(files):
            left_out[reason].append(comic.name)
        else:
            readers[comic.name] = partial(_read, files, (captions or {}).get(comic.name))
    expected = f"{LAYOUT} (for panels in one image see read_pages, or --panels)"
    return collected(readers, left_out, source=str(root), expected=expected)


def _panels(comic: Path) -> tuple[list[int], list[Path]]:
    """The numbers and files of a comic's panels, in order."""
    files = image_files(comic)
    numbered = [(int(found[1]), path) for path in files if (found := re.fullmatch(r"p(\d+)", path.stem))]
    pairs = sorted(numbered) or list(enumerate(files, start=1))
    return [number for number, _ in pairs], [path for _, path in pairs]


def _misnumbered(numbers: list[int]) -> str | None:
    if len(numbers) < 2:
        return "fewer than two panels"
    return None if numbers == list(range(1, len(numbers) + 1)) else "panels are not numbered 1, 2, 3, ..."


def _read(files: Sequence[Path], captions: Sequence[str] | None) -> Picture:
    return strip(files, captions=[_caption_beside(path) for path in files] if captions is None else captions)


def _caption_beside(panel: Path) -> str:
    """The caption beside an image, on one line; empty where there is none."""
    beside = panel.with_suffix(".txt")
    return " ".join(beside.read_text(encoding="utf-8-sig").split()) if beside.is_file() else ""


def _garbled(panels: Sequence[Path]) -> str | None:
    try:
        for path in panels:
            _caption_beside(path)
    except UnicodeDecodeError:
        return "a caption is not UTF-8 text"
    return None
