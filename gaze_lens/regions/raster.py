"""Rasters of shapes in pure numpy: the points of a grid inside a polygon, and the area of a raster inside boxes.

    >>> import numpy as np
    >>> triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    >>> scan(triangle, np.array([0.5, 1.5, 2.5]), np.array([0.5, 2.5])).astype(int).tolist()
    [[1, 1, 1], [1, 0, 0]]

Used by `shapes`; independent of images and tokens.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped


def inside(
    points: Float[np.ndarray, "vertex 2"], x: Shaped[np.ndarray, "*n"], y: Shaped[np.ndarray, "*n"]
) -> Bool[np.ndarray, "*n"]:
    """Which of the points (x, y) lie in the polygon, by the even-odd rule; only left and upper edges are included."""
    result = np.zeros(np.shape(x), bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        if y0 != y1:
            result ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return result


def scan(
    points: Float[np.ndarray, "vertex 2"], x: Float[np.ndarray, " column"], y: Float[np.ndarray, " row"]
) -> Bool[np.ndarray, "row column"]:
    """`inside` for every point of a grid with ascending `x` and `y`; faster, as edges visit rows and not points."""
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, 0).T
    edge, row = np.nonzero((y0[:, None] <= y) != (y1[:, None] <= y))
    crossing = x0[edge] + (y[row] - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    ends = np.zeros((len(y), len(x) + 1), np.int32)
    np.add.at(ends, (row, np.searchsorted(x, crossing)), 1)  # the number of columns left of this crossing
    return ends[:, :0:-1].cumsum(1)[:, ::-1] % 2 == 1


def covered(
    cells: Shaped[np.ndarray, "row column"],
    *,
    x: Float[np.ndarray, " vertical_edge"],
    y: Float[np.ndarray, " horizontal_edge"],
    boxes: Float[np.ndarray, "n 4"],
) -> Float[np.ndarray, " n"]:
    """The area of the true cells within each box; cell (i, j) is x[j]..x[j+1] by y[i]..y[i+1]; 0 for a NaN box.

    Of cells with numbers, each area is counted so many times.
    """
    table = np.zeros((len(y), len(x)))
    table[1:, 1:] = (cells * np.diff(y)[:, None] * np.diff(x)).cumsum(0).cumsum(1)

    def up_to(at_x: np.ndarray, at_y: np.ndarray) -> np.ndarray:
        """The true area left of and above each point; bilinear within a cell, so interpolation is exact."""
        u, v = np.interp(at_x, x, np.arange(len(x))), np.interp(at_y, y, np.arange(len(y)))
        j, i = np.minimum(u.astype(int), len(x) - 2), np.minimum(v.astype(int), len(y) - 2)
        u, v = u - j, v - i
        top = table[i, j] * (1 - u) + table[i, j + 1] * u
        bottom = table[i + 1, j] * (1 - u) + table[i + 1, j + 1] * u
        return top * (1 - v) + bottom * v

    x0, y0, x1, y1 = np.nan_to_num(boxes).T
    return up_to(x1, y1) - up_to(x0, y1) - up_to(x1, y0) + up_to(x0, y0)
