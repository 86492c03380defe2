"""The outlines of shapes, as polygons to draw."""

import contourpy
import numpy as np
from jaxtyping import Float

from gaze_lens.regions.shapes import Mask, Polygon, Shape, Union


def outlines(shape: Shape) -> list[Float[np.ndarray, "vertex 2"]]:
    """Closed lines around a shape, as (x, y) in original pixels."""
    if isinstance(shape, Union):
        return [line for part in shape.shapes for line in outlines(part)]
    if isinstance(shape, Mask):
        padded = np.pad(shape.array.astype(float), 1)
        lines = contourpy.contour_generator(z=padded).lines(0.5)
        return [np.asarray(line) - 0.5 for line in lines]  # one pixel of padding, and the centre of pixel 0 is at 0.5
    if isinstance(shape, Polygon):
        points = np.array(shape.points, float)
        return [np.concatenate([points, points[:1]])]
    x0, y0, x1, y1 = shape.bounds.x0, shape.bounds.y0, shape.bounds.x1, shape.bounds.y1
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])]
