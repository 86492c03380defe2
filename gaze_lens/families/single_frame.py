"""Families that see one view of an image in a fixed frame: its middle, or the whole padded to a square (LLaVA 1.5).

What the image processor does is read from its settings. Where it crops, what lies outside the middle is seen by no
token; where it pads, tokens in the padding have no box.
"""

from collections.abc import Mapping
from typing import Any

from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.placement import Axis, blank, even_spans, joined, placed_grid


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image: the tower's extra tokens (CLIP's class token), then the frame's grid in raster order."""
    processor = processed.processor
    patch = processor.patch_size
    leading = blank(processor.num_additional_image_tokens)
    maps = []
    for index, size in enumerate(processed.images):
        height, width = processed.tensors["pixel_values"][index].shape[-2:]
        across, down = axes(processed, size)
        columns, rows = even_spans(width // patch, patch), even_spans(height // patch, patch)
        maps.append(joined([leading, placed_grid(size, across.original(columns), down.original(rows))]))
    # The strategy "default" takes away the first token, whatever it is.
    dropped = int(processor.vision_feature_select_strategy == "default")
    return [TokenMap(m.boxes[dropped:], m.cells[dropped:], m.view[dropped:]) for m in maps]


def axes(processed: Processed, size: Size) -> tuple[Axis, Axis]:
    """How the image processor lays an image into the frame: padded to a square, resized, cropped, each if it does."""
    square = processed.setting("do_pad") and hasattr(processed.processor.image_processor, "pad_to_square")
    canvas = (max(size), max(size)) if square else size
    drawn = resized(canvas, dict(processed.setting("size"))) if processed.setting("do_resize") else canvas
    frame = drawn
    if processed.setting("do_center_crop"):
        crop = dict(processed.setting("crop_size"))
        frame = crop["width"], crop["height"]
    across, down = (
        Axis(length, length * now / before, (before - length) // 2 * now / before - int((now - kept) / 2))
        for length, before, now, kept in zip(size, canvas, drawn, frame, strict=True)
    )
    return across, down


def resized(size: Size, wanted: Mapping[str, Any]) -> Size:
    """(width, height) after resizing to `wanted`: the shortest edge with the aspect kept, or height and width."""
    if "shortest_edge" not in wanted:
        return wanted["width"], wanted["height"]
    width, height = size
    short = wanted["shortest_edge"]
    return (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
