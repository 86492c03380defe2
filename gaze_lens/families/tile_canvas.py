"""Families that fit an image into the upper left of a canvas of square tiles, without stretching it (Llama 4).

Tokens of the canvas beyond the image are padding and cover nothing. The last view is the whole image, stretched.
"""

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.tiles import Tile, View, merged, patch_size, tile_side, token_map, whole


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image: the tiles of its canvas in raster order, then the whole image where there is more than one."""
    side = tile_side(processed)
    merge = merged(processed.config.vision_config.pixel_shuffle_ratio)
    tile = Tile.of(side, patch=patch_size(processed.config), merge=merge)
    return [token_map(size, _views(processed, size, side), tile) for size in processed.images]


def _views(processed: Processed, size: Size, side: int) -> list[View]:
    largest = processed.setting("resize_to_max_canvas")
    canvas = best_canvas(size, side, processed.setting("max_patches"), largest=largest)
    limits = canvas if largest else [min(max(edge, side), end) for edge, end in zip(size[::-1], canvas, strict=True)]
    width, height = fitted(size, limits)
    rows, columns = (int(edge) // side for edge in canvas)
    views = canvas_views(size, (width, height), rows, columns, side)
    return [*views, whole(size)] if len(views) > 1 else views


def canvas_views(size: Size, resized: Size, rows: int, columns: int, side: int) -> list[View]:
    """The views of a canvas' tiles, in raster order. resized: (width, height) of the image on the canvas, in pixels."""
    x, y = size[0] * side / resized[0], size[1] * side / resized[1]
    return [(column * x, row * y, (column + 1) * x, (row + 1) * y) for row in range(rows) for column in range(columns)]


def best_canvas(size: Size, side: int, most: int, *, largest: bool = False) -> Int[Tensor, "2"]:
    """(height, width) in pixels of the best canvas for an image, of up to `most` tiles.

    That is the one with the least upscaling (with the most, if `largest`) or, where none holds the image at full size,
    with the least downscaling; of several such, the smallest. In float32, as in the processor: rounding decides between
    two canvases that are nearly equal.
    """
    numbers = range(1, most + 1)
    canvases = torch.tensor([(rows, columns) for rows in numbers for columns in numbers if rows * columns <= most])
    canvases = canvases * side
    scales = torch.minimum(canvases[:, 0] / size[1], canvases[:, 1] / size[0])
    enough = scales[scales >= 1]
    scale = (enough.max() if largest else enough.min()) if len(enough) else scales.max()
    best = canvases[scales == scale]
    return best[best.prod(dim=-1).argmin()]


def fitted(size: Size, limits: Any) -> Size:
    """(width, height) of an image resized to fit into `limits` (height, width) with its aspect ratio.

    Limits that are tensors make the arithmetic float32, as in the processor.
    """
    width, height = size
    most_high, most_wide = limits
    by_width, by_height = most_wide / width, most_high / height
    if by_width < by_height:
        resized = most_wide, min(math.floor(height * by_width), most_high)
    else:
        resized = min(math.floor(width * by_height), most_wide), most_high
    return max(int(resized[0]), 1), max(int(resized[1]), 1)
