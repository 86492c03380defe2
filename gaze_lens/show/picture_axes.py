"""Pictures with named regions, drawn on axes.

sheet = Sheet.of(pictures)                  # side by side, at a common height
sheet.draw(axes); sheet.outline(axes); sheet.label(axes, notes, width=9.0)
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes

from gaze_lens.regions.outlines import outlines
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box, Shape
from gaze_lens.show.plot import ACCENT, INK, shorten

MAX_SIDE = 1600  # pixels a side, at most, that are drawn
MIN_WIDTH = 0.3  # inches: a narrower region inside a picture gets no label
PLATE = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


@dataclass(frozen=True)
class Sheet:
    """Pictures side by side, left to right, at the height of the highest.

    pictures: of `Picture`. lefts: x of each picture's left side. scales: sheet units per pixel of each.
    size: (width, height) in sheet units, which are pixels of the highest picture.
    """

    pictures: tuple[Picture, ...]
    lefts: tuple[float, ...]
    scales: tuple[float, ...]
    size: tuple[float, float]

    @classmethod
    def of(cls, pictures: Sequence[Picture]) -> "Sheet":
        """`Sheet.of([strip])`."""
        height = max(picture.image.height for picture in pictures)
        scales = tuple(height / picture.image.height for picture in pictures)
        widths = [picture.image.width * scale for picture, scale in zip(pictures, scales, strict=True)]
        gap = 0.02 * sum(widths)
        lefts = tuple(sum(widths[:i]) + gap * i for i in range(len(widths)))
        return cls(tuple(pictures), lefts, scales, (lefts[-1] + widths[-1], height))

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.size[0] / self.size[1]

    def draw(self, axes: Axes, *, faded: bool = False) -> None:
        """The pictures as they are, or faded to light greys so that colours can lie over them."""
        for index, picture in enumerate(self.pictures):
            pixels = np.asarray(read_image(picture.image).reduce(step(picture)), np.float32) / 255
            grey = pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
            self.draw_array(axes, index, 0.4 + 0.6 * (0.2 * pixels + 0.8 * grey) if faded else pixels)
        axes.set(xlim=(0, self.size[0]), ylim=(self.size[1], 0), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)

    def draw_array(
        self, axes: Axes, index: int, array: Float[np.ndarray, "height width *channels"], **options: Any
    ) -> Any:
        """Draw an array over one of the pictures, at any resolution; options go to imshow."""
        image, left, scale = self.pictures[index].image, self.lefts[index], self.scales[index]
        extent = (left, left + image.width * scale, image.height * scale, 0)
        return axes.imshow(array, extent=extent, **options)

    def to_sheet(self, index: int, points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
        """From pixels of one of the pictures to sheet units."""
        return points * self.scales[index] + (self.lefts[index], 0)

    def shapes(self) -> Iterator[tuple[int, str, Shape]]:
        """(index of the picture, name, shape) of every named region, in order."""
        for index, picture in enumerate(self.pictures):
            yield from ((index, name, shape) for name, shape in picture.regions.items())

    def outline(self, axes: Axes, *, only: str | None = None, colour: str = INK, width: float = 0.9) -> None:
        """Borders of all regions, or of those with one name."""
        shapes = [(index, shape) for index, name, shape in self.shapes() if only in (None, name)]
        lines = [self.to_sheet(index, line) for index, shape in shapes for line in outlines(shape)]
        for thick, paint in ((width + 1.6, "white"), (width, colour)):
            for line in lines:
                axes.plot(*line.T, color=paint, linewidth=thick, clip_on=False, solid_joinstyle="miter")

    def dim(self, axes: Axes, name: str) -> None:
        """White over everything outside the region of that name."""
        for index, picture in enumerate(self.pictures):
            outside = ~inside(picture, name)
            veil = np.ones((*outside.shape, 4), np.float32)
            veil[..., 3] = 0.72 * outside
            self.draw_array(axes, index, veil, interpolation="nearest")

    def label(self, axes: Axes, notes: Sequence[str], *, width: float, names: bool = True, size: float = 8.0) -> None:
        """A name and a note (which may be "") for every region: above and below panels in a row, else inside.

        width: of the axes, in inches. names: whether names are written, or the notes alone.
        """
        in_row, inches = self.in_row, width / self.size[0]
        for (index, name, shape), note in zip(self.shapes(), notes, strict=True):
            points = np.concatenate([self.to_sheet(index, line) for line in outlines(shape)]).clip(0, self.size)
            (x0, _), (x1, _) = points.min(0), points.max(0)
            name = shorten(name, (x1 - x0) * inches, size=size) if names else ""
            if in_row:
                middle, off = (x0 + x1) / 2, 0.04 / inches
                axes.text(middle, -off, name, ha="center", va="bottom", fontsize=size)
                axes.text(middle, self.size[1] + off, note, ha="center", va="top", fontsize=size)
            elif (x1 - x0) * inches > MIN_WIDTH:
                text, off = "\n".join(filter(None, (name, note))), 0.05 / inches
                x, y = min(points.round().tolist(), key=lambda point: (point[1], point[0]))  # the upper left corner
                axes.text(x + off, y + off, text, va="top", fontsize=size - 1, bbox=PLATE)

    @property
    def in_row(self) -> bool:
        """Whether the regions (if any) are panels side by side: as high as their picture, none over another."""
        ends = []
        for index, _, shape in self.shapes():
            box, picture = shape.bounds, self.pictures[index]
            if not isinstance(shape, Box) or box.y0 > 0 or box.y1 < picture.image.height:
                return False
            ends.append((index, box.x0, box.x1))
        ends.sort()
        return all(a[0] < b[0] or a[2] <= b[1] + 0.5 for a, b in itertools.pairwise(ends))

    @property
    def head_room(self) -> float:
        """Inches above the pictures for the names of panels."""
        return 0.2 if self.in_row and any(picture.regions for picture in self.pictures) else 0.0


def mark(axes: Axes, column: float, row: float, *, width: float = 1.0) -> None:
    """The accent's frame around a cell of an image."""
    x, y = column + np.array([-0.5, 0.5, 0.5, -0.5, -0.5]), row + np.array([-0.5, -0.5, 0.5, 0.5, -0.5])
    axes.plot(x, y, color=ACCENT, linewidth=width, clip_on=False, solid_joinstyle="miter")


def step(picture: Picture) -> int:
    """The stride at which the pixels of a picture are drawn."""
    return math.ceil(max(picture.image.size) / MAX_SIDE)


def inside(picture: Picture, name: str) -> Bool[np.ndarray, "rows columns"]:
    """Which of the drawn pixels lie in a region; none where the picture has no region of that name."""
    width, height = picture.image.size
    stride = step(picture)
    x, y = np.meshgrid(np.arange(0, width, stride) + 0.5, np.arange(0, height, stride) + 0.5)
    return picture.regions[name].contains(x, y) if name in picture.regions else np.zeros(x.shape, bool)
