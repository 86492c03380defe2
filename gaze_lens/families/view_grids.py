"""Families whose views of an image (tiles, the whole) have grids of different shapes.

LFM2-VL stretches tiles to squares, and then the whole image near its own aspect ratio. MiniCPM-V takes the whole image
first, and then slices, near their aspect ratio both. The grid of tiles, which a processor's output lacks, comes from
the image processor's own functions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families.features import EncodedImage, image_by_image
from gaze_lens.families.geometry import Processed, Size, TokenMap, stretched_grid
from gaze_lens.families.placement import concatenated
from gaze_lens.families.tiles import View, n_views, tile_views, whole

TILE_LIMITS = ("min_tiles", "max_tiles", "tile_size")
MINICPM_PIXELS = ("pixel_values", "target_sizes")
SLICE_LIMITS = ("max_slice_nums", "scale_resolution")
LIMITS = ("max_image_tokens", "encoder_patch_size", "downsample_factor", "max_pixels_tolerance")


def token_map(views: Sequence[View], shapes: Sequence[tuple[int, int]]) -> TokenMap:
    """The tokens of an image's views, one view after the other. shapes: rows and columns of each view's grid."""
    maps = []
    for index, ((x0, y0, x1, y1), (rows, columns)) in enumerate(zip(views, shapes, strict=True)):
        grid = stretched_grid((x1 - x0, y1 - y0), rows, columns)
        boxes = grid.boxes + torch.tensor([x0, y0, x0, y0])
        maps.append(TokenMap(boxes, grid.cells, torch.full((len(grid),), index)))
    return concatenated(maps)


def token_maps_of(views: Sequence[Sequence[View]], shapes: Sequence[tuple[int, int]]) -> list[TokenMap]:
    """One map per image. views: of each image. shapes: rows and columns of all views, image by image."""
    expected = sum(map(len, views))
    if len(shapes) != expected:
        raise InputError(
            f"The processor made {len(shapes)} views of the images, {expected} were expected from its settings. Use a "
            "version of transformers that pyproject.toml allows."
        )
    remaining = iter(shapes)
    return [token_map(mine, [next(remaining) for _ in mine]) for mine in views]


def lfm2_maps(processed: Processed) -> list[TokenMap]:
    """LFM2-VL: tiles and then the whole image, or the whole image alone."""
    if not processed.images:
        return []
    merge = processed.setting("downsample_factor")
    shapes = [(rows // merge, columns // merge) for rows, columns in processed.tensors["spatial_shapes"].tolist()]
    return token_maps_of([_lfm2_views(processed, size) for size in processed.images], shapes)


def _lfm2_views(processed: Processed, size: Size) -> list[View]:
    width, height = size
    images = processed.processor.image_processor
    large = images._is_image_too_large(height, width, **{name: processed.setting(name) for name in LIMITS})
    limits = {name: processed.setting(name) for name in TILE_LIMITS}
    if not (large and processed.setting("do_image_splitting")) or limits["min_tiles"] == limits["max_tiles"] == 1:
        return [whole(size)]
    columns, rows = images._get_grid_layout(height, width, **limits)[:2]
    return tile_views(size, rows, columns) + [whole(size)] * bool(processed.setting("use_thumbnail"))


def lfm2_encode(
    model: Any, tensors: Mapping[str, Tensor], maps: Sequence[TokenMap], selected: Sequence[int]
) -> list[EncodedImage]:
    """LFM2-VL's vision tower's output for the images `selected`, where a row of `pixel_values` is a view."""
    counts = [n_views(token_map) for token_map in maps]
    names = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    chunks = {name: tensors[name].split(counts) for name in names}
    views = {name: torch.cat([chunk[index] for index in selected]) for name, chunk in chunks.items()}
    output = model.model.get_image_features(**views, return_dict=True)
    return _by_image(output.pooler_output, [counts[index] for index in selected])


def minicpm_maps(processed: Processed) -> list[TokenMap]:
    """MiniCPM-V: the whole image, then slices of it, if it is large."""
    if not processed.images:
        return []
    merge = 2 if processed.setting("downsample_mode") == "4x" else 4  # patches to a token's side
    shapes = [(rows // merge, columns // merge) for rows, columns in processed.tensors["target_sizes"].tolist()]
    return token_maps_of([_minicpm_views(processed, size) for size in processed.images], shapes)


def _minicpm_views(processed: Processed, size: Size) -> list[View]:
    width, height = size
    grid = None
    if processed.setting("slice_mode"):
        limits = {name: processed.setting(name) for name in SLICE_LIMITS}
        grid = processed.processor.image_processor.get_sliced_grid((height, width), **limits)
    return [whole(size), *(tile_views(size, *grid) if grid else [])]


def minicpm_encode(
    model: Any, tensors: Mapping[str, Tensor], maps: Sequence[TokenMap], selected: Sequence[int]
) -> list[EncodedImage]:
    """MiniCPM-V's vision tower's output for the images `selected`; one row of pixels has the patches of all views.

    An image keeps the shapes of its views, from which version 4.7 makes positions.
    """
    counts = [n_views(token_map) for token_map in maps]
    shapes = tensors["target_sizes"].split(counts)
    patch = tensors["pixel_values"].shape[-2]
    pixels = tensors["pixel_values"].split([int(shape.prod(-1).sum()) * patch for shape in shapes], dim=-1)
    output = model.model.get_image_features(
        torch.cat([pixels[index] for index in selected], dim=-1), torch.cat([shapes[index] for index in selected]),
        return_dict=True,
    )  # fmt: skip
    images = _by_image(output.pooler_output, [counts[index] for index in selected])
    return [{**image, "shapes": shapes[index]} for image, index in zip(images, selected, strict=True)]


def minicpm_to_forward_kwargs(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """One tensor per image, and the shapes of all views."""
    return {**image_by_image(images), "target_sizes": torch.cat([image["shapes"] for image in images])}


def _by_image(views: Sequence[Tensor], counts: Sequence[int]) -> list[EncodedImage]:
    """The features of views, `[token, d_model]` each, put together image by image."""
    remaining = iter(views)
    return [{"tokens": torch.cat([next(remaining) for _ in range(count)])} for count in counts]
