"""Finds panels by the gutters between them: rows and columns of pixels that are all white, or all black.

find_panels("page.png")                        # [[Box, Box, Box], [Box, Box]]: two rows
read_page("page.png", gutters((2, 3)))         # an error unless there are two rows of three
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
STRAY = 0.02  # the share of a gutter's pixels that may have another colour, due to compression or dust


def find_panels(
    source: Any, *, colours: Sequence[Colour] = (WHITE, BLACK), tolerance: int = 24, smallest: float = 0.05
) -> list[list[Box]]:
    """The panels of an image, row by row from the top, each row from the left.

    A gutter is a line of pixels through the whole image (between columns, through the whole row of panels), 98 % of
    which have one of the colours. Neighbouring panels meet in the middle of their gutter; a margin belongs to no panel.
    colours: RGB, 0-255; give the colour of the paper where it is yellow. tolerance: the largest difference in each
    channel, 0-255. smallest: what is narrower than this share of the image (page numbers, frames) is not a panel.
    Limits: a panel with a white background may be cut where nothing is drawn; panels with no gutter or a slanted
    gutter between them are one panel; a row cannot hold panels of two heights.
    """
    pixels = np.asarray(read_image(source))
    height, width = pixels.shape[:2]

    near = [_near(pixels, colour, tolerance) for colour in colours]
    panels = []
    rows = _spans(_gutter_lines(near, axis=1), smallest * height)
    for (top, bottom), (above, below) in zip(rows, _widened(rows), strict=True):
        columns = _spans(_gutter_lines([part[top:bottom] for part in near], axis=0), smallest * width)
        panels.append([Box(left, above, right, below) for left, right in _widened(columns)])
    return [row for row in panels if row]


def gutters(panels: int | tuple[int, int], **options: Any) -> Callable[[Image.Image], list[Box]]:
    """`read_page(image, gutters(6))`: the panels of `find_panels` in reading order, if their number is right.

    panels: their number, in any rows; or (rows, columns). options: of `find_panels`.
    Raises RegionError, with the numbers of panels by row, where they are different.
    """

    def boxes(image: Image.Image) -> list[Box]:
        rows = find_panels(image, **options)
        counts = [len(row) for row in rows]
        matches = sum(counts) == panels if isinstance(panels, int) else counts == [panels[1]] * panels[0]
        if not matches:
            raise RegionError(
                f"Gutters were found around {sum(counts)} panels (by row: {counts}); asked for was {panels}. Give the "
                "borders, borders(x=[...], y=[...]), or the colours= and tolerance= of the gutters."
            )
        return [box for row in rows for box in row]

    return boxes


def _near(
    pixels: UInt8[np.ndarray, "height width 3"], colour: Colour, tolerance: int
) -> Bool[np.ndarray, "height width"]:
    """The pixels that have the colour, each channel within the tolerance."""
    near = np.ones(pixels.shape[:2], bool)
    for channel, value in enumerate(colour):
        low, high = max(value - tolerance, 0), min(value + tolerance, 255)
        near &= (pixels[..., channel] >= low) & (pixels[..., channel] <= high)
    return near


def _gutter_lines(near: Sequence[Bool[np.ndarray, "height width"]], *, axis: int) -> Bool[np.ndarray, " line"]:
    """The lines along the axis (1: rows of pixels, 0: columns) that have one of the colours nearly throughout."""
    shares = [np.count_nonzero(part, axis=axis) / part.shape[axis] for part in near]
    return np.any([share >= 1 - STRAY for share in shares], axis=0)


def _spans(gutter: Bool[np.ndarray, " line"], least: float) -> list[tuple[int, int]]:
    """(start, end) of the runs of lines that are not gutters, without those shorter than `least`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], gutter, [True]]).astype(int)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2) if end - start >= least]


def _widened(spans: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """The spans, each widened to the middle of the gutters beside it."""
    middles = [(before[1] + after[0]) / 2 for before, after in zip(spans[:-1], spans[1:], strict=True)]
    starts, ends = [spans[0][0], *middles] if spans else [], [*middles, spans[-1][1]] if spans else []
    return list(zip(starts, ends, strict=True))
