"""Finding panels by the gutters between them: rows and columns of pixels that are all white, or all black.

find_panels("page.png")                        # [[Box, Box, Box], [Box, Box]]: two rows
read_page("page.png", gutters((2, 3)))         # an error unless it finds two rows of three
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from gaze_lens.errors import RegionError
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
Colour = tuple[int, int, int]
STRAY = 0.02  # the share of pixels of a gutter that may have another colour: compression, dust


def find_panels(
    source: Any, *, colours: Sequence[Colour] = (WHITE, BLACK), tolerance: int = 24, smallest: float = 0.05
) -> list[list[Box]]:
    """The panels of an image, row by row from the top, each row from the left.

    A gutter is a line of pixels through the whole image (or, between columns, through the whole row of panels), 98 %
    of which have one of the colours. Neighbouring panels meet in the middle of their gutter; a margin belongs to none.
    colours: RGB, 0-255; give that of the paper where it is yellow. tolerance: how far each channel may be off, 0-255.
    smallest: what is narrower than this share of the image (page numbers, frames) is no panel.
    It knows nothing of drawings: a panel with a white background may be cut where nothing is drawn, panels without a
    gutter or with a slanted one are one panel, and a row cannot hold panels of two heights.
    """
    pixels = np.asarray(read_image(source))
    height, width = pixels.shape[:2]

    near = [_near(pixels, colour, tolerance) for colour in colours]
    found = []
    rows = _spans(_gutter_lines(near, axis=1), smallest * height)
    for (top, bottom), (above, below) in zip(rows, _joined(rows), strict=True):
        columns = _spans(_gutter_lines([part[top:bottom] for part in near], axis=0), smallest * width)
        found.append([Box(left, above, right, below) for left, right in _joined(columns)])
    return [row for row in found if row]


def gutters(panels: int | tuple[int, int], **options: Any) -> Callable[[Image.Image], list[Box]]:
    """`read_page(image, gutters(6))`: the panels that `find_panels` finds, in reading order, if they are as many.

    panels: their number, in whatever rows; or (rows, columns). options: of `find_panels`.
    Raises RegionError, with what was found, where it finds others.
    """

    def boxes(image: Image.Image) -> list[Box]:
        rows = find_panels(image, **options)
        counts = [len(row) for row in rows]
        right = sum(counts) == panels if isinstance(panels, int) else counts == [panels[1]] * panels[0]
        if not right:
            raise RegionError(
                f"Gutters were found around {sum(counts)} panels (by row: {counts}); asked for was {panels}. Give the "
                "borders, borders(x=[...], y=[...]), or the colours= and tolerance= of the gutters."
            )
        return [box for row in rows for box in row]

    return boxes


def _near(
    pixels: UInt8[np.ndarray, "height width 3"], colour: Colour, tolerance: int
) -> Bool[np.ndarray, "height width"]:
    """Which pixels have the colour, each channel within the tolerance."""
    near = np.ones(pixels.shape[:2], bool)
    for channel, value in enumerate(colour):
        low, high = max(value - tolerance, 0), min(value + tolerance, 255)
        near &= (pixels[..., channel] >= low) & (pixels[..., channel] <= high)
    return near


def _gutter_lines(near: Sequence[Bool[np.ndarray, "height width"]], *, axis: int) -> Bool[np.ndarray, " line"]:
    """Which lines along the axis (1: rows of pixels, 0: columns) have one of the colours nearly throughout."""
    shares = [np.count_nonzero(part, axis=axis) / part.shape[axis] for part in near]
    return np.any([share >= 1 - STRAY for share in shares], axis=0)


def _spans(gutter: Bool[np.ndarray, " line"], least: float) -> list[tuple[int, int]]:
    """(start, end) of the runs of lines that are no gutter, without those shorter than `least`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], gutter, [True]]).astype(int)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2) if end - start >= least]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """The spans, each widened to the middle of the gutters between them."""
    middles = [(before[1] + after[0]) / 2 for before, after in zip(spans[:-1], spans[1:], strict=True)]
    starts, ends = [spans[0][0], *middles] if spans else [], [*middles, spans[-1][1]] if spans else []
    return list(zip(starts, ends, strict=True))
