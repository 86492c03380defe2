"""The raw COMICS corpus (Iyyer et al. 2017): random strips of consecutive panels from whole comic books.

strips = read_comics("raw_panel_images", seed=0, limit=500)        # <comic>/<page>_<panel>.jpg
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np

from gaze_lens.comics.strips import HEIGHT, strip
from gaze_lens.data.folders import existing, fault, image_files, subfolders, unnameable
from gaze_lens.data.pictures import Pictures, check_limit, collected
from gaze_lens.errors import InputError
from gaze_lens.utf8 import printable
from gaze_lens.whole_numbers import is_count

LAYOUT = "<comic>/<page>_<panel>.jpg"


def read_comics(
    folder: str | Path,
    *,
    seed: int,
    panels: int = 6,
    per_comic: int = 1,
    edge_pages: int = 5,
    limit: int | None = None,
    height: int = HEIGHT,
    as_published: bool = False,
) -> Pictures:
    """Random strips of consecutive panels of one page, named "<comic>/<page>_<first panel>".

    panels: the number in each strip. per_comic: the largest number of strips from a comic, each from another page.
    edge_pages: this number of first and last pages (covers, advertisements) is left out of comics with more than twice
    as many pages. limit: the largest number of strips; comics are visited in random order until it is reached.
    height, as_published: as for `gl.comics.strip`: the height of every panel in pixels, and how widths are rounded.
    The same arguments always give the same strips, and a smaller limit gives the first of them. The strips of a comic
    do not depend on the other comics. Comics without such a page, and strips with a panel that is not an image, are
    left out. Gandikota and Bau 2026: six panels, five edge pages. Raises InputError where no strip is left.
    """
    if not (is_count(panels, least=2) and is_count(per_comic) and is_count(edge_pages, least=0)):
        raise InputError(
            f"panels={panels}, per_comic={per_comic}, edge_pages={edge_pages} was given; expected panels of 2 or more, "
            "per_comic of 1 or more and edge_pages of 0 or more."
        )
    check_limit(limit)
    comics = subfolders(existing(folder, LAYOUT))
    left_out: dict[str, list[str]] = defaultdict(list)
    order = np.random.default_rng(seed).permutation(len(comics))
    windows = (_readable(comics[index], seed, panels, edge_pages, left_out) for index in order)
    strips = (window for of_comic in windows for window in islice(of_comic, per_comic))
    cut = partial(strip, height=height, as_published=as_published)
    readers = {name: partial(cut, files) for name, files in islice(strips, limit)}
    expected = f"{LAYOUT}, with {panels} panels or more on a page"
    return collected(readers, left_out, source=str(folder), expected=expected)


def _readable(
    comic: Path, seed: int, panels: int, edge_pages: int, left_out: dict[str, list[str]]
) -> Iterator[tuple[str, list[Path]]]:
    """The windows of a comic whose files are images; the reasons for the others are added to `left_out`."""
    windows = list(_windows(comic, seed, panels, edge_pages))
    if not windows:
        left_out[f"no page with {panels} consecutive panels"].append(printable(comic.name))
    for name, files in windows:
        if reason := unnameable(comic) or fault(files):
            left_out[reason].append(printable(name))
        else:
            yield name, files


def _windows(comic: Path, seed: int, panels: int, edge_pages: int) -> Iterator[tuple[str, list[Path]]]:
    """One random window of each page with enough panels, pages in random order: (name, files)."""
    pages = _pages(comic)
    numbers = sorted(pages)
    if edge_pages and len(numbers) > 2 * edge_pages:
        numbers = numbers[edge_pages:-edge_pages]
    random = np.random.default_rng([seed, crc32(os.fsencode(comic.name))])
    for page in random.permutation(numbers).tolist():
        files = pages[page]
        starts = [first for first in sorted(files) if all(first + k in files for k in range(panels))]
        if starts:
            first = int(random.choice(starts))
            yield f"{comic.name}/{page}_{first}", [files[first + k] for k in range(panels)]


def _pages(comic: Path) -> dict[int, dict[int, Path]]:
    """Page -> panel -> file."""
    pages: dict[int, dict[int, Path]] = defaultdict(dict)
    for path in image_files(comic):
        if match := re.fullmatch(r"(\d+)_(\d+)", path.stem):
            pages[int(match[1])][int(match[2])] = path
    return pages
