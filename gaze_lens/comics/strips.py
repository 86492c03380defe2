"""Comic strips and pages: pictures composed of panels, whose regions are "panel 1", "panel 2", ..."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from gaze_lens.errors import ImageError, InputError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box, Shape

Panel = str | Path | bytes | Image.Image | np.ndarray

GAP = 2  # pixels: the white gap between synthetic panels
HEIGHT = 256  # pixels: of the panels of the paper's strips


def strip(
    panels: Sequence[Panel],
    *,
    height: int = HEIGHT,
    multiple: int = 32,
    gap: int = 6,
    captions: Sequence[str] | None = None,
    as_published: bool = False,
) -> Picture:
    """Panels side by side, left to right, with regions "panel 1", "panel 2", ...

    panels: paths, bytes of files, PIL images or arrays; EXIF orientation is applied, colours are converted to RGB.
    height: every panel is resized to this height in pixels with its aspect ratio. Its width is then rounded to a
    multiple of `multiple` pixels (at least one), so that borders lie on the token grid. gap: white pixels painted over
    each inner border.
    captions: one per panel. as_published: cut sizes as the paper's authors' scripts do: the height is rounded to
    `multiple`, too, and a width to whole pixels, down, before it is rounded. (Some 15 panels in 1,000 differ by one
    step of `multiple`.)
    Raises ImageError where a panel cannot be read, InputError for no panels, wrong sizes or a wrong number of captions.
    """
    if isinstance(panels, str | Path) or not len(panels):
        raise InputError(
            f"{panels!r} was given; a strip needs a list of at least one panel, such as ['p1.png', 'p2.png']."
        )
    if height < 1 or multiple < 1 or gap < 0:
        raise InputError(f"height={height} and multiple={multiple} must be at least 1, and gap={gap} at least 0.")
    _check_captions(captions, len(panels))
    if as_published:
        height = max(1, round(height / multiple)) * multiple
    resized = [_fit(read_image(panel), height, multiple, as_published) for panel in panels]
    ends = np.cumsum([image.width for image in resized]).tolist()
    pixels = np.concatenate([np.asarray(image) for image in resized], axis=1)
    return from_columns(paint_gaps(pixels, ends[:-1], gap), ends, captions)


def grid(
    panels: Sequence[Panel],
    shape: tuple[int, int],
    *,
    cell: tuple[int, int] = (256, 256),
    gap: int = 6,
    captions: Sequence[str] | None = None,
) -> Picture:
    """`grid(paths, (2, 3))`: panels on a page of (rows, columns) equal cells, "panel 1", ... in reading order.

    cell: (width, height) in pixels; with multiples of 32, borders lie on the token grid. A panel keeps its aspect
    ratio, and the rest of its cell is white. gap: white pixels painted over each inner border. captions: one per panel.
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
    """A picture whose regions "panel 1", "panel 2", ... are the boxes, in their order.

    captions: one per panel. Raises InputError for another number of captions.
    """
    _check_captions(captions, len(boxes))
    names = [f"panel {i + 1}" for i in range(len(boxes))]
    by_name = dict(zip(names, captions, strict=True)) if captions is not None else {}
    return Picture(image, dict(zip(names, boxes, strict=True)), by_name)


def _check_captions(captions: Sequence[str] | None, n_panels: int) -> None:
    if captions is not None and len(captions) != n_panels:
        raise InputError(f"{len(captions)} captions were given for {n_panels} panels; give one for each.")


def _fit(panel: Image.Image, height: int, multiple: int, whole_pixels: bool) -> Image.Image:
    scaled = panel.width * height / panel.height
    width = max(1, round((int(scaled) if whole_pixels else scaled) / multiple)) * multiple
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


def from_columns(
    pixels: UInt8[np.ndarray, "height width 3"], ends: Sequence[int], captions: Sequence[str] | None
) -> Picture:
    """A picture whose panels are columns that end at x = `ends`, in pixels."""
    boxes = [Box(x0, 0, x1, pixels.shape[0]) for x0, x1 in zip([0, *ends[:-1]], ends, strict=True)]
    return with_panels(Image.fromarray(pixels), boxes, captions)
