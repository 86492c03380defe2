"""Shapes in a picture, in original pixels: which points lie inside, and the area that they share with boxes.

    Box(10, 20, 110, 90)
    Polygon([(0, 0), (200, 0), (100, 40)])
    Mask(segmentation > 0)
    Union([Box(0, 0, 10, 10), Box(50, 0, 60, 10)])

x points right, y points down, the right and lower ends are excluded. A shape is independent of tokens;
`ImageTokens.select` converts it to token positions. Public as `gaze_lens.regions`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Shaped

from gaze_lens.errors import RegionError
from gaze_lens.regions import raster

Number = float | int | np.integer | np.floating
Coordinates = Shaped[np.ndarray, "*points"] | Number
Boxes = Float[np.ndarray, "n 4"]  # x0, y0, x1, y1 in original pixels; NaN where a token covers nothing
FINE = 2048  # the most cells to a side of the raster for the area of a polygon
FARTHEST = 1e9  # the largest coordinate of a corner, in pixels; areas of far larger ones would be infinite
MOST = 4096  # the most edges to a side of the raster for the area of a mask or a union


@runtime_checkable
class Shape(Protocol):
    """The methods of every shape: `Box`, `Polygon`, `Mask` and `Union`."""

    @property
    def bounds(self) -> "Box":
        """The smallest box around the shape."""

    def contains(self, x: Coordinates, y: Coordinates) -> Bool[np.ndarray, "*points"]:
        """Which of the points lie in the shape."""

    def overlap(self, boxes: Boxes) -> Float[np.ndarray, " n"]:
        """The area that the shape shares with each box, in square pixels; 0 for a NaN box."""


@dataclass(frozen=True)
class Box:
    """`Box(10, 20, 110, 90)`: the rectangle `x0 <= x < x1`, `y0 <= y < y1`, in original pixels.

    Raises RegionError where a side is not a finite number or an end does not lie beyond its start.
    """

    x0: Number
    y0: Number
    x1: Number
    y1: Number

    def __post_init__(self) -> None:
        sides = _finite((self.x0, self.y0, self.x1, self.y1))
        if not (sides and sides[0] < sides[2] and sides[1] < sides[3]):
            raise RegionError(
                f"A box of x0={self.x0}, y0={self.y0}, x1={self.x1}, y1={self.y1} holds no pixel: expected finite "
                "numbers with x0 < x1 and y0 < y1. For corner, width and height use Box.from_xywh(x, y, width, height)."
            )
        for name, side in zip(("x0", "y0", "x1", "y1"), sides, strict=True):
            object.__setattr__(self, name, side)

    @classmethod
    def from_xywh(cls, x: Number, y: Number, width: Number, height: Number) -> "Box":
        """`Box.from_xywh(*annotation["bbox"])`: from the upper left corner and the size, as COCO writes boxes."""
        return cls(x, y, x + width, y + height)

    @property
    def area(self) -> float:
        """Square pixels."""
        return float((self.x1 - self.x0) * (self.y1 - self.y0))

    @property
    def bounds(self) -> "Box":
        """The box itself."""
        return self

    def contains(self, x: Coordinates, y: Coordinates) -> Bool[np.ndarray, "*points"]:
        """Which of the points lie in the box."""
        x, y = np.asarray(x), np.asarray(y)
        return np.asarray((self.x0 <= x) & (x < self.x1) & (self.y0 <= y) & (y < self.y1))

    def overlap(self, boxes: Boxes) -> Float[np.ndarray, " n"]:
        """The area shared with each box, in square pixels, exact; 0 for a NaN box."""
        width = np.minimum(boxes[:, 2], self.x1) - np.maximum(boxes[:, 0], self.x0)
        height = np.minimum(boxes[:, 3], self.y1) - np.maximum(boxes[:, 1], self.y0)
        return np.nan_to_num(np.maximum(width, 0) * np.maximum(height, 0))

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([self.x0, self.x1]), np.array([self.y0, self.y1])

    def _cover(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.contains(*np.meshgrid(x, y))


@dataclass(frozen=True)
class Polygon:
    """`Polygon([(0, 0), (200, 0), (100, 40)])`: corners in original pixels, in order; the last joins the first.

    Points lie inside by the even-odd rule. `overlap` uses a raster of a quarter of a pixel (at most 2,048 cells to a
    side). Raises RegionError for fewer than three corners, corners on one line, or a corner that is not finite.
    """

    points: Sequence[Sequence[Number]] | Shaped[np.ndarray, "vertex 2"]

    def __post_init__(self) -> None:
        points = tuple(_finite(point) for point in self.points)
        pairs = all(len(point) == 2 and max(map(abs, point)) <= FARTHEST for point in points)
        # Corners that do not lie on one line span a plane.
        if len(points) < 3 or not pairs or np.linalg.matrix_rank(np.subtract(points[1:], points[0])) < 2:
            raise RegionError(
                f"A polygon of the corners {_short(self.points)} holds no area: expected at least three finite (x, y) "
                "pairs that do not lie on one line. For a flat COCO list use list(zip(flat[::2], flat[1::2]))."
            )
        object.__setattr__(self, "points", points)

    @property
    def bounds(self) -> Box:
        """The smallest box around the corners."""
        corners = np.array(self.points)
        return Box(*corners.min(0), *corners.max(0))

    def contains(self, x: Coordinates, y: Coordinates) -> Bool[np.ndarray, "*points"]:
        """Which of the points lie in the polygon."""
        return raster.inside(np.array(self.points), *np.broadcast_arrays(x, y))

    def overlap(self, boxes: Boxes) -> Float[np.ndarray, " n"]:
        """The area shared with each box, in square pixels; 0 for a NaN box."""
        return _measure(self, boxes)

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        box = self.bounds
        return _even(box.x0, box.x1), _even(box.y0, box.y1)

    def _cover(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return raster.scan(np.array(self.points), x, y)


@dataclass(frozen=True, eq=False)
class Mask:
    """`Mask(segmentation > 0)`: the true pixels of an array of the image's size.

    array: bool, [height, width], in original pixels; copied. `overlap` is exact up to 4,096 pixels to a side.
    Raises RegionError where no pixel is true.
    """

    array: Bool[np.ndarray, "height width"]

    def __post_init__(self) -> None:
        array = np.array(self.array)
        if array.ndim != 2 or array.dtype != bool or not array.any():
            raise RegionError(
                f"A mask of shape {array.shape} and type {array.dtype}, {np.count_nonzero(array)} pixels set, cannot "
                "be used: expected a boolean [height, width] array with a true pixel in it, such as Mask(array > 0)."
            )
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    @cached_property
    def bounds(self) -> Box:
        """The smallest box around the true pixels."""
        rows, columns = np.flatnonzero(self.array.any(1)), np.flatnonzero(self.array.any(0))
        return Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)

    def contains(self, x: Coordinates, y: Coordinates) -> Bool[np.ndarray, "*points"]:
        """Which of the points lie in a true pixel."""
        x, y = np.broadcast_arrays(x, y)
        height, width = self.array.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        row, column = (np.where(inside, value, 0).astype(int) for value in (y, x))
        return np.asarray(inside & self.array[row, column])

    def overlap(self, boxes: Boxes) -> Float[np.ndarray, " n"]:
        """The area shared with each box, in square pixels; 0 for a NaN box."""
        return _measure(self, boxes)

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        box = self.bounds
        return np.arange(box.x0, box.x1 + 1), np.arange(box.y0, box.y1 + 1)

    def _cover(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.contains(*np.meshgrid(x, y))


@dataclass(frozen=True)
class Union:
    """`Union([Box(0, 0, 10, 10), Box(50, 0, 60, 10)])`: the points that lie in at least one of the shapes.

    Shared area counts once. Raises RegionError where there is no shape, or a part is not a shape.
    """

    shapes: Sequence[Any]

    def __post_init__(self) -> None:
        shapes = tuple(self.shapes)
        if not shapes or not all(isinstance(part, Box | Polygon | Mask | Union) for part in shapes):
            raise RegionError(
                f"A union of {_short(shapes)} cannot be made: expected one or more of Box, Polygon, Mask and Union. "
                "Wrap four numbers as Box(x0, y0, x1, y1) and an array as Mask(array)."
            )
        object.__setattr__(self, "shapes", shapes)

    @property
    def bounds(self) -> Box:
        """The smallest box around all shapes."""
        sides = np.array([(part.bounds.x0, part.bounds.y0, part.bounds.x1, part.bounds.y1) for part in self.shapes])
        return Box(*sides[:, :2].min(0), *sides[:, 2:].max(0))

    def contains(self, x: Coordinates, y: Coordinates) -> Bool[np.ndarray, "*points"]:
        """Which of the points lie in at least one of the shapes."""
        return np.asarray(np.logical_or.reduce([part.contains(x, y) for part in self.shapes]))

    def overlap(self, boxes: Boxes) -> Float[np.ndarray, " n"]:
        """The area shared with each box, in square pixels, exact for boxes; 0 for a NaN box."""
        return _measure(self, boxes)

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        parts = [part._edges() for part in self.shapes]
        return np.unique(np.concatenate([x for x, _ in parts])), np.unique(np.concatenate([y for _, y in parts]))

    def _cover(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.logical_or.reduce([part._cover(x, y) for part in self.shapes])


def misses(shape: Shape, width: int, height: int) -> bool:
    """Whether a shape lies outside a picture of this size; its area is computed only where its bounds leave it open."""
    box = shape.bounds
    if box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height:
        return False
    return not shape.overlap(np.array([[0.0, 0.0, width, height]]))[0] > 0


def as_shape(value: Any) -> Shape:
    """A shape unchanged; four numbers as a Box; a boolean [height, width] array or tensor as a Mask.

    Raises RegionError for anything else.
    """
    if isinstance(value, Shape):
        return value
    try:
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except (TypeError, ValueError):  # such as lists of different lengths
        array = np.empty(0)
    if array.ndim == 2 and array.dtype == bool:
        return Mask(array)
    if array.shape == (4,) and array.dtype.kind in "iuf":
        return Box(*array.tolist())
    raise RegionError(
        f"{_short(value)} is not a region: expected a shape (Box, Polygon, Mask, Union), four numbers x0, y0, x1, y1, "
        "or a boolean [height, width] array, in original pixels."
    )


def _finite(values: Any) -> tuple[float, ...]:
    """Numbers as floats; empty where one is no number, not finite, or too large for a float."""
    try:
        numbers = tuple(math.nan if isinstance(value, str) else float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _measure(shape: Polygon | Mask | Union, boxes: Boxes) -> Float[np.ndarray, " n"]:
    """`overlap` computed on a raster, whose lines are the shape's own edges where these are few enough."""
    x, y = (edges if len(edges) <= MOST else _even(edges[0], edges[-1]) for edges in shape._edges())
    cells = shape._cover((x[:-1] + x[1:]) / 2, (y[:-1] + y[1:]) / 2)
    return raster.covered(cells, x=x, y=y, boxes=boxes)


def _even(start: Number, end: Number) -> np.ndarray:
    """Evenly spaced edges, four to a pixel; at least 64 cells, so that small shapes have an area."""
    return np.linspace(start, end, int(np.clip(math.ceil(4 * (end - start)), 64, FINE)) + 1)


def _short(value: Any) -> str:
    """At most 80 characters of a value's repr, for an error message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
