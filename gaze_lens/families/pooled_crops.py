"""Families with two pooled views: the whole image, stretched, and a canvas of overlapping crops (Molmo2).

The crops overlap so that patches at their borders have context. These margins are dropped, and the remaining patches
make one grid over a canvas to which the whole image was stretched. Each view is pooled separately, in windows of
patches; the patches are padded to whole windows, so windows at the edges hold fewer patches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.placement import Axis, concatenated, placed_grid

PIXELS = ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops")


@dataclass(frozen=True)
class Crops:
    """How images are cut into crops.

    side: of a crop, in pixels. patch: its patches' side, in pixels. margin: patches of a crop that are dropped, both
    sides together. pool: (height, width) of the windows, in patches. most: the largest number of crops of an image.
    """

    side: int
    patch: int
    margin: int
    pool: Sequence[int]
    most: int

    @classmethod
    def of(cls, processed: Processed) -> "Crops":
        """From the settings of a processor."""
        names = ("size", "patch_size", "overlap_margins", "pooling_size", "max_crops")
        size, patch, margins, pool, most = (processed.setting(name) for name in names)
        return cls(size["height"], patch, sum(margins), pool, most)

    def canvas(self, tokens: int, pool: int) -> tuple[int, int]:
        """The number of crops in one direction that make so many tokens, and the length of their canvas in pixels."""
        window = self.side // self.patch - self.margin
        for crops in range(1, self.most + 1):
            patches = crops * window + self.margin
            if -(-patches // pool) == tokens:
                return crops, patches * self.patch
        raise InputError(
            f"The processor made {tokens} tokens in one direction of an image, and no number of crops from 1 to "
            f"{self.most} makes that many. It is not as this version of gaze_lens knows it."
        )


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image: the whole image in low resolution (view 0), then the canvas of crops (view 1)."""
    if not processed.images:
        return []
    grids, counts = (processed.tensors[name].tolist() for name in ("image_grids", "image_num_crops"))
    cut = Crops.of(processed)
    return [_map(cut, *image) for image in zip(processed.images, grids, counts, strict=True)]


def _map(cut: Crops, size: Size, grid: Sequence[int], n_crops: int) -> TokenMap:
    """The two views of an image. grid: rows and columns of the whole, then of the crops. n_crops: with the whole."""
    (down, height), (across, width) = (cut.canvas(*axis) for axis in zip(grid[2:], cut.pool, strict=True))
    if down * across + 1 != n_crops:
        raise InputError(
            f"The processor made {n_crops} crops of an image of {size[0]} x {size[1]} pixels, and its grid {grid} is "
            f"that of {down * across + 1}. It is not as this version of gaze_lens knows it."
        )
    whole = _view(cut, size, grid[:2], (cut.side, cut.side), view=0)
    return concatenated([whole, _view(cut, size, grid[2:], (height, width), view=1)])


def _view(cut: Crops, size: Size, counts: Sequence[int], stretched: Sequence[int], view: int) -> TokenMap:
    """The whole image, stretched to `stretched` (height, width) pixels and pooled to `counts` (rows, columns)."""
    down, across = (
        _pooled(pixels // cut.patch, count, pool) * cut.patch
        for pixels, count, pool in zip(stretched, counts, cut.pool, strict=True)
    )
    x, y = Axis(size[0], stretched[1]).original(across), Axis(size[1], stretched[0]).original(down)
    return placed_grid(size, x, y, view)


def _pooled(patches: int, count: int, pool: int) -> Float[Tensor, "token 2"]:
    """The span of each token, in patches: adjacent windows over the patches, with padding on both sides."""
    before = (count * pool - patches) // 2
    starts = torch.arange(count).double() * pool - before
    return torch.stack([starts, starts + pool], dim=-1).clamp(0, patches)


def encode(
    model: Any, tensors: Mapping[str, Tensor], maps: Sequence[TokenMap], selected: Sequence[int]
) -> list[EncodedImage]:
    """The vision tower's pooled output for the images `selected`."""
    crops = tensors["pixel_values"].split(tensors["image_num_crops"].tolist())
    windows = tensors["image_token_pooling"].split([len(token_map) for token_map in maps])
    patches = [len(crop) * crop.shape[1] for crop in crops]
    pooling, first = [], 0
    for index in selected:  # windows hold indices of patches among those of all images
        pooling.append(torch.where(windows[index] >= 0, windows[index] - sum(patches[:index]) + first, -1))
        first += patches[index]
    pixels = torch.cat([crops[index] for index in selected])
    grids = tensors["image_grids"][list(selected)]
    output = model.model.get_image_features(pixels, torch.cat(pooling), grids, return_dict=True)
    return [{"tokens": tokens} for tokens in output.pooler_output]
