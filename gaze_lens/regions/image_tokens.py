"""The tokens of one image: their positions in the prompt, and the boxes that they cover in the picture.

    tokens = inputs.image_tokens[0]
    tokens.select(Box(10, 20, 110, 90))            # positions of the tokens whose centre lies in the box
    tokens.select((55, 40))                        # of the token that holds the point
    tokens.heatmap(pattern[0, 3, -1, tokens.positions])     # a head's attention, at the size of the picture
    tokens.bounds(positions)                       # the inverse: the smallest box around some tokens

Pixels are those of the original image: x right, y down, the right and lower ends excluded. Boxes are nominal: the
part of the picture that a token's patches were cut from. A vision tower also mixes in pixels from outside this part.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.errors import InputError, RegionError
from gaze_lens.regions.heat_map import HeatMap
from gaze_lens.regions.shapes import Box, Mask, Number, Shape, as_shape, misses
from gaze_lens.regions.video import Moment

Positions = Int[Tensor, " some"] | list[int] | tuple[int, ...]
RULES = ("centre", "overlap")
SEEN = 0.98  # share of a picture: where less has image tokens, the processor cut something off
LEAST = 1e-6  # part of a token's area: a region that shares less than this does not overlap it (rounding)


@dataclass(frozen=True, eq=False, repr=False)
class ImageTokens:
    """The tokens of one image of one prompt, in the order of the prompt.

    positions: [token], columns of the padded prompt.
    boxes: [token, 4], x0, y0, x1, y1 in original pixels; NaN where a token covers nothing (separators, padding).
    cells: [token, 2], row and column in the merged grid of the token's view; -1 where it has none.
    size: (width, height) of the original image, in pixels.
    image: index of the image in its prompt.
    row: batch row.
    view: [token], the crop or tile that the token belongs to, all 0 where the image is seen once; views may overlap.
    moment: of tokens of a video, the frames that they stand for, with their time; None for those of an image.
    Raises InputError where lengths differ, or a box is neither NaN throughout nor finite with x0 < x1 and y0 < y1.
    """

    positions: Int[Tensor, " token"]
    boxes: Float[Tensor, "token 4"]
    cells: Int[Tensor, "token 2"]
    size: tuple[int, int]
    image: int
    row: int
    view: Int[Tensor, " token"]
    moment: Moment | None = None

    def __post_init__(self) -> None:
        n = len(self.positions)
        shapes = {name: tuple(getattr(self, name).shape) for name in ("positions", "boxes", "cells", "view")}
        if shapes != {"positions": (n,), "boxes": (n, 4), "cells": (n, 2), "view": (n,)}:
            raise InputError(
                f"The parts of ImageTokens have shapes {shapes}: expected [token], [token, 4], [token, 2] and [token] "
                "with the same number of tokens. Give every token a row in each: NaN for no box, -1 for no cell."
            )
        boxes = self._boxes
        right = np.isnan(boxes).all(1) | (np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
        if not right.all():
            i = int(np.flatnonzero(~right)[0])
            raise InputError(
                f"Token {i} of image {self.image} has the box {boxes[i].tolist()}: expected x0 < x1 and y0 < y1 in "
                "original pixels, or four NaN for a token that covers nothing."
            )

    @cached_property
    def _boxes(self) -> np.ndarray:
        return self.boxes.detach().cpu().double().numpy()

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        width, height = self.size
        n_views = len(self.view.unique())
        views = f" in {n_views} views" if n_views > 1 else ""
        where = f" at {int(self.positions[0])} to {int(self.positions[-1])}" if len(self) else ""
        name = f"image {self.image}" if self.moment is None else str(self.moment)
        image = f"{name} ({width} x {height} pixels)"
        return f"ImageTokens: {len(self)} tokens{where}{views}, {image}, row {self.row}"

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the merged grid. Raises InputError where the image has several views, or none."""
        cells = self.cells[self.cells[:, 0] >= 0]
        n_views = len(self.view[self.cells[:, 0] >= 0].unique())
        if n_views != 1:
            raise InputError(
                f"Image {self.image} has {n_views} views, so it has no one grid: expected a single view. "
                "Use .cells and .view, which give every token's row and column in its own view."
            )
        rows, columns = (cells.max(0).values + 1).tolist()
        return rows, columns

    @property
    def token_size(self) -> tuple[float, float]:
        """(width, height) that most tokens cover, in original pixels; NaN where no token covers anything."""
        boxes = self._boxes[~np.isnan(self._boxes[:, 0])]
        if not len(boxes):
            return float("nan"), float("nan")
        width, height = np.median(boxes[:, 2:] - boxes[:, :2], axis=0).tolist()
        return width, height

    def at(self, x: Number, y: Number) -> Int[Tensor, " selected"]:
        """`tokens.at(55, 40)`: positions of the tokens whose box contains the point (one in each view that shows it).

        x, y: original pixels. Raises RegionError for a point outside the image, or one that no token covers.
        """
        return self.select((x, y))

    def select(self, region: Any, *, rule: str = "centre") -> Int[Tensor, " selected"]:
        """`tokens.select(Box(10, 20, 110, 90))`: positions of the tokens in a region, in the order of the prompt.

        region: a shape, four numbers (x0, y0, x1, y1), a point (x, y), or a boolean [height, width] array; in
            original pixels.
        rule: "centre" selects the tokens whose centre lies in the region, "overlap" all that share area with it. A
            point selects the tokens that contain it, with either rule.
        Raises RegionError where the region lies outside the image, holds no token, or is a mask of another size.
        """
        if rule not in RULES:
            raise RegionError(f"The rule {rule!r} is not known: expected 'centre' or 'overlap'.")
        width, height = self.size
        if is_point(region):
            x, y = (float(value) for value in region)
            outside = not (0 <= x < width and 0 <= y < height)
            selected = (self._boxes[:, :2] <= (x, y)).all(1) & (self._boxes[:, 2:] > (x, y)).all(1)
            description = f"the point ({x:g}, {y:g})"
        else:
            shape = as_shape(region)
            self._check_mask(shape)
            outside = misses(shape, width, height)
            selected = self._in_shape(shape, rule)
            description = f"a region within {shape.bounds} by rule '{rule}'"
        if outside or not selected.any():
            raise RegionError(self._empty_message(description, outside=outside))
        return self.positions[torch.from_numpy(selected).to(self.positions.device)]

    def weights(self, heat_map: HeatMap) -> Float[Tensor, " token"]:
        """`tokens.weights(HeatMap(saliency))`: for each token, the mean of a map over its box, from 0 to 1.

        Of a box that sticks out of the picture, the part inside counts; a token that covers nothing has 0.
        Raises RegionError for a map of another size than the picture, and one that is 0 on every token.
        """
        means = torch.from_numpy(heat_map.means(self._boxes, self.size))
        if not means.any():
            raise RegionError(
                f"The {heat_map.name} is 0 on all {len(self)} tokens of image {self.image}, which the model's "
                "processor may have cropped; give a map that is above 0 where the model sees the picture, or prepare "
                "with fit='whole'."
            )
        return means

    def _in_shape(self, shape: Shape, rule: str) -> Bool[np.ndarray, " token"]:
        """Which tokens a shape selects."""
        boxes = self._boxes
        if rule == "overlap":
            area = np.nan_to_num((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
            return shape.overlap(boxes) > LEAST * area
        has_box = ~np.isnan(boxes[:, 0])
        centres = np.nan_to_num((boxes[:, :2] + boxes[:, 2:]) / 2)
        return has_box & shape.contains(centres[:, 0], centres[:, 1])

    def _check_mask(self, shape: Shape) -> None:
        width, height = self.size
        for part in getattr(shape, "shapes", (shape,)):
            if isinstance(part, Mask) and part.array.shape != (height, width):
                raise RegionError(
                    f"The mask has shape {part.array.shape}, the image {width} x {height} pixels: expected a mask of "
                    f"[height, width] = {(height, width)}. Resize it to the original image, not to what the model sees."
                )

    def _empty_message(self, region: str, *, outside: bool) -> str:
        """The message of the error for a region that selects no token."""
        width, height = self.size
        token = "{:.4g} x {:.4g}".format(*self.token_size)
        reason = "lies outside the image" if outside else "holds no image token"
        has_box = ~np.isnan(self._boxes[:, 0])
        (x0, y0), (x1, y1) = self._boxes[has_box, :2].min(0), self._boxes[has_box, 2:].max(0)
        if not outside and (x1 - x0) * (y1 - y0) < SEEN * width * height:
            return (
                f"{region[0].upper()}{region[1:]} {reason}: of the image of {width} x {height} pixels, the model's "
                f"processor keeps only x {x0:.0f} to {x1:.0f} and y {y0:.0f} to {y1:.0f}. Show it whole: "
                "model.prepare(picture, prompt, fit='whole'), or --fit whole on the command line."
            )
        return (
            f"{region[0].upper()}{region[1:]} {reason}: the image is {width} x {height} pixels, and a token covers "
            f"{token} pixels. Give x in 0..{width} and y in 0..{height}, and a region of at least a token's size, or "
            "rule='overlap'."
        )

    def heatmap(self, values: Float[Tensor, " token"]) -> Float[Tensor, "height width"]:
        """`tokens.heatmap(pattern[0, 3, -1, tokens.positions])`: one value per token, as a map of the picture's size.

        values: [token], in the order of `positions`.
        Returns [height, width] of the original image. A pixel has the value of the token whose box contains the pixel's
        centre; the mean of these values where views overlap; 0 where there is no token. Values are not divided by area,
        so the sum of the map is the sum of value times pixels covered. Half precision is converted to float32. Where
        tokens are smaller than pixels, tokens that contain no pixel's centre are not in the map.
        Raises InputError where the number of values is not the number of tokens.
        """
        if values.shape != self.positions.shape:
            raise InputError(
                f"Values of shape {tuple(values.shape)} make no heat map: expected one value for each of the "
                f"{len(self)} tokens of image {self.image}. Take pattern[row, head, query, tokens.positions]."
            )
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        total, count = values.new_zeros(self.size[::-1]), values.new_zeros(self.size[::-1])
        for index in self._pixels:
            index = index.to(values.device)
            # The extra value at the end, which index -1 selects, stands for "no token".
            total = total + torch.cat([values, values.new_zeros(1)])[index]
            count = count + (index >= 0)
        return total / count.clamp(min=1)

    @cached_property
    def _pixels(self) -> list[Int[Tensor, "height width"]]:
        """For each view, the index of the token that contains each pixel's centre; -1 for none."""
        # The two tokens at a border compute its position separately; rounding to 0.01 pixel makes them agree.
        ends = np.ceil(np.round(self._boxes - 0.5, 2))
        has_box = ~np.isnan(self._boxes[:, 0])
        ends = np.clip(np.nan_to_num(ends), 0, np.tile(self.size, 2)).astype(int)
        view = self.view.cpu().numpy()
        return [self._index(np.flatnonzero(has_box & (view == one)), ends) for one in np.unique(view[has_box])]

    def _index(self, tokens: np.ndarray, ends: np.ndarray) -> Int[Tensor, "height width"]:
        """The index map of tokens that do not overlap, as the cumulative sum of their signed corners."""
        width, height = self.size
        corners = np.zeros((2, height + 1, width + 1), np.int32)
        x0, y0, x1, y1 = ends[tokens].T
        for y, x, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
            np.add.at(corners[0], (y, x), sign * (tokens + 1))
            np.add.at(corners[1], (y, x), sign)
        index, count = corners[:, :height, :width].cumsum(1, dtype=np.int32).cumsum(2, dtype=np.int32)
        if count.max(initial=0) > 1:
            raise InputError(
                f"Tokens of one view of image {self.image} overlap: expected boxes that share no pixel within a view. "
                "Give tokens of overlapping crops different numbers in .view."
            )
        return torch.from_numpy(index.astype(np.int64) - 1)

    def bounds(self, positions: Positions) -> Box:
        """`tokens.bounds(tokens.select(box))`: the smallest box around some tokens, in original pixels.

        positions: columns of the prompt. Raises RegionError for a position that is not a token of this image, and
        where none of the tokens covers anything.
        """
        boxes = self._boxes[self._rows(positions)]
        boxes = boxes[~np.isnan(boxes[:, 0])]
        if not len(boxes):
            raise RegionError(
                f"None of the {len(positions)} tokens covers a part of image {self.image}: expected at least one token "
                "with a box (not a separator or padding). Look at .boxes."
            )
        return Box(*boxes[:, :2].min(0), *boxes[:, 2:].max(0))

    def mask(self, positions: Positions) -> Bool[Tensor, "height width"]:
        """`tokens.mask(positions)`: the pixels whose centre lies in one of some tokens, [height, width].

        positions: columns of the prompt. Raises RegionError for a position that is not a token of this image.
        """
        selected = torch.zeros(len(self))
        selected[torch.from_numpy(self._rows(positions))] = 1
        return self.heatmap(selected) > 0

    def _rows(self, positions: Positions) -> np.ndarray:
        """The indices of the tokens at some positions of the prompt."""
        index = {position: i for i, position in enumerate(self.positions.tolist())}
        columns = positions.tolist() if isinstance(positions, Tensor) else list(positions)
        unknown = [position for position in columns if position not in index]
        if unknown:
            raise RegionError(
                f"Positions {unknown[:5]} are not tokens of image {self.image}: expected some of .positions, "
                f"{min(index, default=None)} to {max(index, default=None)}. Positions are columns of the padded prompt."
            )
        return np.array([index[position] for position in columns], dtype=np.int64)


def is_point(region: Any) -> bool:
    """Whether a region is two numbers."""
    sequence = isinstance(region, list | tuple | np.ndarray | Tensor)
    return sequence and len(region) == 2 and all(np.ndim(value) == 0 and not isinstance(value, str) for value in region)
