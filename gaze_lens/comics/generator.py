"""Strips and scenes drawn from a seed, which the embedded model can read, with captions."""

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from PIL import Image

from gaze_lens.comics.drawing import SIDE, describe, draw_cells, draw_content, render_panels, render_scenes
from gaze_lens.comics.strips import from_columns, paint_gaps
from gaze_lens.errors import InputError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box
from gaze_lens.whole_numbers import is_count


def caption(content: Sequence[SupportsIndex] | np.ndarray) -> str:
    """The caption of a synthetic panel's four indices (see `drawing.draw_content`): "red ring above blue bar."."""
    return f"{describe(*content[:2])} above {describe(*content[2:])}."


def synthetic(n: int, *, seed: int, panels: int = 6, width: int = SIDE) -> list[Picture]:
    """n strips of coloured shapes that the embedded model can read, 32 pixels high, with exact captions.

    panels: the number in each strip, all different. width: of every panel, in pixels, a multiple of 16.
    The same arguments always give the same pictures, and a smaller n gives the first of them.
    """
    if not (is_count(n, least=0) and is_count(panels) and is_count(width, least=SIDE)) or width % 16:
        raise InputError(
            f"n={n!r} must be a whole number, panels={panels!r} at least 1, and width={width!r} a multiple of 16 and "
            f"at least {SIDE}."
        )
    strips = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        content = draw_content(rng, panels)
        pixels = np.concatenate(render_panels(rng, content, width), axis=1)
        ends = [width * (k + 1) for k in range(panels)]
        strips.append(from_columns(paint_gaps(pixels, ends[:-1]), ends, [caption(row) for row in content.tolist()]))
    return strips


def scenes(n: int, *, seed: int, shape: tuple[int, int] = (3, 3)) -> list[Picture]:
    """n single pictures of several shapes on a grid of shape (rows, columns) cells of 32 pixels.

    Regions "object 1", "object 2", ... in reading order, each the cell of a shape; captions like "red ring.".
    """
    if min(shape) < 1 or shape[0] * shape[1] < 2:
        raise InputError(f"A scene of shape {shape} is too small; it needs two cells or more.")
    pictures = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        cells = draw_cells(rng, 1, shape)
        image = Image.fromarray(render_scenes(rng, cells)[0])
        rows, columns = np.nonzero(cells[0, ..., 0] >= 0)
        places = {f"object {k + 1}": (int(r), int(c)) for k, (r, c) in enumerate(zip(rows, columns, strict=True))}
        boxes = {name: Box(c * SIDE, r * SIDE, (c + 1) * SIDE, (r + 1) * SIDE) for name, (r, c) in places.items()}
        captions = {name: describe(*cells[0, r, c]) + "." for name, (r, c) in places.items()}
        pictures.append(Picture(image, boxes, captions))
    return pictures
