"""Square views of an image (tiles, crops, the whole image), each stretched to the same number of pixels and tokens.

`tile_grids` (a grid of tiles), `pan_and_scan` (crops along the long side) and `tile_canvas` (tiles of a padded canvas)
choose the views. The token map of a view and the vision tower's call are the same for all, and are here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gaze_lens.errors import InputError
from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import FramesMap, Processed, Size, TokenMap

View = tuple[float, float, float, float]  # x0, y0, x1, y1 in original pixels: the part of the image in a tile


@dataclass(frozen=True)
class Tile:
    """The token grid of a view.

    side: of the grid, in tokens. covered: the part of the tile's side that tokens cover. The vision tower drops pixels
    at the right and lower ends that make no whole patch, or no whole token.
    """

    side: int
    covered: float

    @classmethod
    def of(cls, pixels: int, *, patch: int, merge: int) -> "Tile":
        """A tile of `pixels` to a side, in patches of `patch` pixels, of which `merge` x `merge` make a token."""
        side = pixels // patch // merge
        return cls(side, side * merge * patch / pixels)


def token_map(size: Size, views: Sequence[View], tile: Tile) -> TokenMap:
    """The tokens of an image's views, one view after the other, each in raster order.

    A view may extend beyond the image (padding): boxes are clipped to the image, and tokens beyond it have none.
    """
    row = torch.arange(tile.side).repeat_interleave(tile.side)
    column = torch.arange(tile.side).repeat(tile.side)
    boxes = torch.cat([_boxes(size, view, tile, row, column) for view in views])
    cells = torch.stack([row, column], dim=-1).repeat(len(views), 1)
    return TokenMap(boxes, cells, torch.arange(len(views)).repeat_interleave(tile.side**2))


def _boxes(size: Size, view: View, tile: Tile, row: Tensor, column: Tensor) -> Tensor:
    x0, y0, x1, y1 = view
    parts = torch.arange(tile.side + 1).double() / tile.side * tile.covered
    x = (x0 + (x1 - x0) * parts).clamp(0, size[0])
    y = (y0 + (y1 - y0) * parts).clamp(0, size[1])
    boxes = torch.stack([x[column], y[row], x[column + 1], y[row + 1]], dim=-1).float()
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(dim=-1)
    return boxes.masked_fill(empty[:, None], float("nan"))


def patch_size(config: Any) -> int:
    """The side of the vision tower's patches, in pixels."""
    patch = config.vision_config.patch_size
    return patch if isinstance(patch, int) else patch[0]


def merged(factor: float) -> int:
    """Patches to a token's side. factor: that number (2), or the part of the patches that remains (0.5)."""
    return round(1 / factor) if factor < 1 else int(factor)


def whole(size: Size) -> View:
    """The view of the whole image."""
    return (0.0, 0.0, float(size[0]), float(size[1]))


def tile_views(size: Size, rows: int, columns: int) -> list[View]:
    """The tiles of an image in raster order."""
    width, height = size
    return [
        (width * column / columns, height * row / rows, width * (column + 1) / columns, height * (row + 1) / rows)
        for row in range(rows)
        for column in range(columns)
    ]


def n_views(token_map: TokenMap) -> int:
    """The number of tiles of an image in `pixel_values`."""
    return int(token_map.view.max()) + 1


def encode(
    model: Any,
    tensors: Mapping[str, Tensor],
    maps: Sequence[TokenMap],
    selected: Sequence[int],
    *,
    output: str = "pooler_output",
) -> list[EncodedImage]:
    """The vision tower's output for the images `selected`: `[view, token, feature]` for each.

    output: the field of the tower's output that the model's forward reads.
    """
    chunks = tensors["pixel_values"].split([n_views(token_map) for token_map in maps])
    pixels = torch.cat([chunks[index] for index in selected])
    features = model.get_image_features(pixel_values=pixels, return_dict=True)[output]
    return [{"tokens": tokens} for tokens in features.split([len(chunks[index]) for index in selected])]


def to_forward_kwargs(images: Sequence[EncodedImage], *, output: str = "pooler_output") -> dict[str, Any]:
    """One tensor with the views of all images."""
    views: dict[str, Any] = {output: torch.cat([image["tokens"] for image in images])}
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(**views)}}


def encode_padded(
    model: Any, tensors: Mapping[str, Tensor], maps: Sequence[TokenMap], selected: Sequence[int]
) -> list[EncodedImage]:
    """As `encode`, where the processor pads rows with tiles that are all zero; `[token, feature]` for each image."""
    names = [name for name in ("pixel_values", "pixel_attention_mask") if name in tensors]
    pixels = tensors["pixel_values"]
    is_tile = pixels.flatten(2).ne(0).any(dim=-1)  # [row, tile]; the same test as in Hugging Face's forward
    counts = [n_views(token_map) for token_map in maps]
    chunks = {name: tensors[name][is_tile].split(counts) for name in names}
    tiles = {name: torch.cat([chunk[index] for index in selected])[None] for name, chunk in chunks.items()}
    (features,) = model.get_image_features(**tiles, return_dict=True).pooler_output
    return [{"tokens": tokens} for tokens in features.split([len(maps[index]) for index in selected])]


def frame_maps(processed: Processed, *, merge: str) -> list[list[FramesMap]]:
    """For each video a map of every sampled frame, which is stretched to one tile (InternVL).

    merge: the config's name for the factor that merges patches.
    """
    if not processed.videos:
        return []
    height, width = processed.tensors["pixel_values"].shape[-2:]
    if processed.processor.video_processor.do_center_crop or height != width:
        raise InputError(
            f"The video processor makes frames of {width} x {height} pixels, cut out or not square; gaze_lens knows "
            "the places of tokens where frames are stretched to a square. Load the processor of the model's checkpoint."
        )
    tile = Tile.of(width, patch=patch_size(processed.config), merge=merged(getattr(processed.config, merge)))
    return [
        [FramesMap((n,), replace(token_map(size, [whole(size)], tile), moment=(video, n))) for n in range(n_frames)]
        for video, (size, n_frames) in enumerate(processed.videos)
    ]


def tile_side(processed: Processed) -> int:
    """The side of a tile in pixels: the image processor's `size`."""
    size = processed.setting("size")
    return size["height"]
