"""Families that fit an image into the upper left of a canvas of square tiles, without stretching it (Llama 4).

Tokens of the canvas beyond the image are padding and cover nothing. The whole image, stretched, comes last.
"""

import math
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.tiles import Tile, View, merged, patch_size, tile_side, token_map, whole


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image: the tiles of its canvas in raster order, then the whole unless there is but one tile."""
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


def canvas_views(size: Size, drawn: Size, rows: int, columns: int, side: int) -> list[View]:
    """What the tiles of a canvas show, in raster order, of an image that is `drawn` (width, height) pixels large."""
    x, y = size[0] * side / drawn[0], size[1] * side / drawn[1]
    return [(column * x, row * y, (column + 1) * x, (row + 1) * y) for row in range(rows) for column in range(columns)]


def best_canvas(size: Size, side: int, most: int, *, largest: bool = False) -> Int[Tensor, "2"]:
    """(height, width) in pixels of the canvas of up to `most` tiles that the image fills with the least upscaling (the
    most, if `largest`), or else with the least downscaling; of several such, the smallest.

    In float32, as in the processor: where two canvases nearly tie, rounding decides.
    """
    numbers = range(1, most + 1)
    canvases = torch.tensor([(rows, columns) for rows in numbers for columns in numbers if rows * columns <= most])
    canvases = canvases * side
    scales = torch.minimum(canvases[:, 0] / size[1], canvases[:, 1] / size[0])
    enough = scales[scales >= 1]
    scale = (enough.max() if largest else enough.min()) if len(enough) else scales.max()
    alike = canvases[scales == scale]
    return alike[alike.prod(dim=-1).argmin()]


def fitted(size: Size, limits: Any) -> Size:
    """(width, height) of an image resized to fit into `limits` (height, width), keeping its aspect.

    A limit from a tensor makes the arithmetic float32, as in the processor.
    """
    width, height = size
    most_high, most_wide = limits
    by_width, by_height = most_wide / width, most_high / height
    if by_width < by_height:
        drawn = most_wide, min(math.floor(height * by_width), most_high)
    else:
        drawn = min(math.floor(width * by_height), most_wide), most_high
    return max(int(drawn[0]), 1), max(int(drawn[1]), 1)
