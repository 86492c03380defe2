"""Families that stretch an image to a grid of square tiles, followed by a view of the whole image.

The grid is chosen by the closest aspect ratio (InternVL, AyaVision), by the least upscaling (Cohere2Vision), or by the
long side (Idefics3, SmolVLM), where tokens in the text name the row and column of every tile.
"""

import math
import re
from collections.abc import Callable

from gaze_lens.errors import ImageError
from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.tiles import Tile, merged, patch_size, tile_side, tile_views, token_map, whole

Grid = tuple[int, int]  # columns, rows
LARGEST = 4096  # pixels: the longest side of an image in Idefics3 and SmolVLM
TILE_NAME = re.compile(r"<row_(\d+)_col_(\d+)>")
WHOLE = "<global-img>"


def tiled(size: Size, grid: Grid, tile: Tile) -> TokenMap:
    """The tiles of an image in raster order, then the whole image; only that where the grid is a single tile."""
    columns, rows = grid
    views = tile_views(size, rows, columns) if rows * columns > 1 else []
    return token_map(size, [*views, whole(size)], tile)


def token_maps(processed: Processed, *, choose: Callable[[Size, int, int, int], Grid], merge: str) -> list[TokenMap]:
    """One map per image, where `crop_to_patches` and limits on the number of tiles are settings of the processor.

    choose: `closest_aspect` or `least_upscaling`. merge: the config's name for the factor that merges patches.
    """
    side = tile_side(processed)
    tile = Tile.of(side, patch=patch_size(processed.config), merge=merged(getattr(processed.config, merge)))
    if not processed.setting("crop_to_patches"):
        return [tiled(size, (1, 1), tile) for size in processed.images]
    least, most = processed.setting("min_patches"), processed.setting("max_patches")
    return [tiled(size, choose(size, side, least, most), tile) for size in processed.images]


def closest_aspect(size: Size, side: int, least: int, most: int) -> Grid:
    """The grid of `least` to `most` tiles whose aspect ratio is closest to the image's.

    Of two that are equally close, the one with more tiles, if its area is less than twice the image's.
    """
    width, height = size
    best, gap = (1, 1), math.inf
    for columns, rows in _grids(least, most):
        new = abs(width / height - columns / rows)
        if new < gap or (new == gap and width * height > 0.5 * side * side * columns * rows):
            best, gap = (columns, rows), new
    return best


def least_upscaling(size: Size, side: int, _least: int, most: int) -> Grid:
    """The grid of up to `most` tiles with the least upscaling of the image or, where none holds the image at full size,
    with the least downscaling. The processor has no lower limit."""
    width, height = size
    grids = _grids(1, most)
    scales = [min(columns * side / width, rows * side / height) for columns, rows in grids]
    enough = [scale for scale in scales if scale >= 1]
    return grids[scales.index(min(enough) if enough else max(scales))]


def _grids(least: int, most: int) -> list[Grid]:
    """All grids of `least` to `most` tiles, sorted by the number of tiles, then of columns."""
    numbers = range(1, most + 1)
    return sorted(
        ((columns, rows) for columns in numbers for rows in numbers if least <= columns * rows <= most), key=math.prod
    )


def named_token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, where tokens in the text name the row and column of every tile."""
    if not processed.images:
        return []
    side = processed.setting("max_image_size")["longest_edge"]
    tile = Tile.of(side, patch=patch_size(processed.config), merge=processed.config.scale_factor)
    grids = named_grids(processed) or [grid_by_long_side(processed, size) for size in processed.images]
    for size, grid in zip(processed.images, grids, strict=True):
        _refuse_squeezed(processed, size, grid, tile)
    return [tiled(size, grid, tile) for size, grid in zip(processed.images, grids, strict=True)]


def _refuse_squeezed(processed: Processed, size: Size, grid: Grid, tile: Tile) -> None:
    """ImageError where the first resize leaves a side too few pixels for its tokens, which then see more than a box.

    A picture of 3000 x 2 pixels becomes 1456 x 1 before it is stretched again: both of its rows lie in every token.
    """
    if not processed.setting("do_resize"):
        return
    resized = _resized(processed, size)
    for pixels, drawn, tiles in zip(size, resized, grid, strict=True):
        if drawn < min(pixels, tiles * tile.side):
            raise ImageError(
                f"A picture of {size[0]} x {size[1]} pixels is first resized to {resized[0]} x {resized[1]}, too few "
                f"for {tiles * tile.side} tokens along that side: what each sees could not be told. Crop or pad the "
                "picture to a less extreme shape."
            )


def named_grids(processed: Processed) -> list[Grid] | None:
    """The grids that the tokens before the runs of image tokens name; None where the tokenizer has no such tokens.

    The last tile that is named for an image is its lower right one; the whole image comes after it.
    """
    ids = processed.tensors["input_ids"].flatten()
    is_image = ids == processed.config.image_token_id
    before = ids[:-1][is_image[1:] & ~is_image[:-1]].tolist()
    grids, last = [], (1, 1)
    for token in processed.processor.tokenizer.convert_ids_to_tokens(before):
        tile = TILE_NAME.fullmatch(token)
        if tile:
            last = int(tile[2]), int(tile[1])
        elif token == WHOLE:
            grids.append(last)
            last = (1, 1)
        else:
            return None
    return grids


def grid_by_long_side(processed: Processed, size: Size) -> Grid:
    """An image's grid from its size: the long side is resized to a whole number of tiles, the short side follows."""
    if not processed.setting("do_image_splitting"):
        return (1, 1)
    side = processed.setting("max_image_size")["longest_edge"]
    width, height = _resized(processed, size) if processed.setting("do_resize") else size
    width, height = _with_long_side(width, height, math.ceil(max(width, height) / side) * side)
    return math.ceil(width / side), math.ceil(height / side)


def _resized(processed: Processed, size: Size) -> Size:
    """(width, height) after the first resize, to the processor's longest edge."""
    setting = processed.setting("size")
    longest = setting.get("longest_edge")
    if longest is None:
        return setting["width"], setting["height"]
    width, height = _with_long_side(*size, longest)
    width, height = (width, height + height % 2) if size[0] >= size[1] else (width + width % 2, height)
    width, height = max(width, 1), max(height, 1)
    if max(width, height) > LARGEST:
        width, height = _with_long_side(width, height, LARGEST)
    return max(width, 1), max(height, 1)


def _with_long_side(width: int, height: int, side: int) -> Size:
    aspect = width / height
    return (side, int(side / aspect)) if width >= height else (int(side * aspect), side)
