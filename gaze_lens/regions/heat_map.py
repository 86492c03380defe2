"""Maps of a picture that say how much each pixel is meant: saliency, a detector's map, human fixations, a soft disc.

    HeatMap(saliency)                                       # [height, width], 0 to 1, in the picture's own pixels
    HeatMap.of_points([(80, 16), (120, 20)], sigma=12)      # where people looked
    HeatMap.of_disc((80, 16), radius=24)
    inputs.region(HeatMap(saliency))                        # a Region whose tokens have weights, for gl.steer

Independent of tokens; `ImageTokens.weights` gives each token the mean over its box.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from gaze_lens.errors import RegionError
from gaze_lens.regions import raster
from gaze_lens.regions.shapes import Boxes, Number

Drawing = Callable[[int, int], Float[np.ndarray, "height width"]]  # of width and height
CUT = math.exp(-8)  # four sigma from a fixation: less than this is 0, so that the map has an end


@dataclass(frozen=True, eq=False)
class HeatMap:
    """`HeatMap(saliency / saliency.max())`: a weight from 0 to 1 for each pixel of a picture.

    array: [height, width] in the picture's own pixels, an array or tensor; copied. Not what the model sees: resize the
        map to the original image.
    Raises RegionError for an array that is not two-dimensional, that is 0 throughout, and for a value that is NaN,
    below 0 or above 1.
    """

    array: Any
    name: str = "heat map"

    def __post_init__(self) -> None:
        if not callable(self.array):
            object.__setattr__(self, "array", _checked(self.array))

    @classmethod
    def of_points(
        cls,
        points: Sequence[Sequence[Number]],
        *,
        sigma: float,
        durations: Sequence[float] | None = None,
    ) -> "HeatMap":
        """`HeatMap.of_points([(80, 16), (120, 20)], sigma=12)`: a Gaussian around each fixation, the largest value 1.

        points: (x, y) in the picture's pixels. sigma: of each Gaussian, in pixels. durations: of the fixations, in any
        unit: longer ones count more. Values below exp(-8), four sigma from a single fixation, are 0.
        Raises RegionError for no points, points that are no pairs of numbers, and a sigma or durations not above 0;
        and, where the map is used, for a point outside of the picture.
        """
        values = np.ones(len(points)) if durations is None else _numbers(durations)
        xy = _numbers(points)
        if xy.ndim != 2 or xy.shape[1:] != (2,) or not len(xy) or values.shape != xy.shape[:1]:
            raise RegionError(
                f"points={points!r:.60} with durations={durations!r:.40} was given; give at least one (x, y) in the "
                "picture's pixels, and one duration for each or none."
            )
        if not (_positive(sigma) and (values > 0).all()):
            raise RegionError(
                f"sigma={sigma!r} with durations={durations!r:.40} was given; expected a width in pixels, and "
                "durations, above 0."
            )
        return cls(partial(_gaussians, xy, float(sigma), values), f"{len(xy)} fixations")

    @classmethod
    def of_disc(cls, centre: Sequence[Number], *, radius: float) -> "HeatMap":
        """`HeatMap.of_disc((80, 16), radius=24)`: 1 at pixels whose centre is at most a radius away, in pixels; else 0.

        Raises RegionError for a centre that is no pair of numbers and a radius not above 0; and, where the map is used,
        for a centre outside of the picture, or a disc that holds no pixel's centre.
        """
        xy = _numbers(centre)
        if xy.shape != (2,) or not _positive(radius):
            raise RegionError(
                f"A disc at {centre!r:.60} of radius={radius!r} was given; give (x, y) and a size above 0."
            )
        return cls(partial(_disc, xy, float(radius)), f"disc of {radius:g} pixels")

    def drawn(self, width: int, height: int) -> Float[np.ndarray, "height width"]:
        """The map for a picture of this size; RegionError for a map of another one."""
        if callable(self.array):
            return _checked(self.array(width, height))
        if self.array.shape != (height, width):
            raise RegionError(
                f"The heat map has shape {self.array.shape}, the image {width} x {height} pixels: expected a map of "
                f"[height, width] = {(height, width)}. Resize it to the original image, not to what the model sees."
            )
        return self.array

    def means(self, boxes: Boxes, size: tuple[int, int]) -> Float[np.ndarray, " n"]:
        """The mean over the part of each box that lies in a picture of size (width, height); 0 where none does."""
        width, height = size
        array = self.drawn(width, height)
        inside = np.clip(np.nan_to_num(boxes), 0, np.tile(size, 2))
        area = np.prod(inside[:, 2:] - inside[:, :2], axis=1)
        total = raster.covered(array, x=np.arange(width + 1.0), y=np.arange(height + 1.0), boxes=inside)
        means = np.divide(total, area, out=np.zeros_like(total), where=area > 0)
        return np.where(means < np.finfo(np.float32).eps, 0.0, means).clip(max=1.0)  # sums are rounded


def _checked(values: Any) -> Float[np.ndarray, "height width"]:
    """A copy of a map that is one; RegionError for anything else."""
    array = _numbers(values)
    if array.ndim != 2 or not array.size:
        raise RegionError(f"A heat map of shape {array.shape} was given; give [height, width] of the original image.")
    low, high = array.min(), array.max()
    if not 0 <= low <= high <= 1:  # NaN, too
        raise RegionError(
            f"A heat map with values from {low:g} to {high:g} was given; give weights from 0 to 1, such as "
            "saliency / saliency.max()."
        )
    if not high:
        raise RegionError("The heat map is 0 throughout, so that nothing is meant; give a weight above 0 somewhere.")
    array.setflags(write=False)
    return array


def _numbers(values: Any) -> np.ndarray:
    """Values as a new array of float64; RegionError where they are no numbers."""
    try:
        return np.array(
            values.detach().cpu().double().numpy() if hasattr(values, "detach") else values, dtype=np.float64
        )
    except (TypeError, ValueError) as error:
        raise RegionError(f"{values!r:.60} was given for a heat map; expected numbers.") from error


def _positive(value: Any) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool) and bool(0 < value < math.inf)


def _gaussians(
    points: Shaped[np.ndarray, "point 2"], sigma: float, values: Shaped[np.ndarray, " point"], width: int, height: int
) -> Float[np.ndarray, "height width"]:
    """The sum of Gaussians of some heights around points, divided by its largest value."""
    for x, y in points:
        _check_inside("The fixation", x, y, width, height)
    across, down = (
        np.exp(-0.5 * ((np.arange(side) + 0.5 - points[:, axis, None]) / sigma) ** 2)
        for axis, side in enumerate((width, height))
    )
    total = (down * values[:, None]).T @ across
    if not total.any():
        raise RegionError(f"sigma={sigma:g} pixels is so small that no pixel's centre is reached; give a larger width.")
    total /= total.max()
    return np.where(total < CUT, 0.0, total)


def _disc(
    centre: Shaped[np.ndarray, " 2"], radius: float, width: int, height: int
) -> Float[np.ndarray, "height width"]:
    """1 at the pixels whose centre lies within a radius."""
    _check_inside("The disc's centre", centre[0], centre[1], width, height)
    x, y = np.arange(width) + 0.5 - centre[0], np.arange(height)[:, None] + 0.5 - centre[1]
    return (x**2 + y**2 <= radius**2).astype(np.float64)


def _check_inside(what: str, x: float, y: float, width: int, height: int) -> None:
    if not (0 <= x < width and 0 <= y < height):
        raise RegionError(
            f"{what} at ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels; give (x, y) in its pixels, "
            "or leave it out."
        )
