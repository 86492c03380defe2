"""Comic strips and scenes: pictures whose regions have names, from panels or from a seed, and questions about them.

    picture = strip(["p1.png", "p2.png", "p3.png"])       # regions "panel 1", "panel 2", "panel 3"
    picture = grid(paths, (2, 3))                         # six panels on a page, in reading order
    pictures = synthetic(20, seed=7, panels=6)            # strips that the embedded model can read, with captions
    ask(0)                                                # "What happens in the first panel from the left?"

Indices are 0-based; the names of regions and the words of questions count from one, as people do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from gaze_lens.comics.drawing import SIDE, describe, draw_cells, draw_content, render_panels, render_scenes
from gaze_lens.errors import ImageError, InputError
from gaze_lens.regions.picture import Box, Picture, Shape
from gaze_lens.regions.reading import read_image

OPEN = "What is going on in this picture?"
THIS = "What is happening in this panel?"
NARRATE = "Describe this comic panel by panel, from left to right."
NARRATE_ANY_ORDER = "Describe this comic panel by panel, in any order."
NARRATE_FREELY = "Say what each panel shows, in any order, without numbers."
ONE_THING = "What is one thing in this picture?"
LIST_THINGS = "List the things in this picture."
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
GAP = 2  # pixels: the white gap between synthetic panels
Panel = str | Path | bytes | Image.Image | np.ndarray


def ask(index: int) -> str:
    """The question about the panel at 0-based `index`, up to 7: `ask(0)` asks about the first panel from the left."""
    if not 0 <= index < len(ORDINALS):
        raise InputError(f"There is no ready question about panel index {index}; expected 0 to {len(ORDINALS) - 1}.")
    return f"What happens in the {ORDINALS[index]} panel from the left?"


def ask_place(place: str) -> str:
    """The question about a place of a scene: `ask_place("top left")`."""
    return f"What is at the {place}?"


def place(row: int, column: int, shape: tuple[int, int]) -> str:
    """The words for a cell of a scene of shape (rows, columns): `place(0, 2, (3, 3))` is "top right"."""
    words = []
    for index, count, names in zip(
        (row, column), shape, (("top", "middle", "bottom"), ("left", "middle", "right")), strict=True
    ):
        words.append(names[0] if index == 0 else names[2] if index == count - 1 else names[1])
    return " ".join(words)


def caption(content: Sequence[SupportsIndex] | np.ndarray) -> str:
    """What a synthetic panel shows, from its four indices (see `shapes.draw_content`): "red ring above blue bar."."""
    return f"{describe(*content[:2])} above {describe(*content[2:])}."


def strip(
    panels: Sequence[Panel],
    *,
    height: int = 256,
    multiple: int = 32,
    gap: int = 6,
    captions: Sequence[str] | None = None,
) -> Picture:
    """Panels side by side, left to right, with regions "panel 1", "panel 2", ...

    panels: paths, bytes of files, PIL images or arrays; EXIF orientation is applied, colours become RGB.
    height: pixels that every panel is resized to, aspect kept; then its width is rounded to a multiple of `multiple`
    pixels (at least one), so that borders fall on the token grid. gap: pixels of white painted over each inner border.
    captions: one per panel.
    Raises ImageError where a panel cannot be read, InputError for no panels, wrong sizes or a wrong number of captions.
    """
    if isinstance(panels, str | Path) or not len(panels):
        raise InputError(
            f"{panels!r} was given; a strip needs a list of at least one panel, such as ['p1.png', 'p2.png']."
        )
    if height < 1 or multiple < 1 or gap < 0:
        raise InputError(f"height={height} and multiple={multiple} must be at least 1, and gap={gap} at least 0.")
    _check_captions(captions, len(panels))
    resized = [_fit(read_image(panel), height, multiple) for panel in panels]
    ends = np.cumsum([image.width for image in resized]).tolist()
    pixels = np.concatenate([np.asarray(image) for image in resized], axis=1)
    return _picture(paint_gaps(pixels, ends[:-1], gap), ends, captions)


def grid(
    panels: Sequence[Panel],
    shape: tuple[int, int],
    *,
    cell: tuple[int, int] = (256, 256),
    gap: int = 6,
    captions: Sequence[str] | None = None,
) -> Picture:
    """`grid(paths, (2, 3))`: panels on a page of (rows, columns) equal cells, "panel 1", ... in reading order.

    cell: (width, height) in pixels; multiples of 32 keep borders on the token grid. A panel keeps its aspect, and
    white fills the rest of its cell. gap: pixels of white painted over each inner border. captions: one per panel.
    Raises ImageError where a panel cannot be read, InputError for sizes or numbers that do not fit together.
    """
    (rows, columns), (width, height) = shape, cell
    if min(rows, columns, width, height) < 1 or gap < 0 or len(panels) != rows * columns:
        raise InputError(
            f"{len(panels)} panels were given for a grid of shape={shape}, cell={cell}, gap={gap}; expected rows x "
            "columns panels, at least one cell of at least one pixel, and a gap of 0 or more."
        )
    padded = [np.asarray(ImageOps.pad(read_image(panel), cell, color="white")) for panel in panels]
    pixels = np.concatenate([np.concatenate(padded[r * columns :][:columns], axis=1) for r in range(rows)])
    pixels = paint_gaps(pixels, range(width, columns * width, width), gap)
    pixels = paint_gaps(pixels.swapaxes(0, 1), range(height, rows * height, height), gap).swapaxes(0, 1)
    corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
    return with_panels(Image.fromarray(pixels), [Box.from_xywh(x, y, width, height) for x, y in corners], captions)


def with_panels(image: Image.Image, boxes: Sequence[Shape], captions: Sequence[str] | None = None) -> Picture:
    """A picture whose regions "panel 1", "panel 2", ... are the boxes, in the order given.

    captions: one per panel. Raises InputError for another number of them.
    """
    _check_captions(captions, len(boxes))
    names = [f"panel {i + 1}" for i in range(len(boxes))]
    described = dict(zip(names, captions, strict=True)) if captions is not None else {}
    return Picture(image, dict(zip(names, boxes, strict=True)), described)


def _check_captions(captions: Sequence[str] | None, n_panels: int) -> None:
    if captions is not None and len(captions) != n_panels:
        raise InputError(f"{len(captions)} captions were given for {n_panels} panels; give one for each.")


def _fit(panel: Image.Image, height: int, multiple: int) -> Image.Image:
    width = max(1, round(panel.width * height / panel.height / multiple)) * multiple
    if width > 100 * max(height, multiple):
        raise ImageError(f"A panel of {panel.width} x {panel.height} pixels is too wide for a strip; cut it up first.")
    return panel.resize((width, height), Image.Resampling.LANCZOS)


def paint_gaps(
    pixels: UInt8[np.ndarray, "*rows height width 3"], borders: Sequence[int], gap: int = GAP
) -> UInt8[np.ndarray, "*rows height width 3"]:
    """A copy with `gap` white pixels painted over each border (x, in pixels)."""
    pixels = pixels.copy()
    for x in borders:
        pixels[..., max(0, x - gap // 2) : x + gap - gap // 2, :] = 255
    return pixels


def _picture(
    pixels: UInt8[np.ndarray, "height width 3"], ends: Sequence[int], captions: Sequence[str] | None
) -> Picture:
    boxes = [Box(x0, 0, x1, pixels.shape[0]) for x0, x1 in zip([0, *ends[:-1]], ends, strict=True)]
    return with_panels(Image.fromarray(pixels), boxes, captions)


def synthetic(n: int, *, seed: int, panels: int = 6, width: int = SIDE) -> list[Picture]:
    """n strips of coloured shapes that the embedded model can read, 32 pixels high, with exact captions.

    panels: in each strip, all different. width: of every panel, in pixels, a multiple of 16.
    The same arguments always give the same pictures, and the first of many are those of fewer.
    """
    if panels < 1 or width < SIDE or width % 16:
        raise InputError(f"panels={panels} must be at least 1, and width={width} a multiple of 16 and at least {SIDE}.")
    found = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        content = draw_content(rng, panels)
        pixels = np.concatenate(render_panels(rng, content, width), axis=1)
        ends = [width * (k + 1) for k in range(panels)]
        found.append(_picture(paint_gaps(pixels, ends[:-1]), ends, [caption(row) for row in content.tolist()]))
    return found


def scenes(n: int, *, seed: int, shape: tuple[int, int] = (3, 3)) -> list[Picture]:
    """n single pictures of several shapes on a grid of shape (rows, columns) cells of 32 pixels.

    Regions "object 1", "object 2", ... in reading order, each the cell that holds the shape; captions like "red ring.".
    """
    if min(shape) < 1 or shape[0] * shape[1] < 2:
        raise InputError(f"A scene of shape {shape} is too small; it needs two cells or more.")
    found = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        cells = draw_cells(rng, 1, shape)
        image = Image.fromarray(render_scenes(rng, cells)[0])
        rows, columns = np.nonzero(cells[0, ..., 0] >= 0)
        spots = {f"object {k + 1}": (int(r), int(c)) for k, (r, c) in enumerate(zip(rows, columns, strict=True))}
        boxes = {name: Box(c * SIDE, r * SIDE, (c + 1) * SIDE, (r + 1) * SIDE) for name, (r, c) in spots.items()}
        found.append(Picture(image, boxes, {name: describe(*cells[0, r, c]) + "." for name, (r, c) in spots.items()}))
    return found
