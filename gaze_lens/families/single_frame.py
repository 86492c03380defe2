"""Families with one view of the image in a fixed frame: its middle, or the whole padded to a square (LLaVA 1.5).

The settings of the image processor say which. Where it crops, no token covers what lies outside the middle; where it
pads, tokens in the padding have no box. DeepSeek-VL resizes the whole to a square's side, and then pads it.
"""

from collections.abc import Mapping
from typing import Any

from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.placement import Axis, blank, concatenated, even_spans, placed_grid
from gaze_lens.families.tiles import patch_size


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image: the tower's extra tokens (CLIP's class token), then the grid of the frame in raster order."""
    processor = processed.processor
    patch = processor.patch_size
    leading = blank(processor.num_additional_image_tokens)
    maps = []
    for index, size in enumerate(processed.images):
        height, width = processed.tensors["pixel_values"][index].shape[-2:]
        across, down = axes(processed, size)
        columns, rows = even_spans(width // patch, patch), even_spans(height // patch, patch)
        maps.append(concatenated([leading, placed_grid(size, across.original(columns), down.original(rows))]))
    # The strategy "default" removes the first token, whatever it is.
    dropped = int(processor.vision_feature_select_strategy == "default")
    return [TokenMap(m.boxes[dropped:], m.cells[dropped:], m.view[dropped:]) for m in maps]


def resized_then_padded_maps(processed: Processed) -> list[TokenMap]:
    """DeepSeek-VL: one map per image, the grid of the square in raster order."""
    patch = patch_size(processed.config)
    maps = []
    for index, size in enumerate(processed.images):
        height, width = processed.tensors["pixel_values"][index].shape[-2:]
        drawn = _with_longest_side(processed, size) if processed.setting("do_resize") else size
        across, down = (
            Axis(length, new, (visible - new) // 2)
            for length, new, visible in zip(size, drawn, (width, height), strict=True)
        )
        columns, rows = even_spans(width // patch, patch), even_spans(height // patch, patch)
        maps.append(placed_grid(size, across.original(columns), down.original(rows)))
    return maps


def _with_longest_side(processed: Processed, size: Size) -> Size:
    """(width, height) after DeepSeek-VL's resize; a short side gets the least size that is permitted."""
    scale, least = processed.setting("size")["height"] / max(size), processed.setting("min_size")
    return max(round(size[0] * scale), least), max(round(size[1] * scale), least)


def axes(processed: Processed, size: Size) -> tuple[Axis, Axis]:
    """Where the image lies in the frame, after the processor padded it to a square, resized and cropped it, or not."""
    square = processed.setting("do_pad") and hasattr(processed.processor.image_processor, "pad_to_square")
    canvas = (max(size), max(size)) if square else size
    resized = resized_size(canvas, dict(processed.setting("size"))) if processed.setting("do_resize") else canvas
    frame = resized
    if processed.setting("do_center_crop"):
        crop = dict(processed.setting("crop_size"))
        frame = crop["width"], crop["height"]
    across, down = (
        Axis(length, length * new / old, (old - length) // 2 * new / old - int((new - visible) / 2))
        for length, old, new, visible in zip(size, canvas, resized, frame, strict=True)
    )
    return across, down


def resized_size(size: Size, setting: Mapping[str, Any]) -> Size:
    """(width, height) after resizing to a processor's `size`: a shortest edge (same aspect ratio), or both sides."""
    if "shortest_edge" not in setting:
        return setting["width"], setting["height"]
    width, height = size
    short = setting["shortest_edge"]
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
