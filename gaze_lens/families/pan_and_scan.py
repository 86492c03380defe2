"""Families that show the whole image first, then crops of a long image where "pan and scan" is on (Gemma 3).

model.processor.images_kwargs = {**model.processor.images_kwargs, "do_pan_and_scan": True}
"""

import math

from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.tiles import Tile, View, patch_size, tile_side, token_map, whole


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image: the whole image, then the crops of "pan and scan", if any."""
    side, patch = tile_side(processed), patch_size(processed.config)
    pooled = side // patch // math.isqrt(processed.config.mm_tokens_per_image)
    tile = Tile.of(side, patch=patch, merge=pooled)
    return [token_map(size, [whole(size), *_crops(processed, size)], tile) for size in processed.images]


def _crops(processed: Processed, size: Size) -> list[View]:
    if not processed.setting("do_pan_and_scan"):
        return []
    return crops(
        size,
        least=processed.setting("pan_and_scan_min_crop_size"),
        most=processed.setting("pan_and_scan_max_num_crops"),
        ratio=processed.setting("pan_and_scan_min_ratio_to_activate"),
    )


def crops(size: Size, *, least: int, most: int, ratio: float) -> list[View]:
    """Crops along the long side, the last one possibly shorter; none where the image is not long enough.

    least: the smallest side of a crop, in pixels. most: the largest number of crops. ratio: the smallest ratio of the
    long to the short side for which there are crops.
    """
    long, short = max(size), min(size)
    if long / short < ratio:
        return []
    number = min(most, max(2, min(long // least, math.floor(long / short + 0.5))))
    step = math.ceil(long / number)
    if min(step, short) < least:
        return []
    ends = [(float(start), float(min(start + step, long))) for start in range(0, step * number, step)]
    width, height = float(size[0]), float(size[1])
    if width >= height:
        return [(start, 0.0, end, height) for start, end in ends]
    return [(0.0, start, width, end) for start, end in ends]
