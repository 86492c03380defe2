"""Images with several panels, from equal cells, given borders, given boxes, or detected gutters.

read_page("strip.png", 6)                                       # six equal columns
read_page("page.png", (2, 3))                                   # two rows of three equal cells
read_page("page.png", borders(x=[310, 620], y=[400]))           # the inner borders, in pixels
read_page("page.png", [Box(0, 0, 300, 200), Box(310, 0, 900, 200)])
read_page("page.png", gutters((2, 3)))                          # detected; an error unless there are 2 x 3
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gaze_lens.comics.strips import with_panels
from gaze_lens.data.folders import existing, fault, image_files, unnameable
from gaze_lens.data.pictures import Pictures, Reader, check_limit, collected
from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box, Shape, as_shape
from gaze_lens.utf8 import printable

Panels = int | tuple[int, int] | Sequence[Any] | Callable[[Image.Image], Sequence[Shape]]


def read_page(source: Any, panels: Panels, *, captions: Sequence[str] | None = None) -> Picture:
    """One image with regions "panel 1", "panel 2", ... in reading order.

    source: as for `read_image`. panels: a number of equal columns; (rows, columns) of equal cells; boxes in reading
    order; or a function of the image that returns them, such as `borders(...)` or `gutters(...)`.
    captions: one per panel.
    Raises ImageError for an image that cannot be read or is too small, RegionError for panels that are not in it, and
    InputError for fewer than two panels.
    """
    image = read_image(source)
    boxes = _boxes(image, panels)
    if len(boxes) < 2:
        raise InputError(f"{len(boxes)} panels were given for an image; a strip or a page has two or more.")
    return with_panels(image, boxes, captions)


def read_pages(folder: str | Path, panels: Panels | Mapping[str, Panels], *, limit: int | None = None) -> Pictures:
    """The images of a folder, by name without suffix, each with its panels (see `read_page`).

    panels: the same for all, or name -> panels. limit: the largest number of images.
    Files that are not images or whose names are not UTF-8, and names without panels, are left out. Gutters are
    detected when a picture is read; `.check()` leaves out the pages on which this fails. Raises InputError where no
    image is left.
    """
    check_limit(limit)
    root = existing(folder, "images of several panels")
    readers: dict[str, Reader] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for path in image_files(root):
        if len(readers) == limit:
            break
        name = printable(path.name if path.stem in readers else path.stem)
        own = panels.get(name) if isinstance(panels, Mapping) else panels
        if own is None:
            left_out["no panels were given"].append(name)
        elif reason := unnameable(path) or fault([path]):
            left_out[reason].append(name)
        else:
            readers[name] = partial(read_page, path, own)
    return collected(readers, left_out, source=str(root), expected="images of several panels")


def borders(*, x: Sequence[float] = (), y: Sequence[float] = ()) -> Callable[[Image.Image], list[Box]]:
    """`read_page(image, borders(x=[310, 620]))`: the panels between borders, in reading order.

    x, y: the inner borders of columns and of rows, in ascending pixels.
    Raises RegionError where a border lies outside the image, or is not larger than the one before it.
    """

    def panels(image: Image.Image) -> list[Box]:
        columns, rows = [0, *x, image.width], [0, *y, image.height]
        if not all((np.diff(edges) > 0).all() for edges in (columns, rows)):
            raise RegionError(
                f"Borders x={list(x)}, y={list(y)} were given for an image of {image.width} x {image.height} pixels; "
                "expected ascending numbers between 0 and its width or height, both excluded."
            )
        return [
            Box(left, top, right, bottom)
            for top, bottom in zip(rows[:-1], rows[1:], strict=True)
            for left, right in zip(columns[:-1], columns[1:], strict=True)
        ]

    return panels


def _boxes(image: Image.Image, panels: Panels) -> Sequence[Shape]:
    if callable(panels):
        return panels(image)
    shape = (1, panels) if isinstance(panels, int) else panels
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(count, int) for count in shape)):
        return [as_shape(box) for box in shape]
    rows, columns = shape
    if min(shape) < 1 or rows * columns < 2:
        raise InputError(f"{rows} x {columns} panels were given for an image; a strip or a page has two or more.")
    if image.width < columns or image.height < rows:
        raise ImageError(
            f"An image of {image.width} x {image.height} pixels is too narrow for {rows} x {columns} panels; give "
            "fewer panels, or a larger image."
        )
    x, y = (np.linspace(0, side, n + 1)[1:-1].tolist() for side, n in ((image.width, columns), (image.height, rows)))
    return borders(x=x, y=y)(image)
