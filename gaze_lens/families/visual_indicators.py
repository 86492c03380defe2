"""Ovis2: the whole image first, then its tiles; tokens of the text tell the grid, and get features with the image.

`<IMG_START>` whole `<IMG_GRID>` tile `<IMG_COL>` tile `<IMG_ROW>` ... `<IMG_END>`: the processor drops the grid that it
chose, and these tokens still show it. Their embeddings come out of the vision tower's table, together with the images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import Processed, TokenMap
from gaze_lens.families.tiles import Tile, patch_size, tile_side, tile_views, token_map, whole
from gaze_lens.families.tiles import encode as encode_views

START, COLUMN, ROW, END = "<IMG_START>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image: the whole image, then the tiles in raster order, if there are several."""
    if not processed.images:
        return []
    vision = processed.config.vision_config
    tile = Tile.of(tile_side(processed), patch=patch_size(processed.config), merge=vision.hidden_stride)
    return [
        token_map(size, [whole(size), *(tile_views(size, rows, columns) if rows * columns > 1 else [])], tile)
        for size, (rows, columns) in zip(processed.images, _grids(processed), strict=True)
    ]


def _grids(processed: Processed) -> list[tuple[int, int]]:
    """Rows and columns of every image's tiles, by the tokens that stand between them."""
    tokenizer = processed.processor.tokenizer
    start, column, row, end = (tokenizer.convert_tokens_to_ids(name) for name in (START, COLUMN, ROW, END))
    ids = processed.tensors["input_ids"].flatten().tolist()
    grids = []
    for first in (index for index, token in enumerate(ids) if token == start):
        tokens = ids[first : ids.index(end, first)]
        rows = 1 + tokens.count(row)
        grids.append((rows, 1 + tokens.count(column) // rows))
    return grids


def encode(
    model: Any, tensors: Mapping[str, Tensor], maps: Sequence[TokenMap], selected: Sequence[int]
) -> list[EncodedImage]:
    """The vision tower's output for the images `selected`, each with the features of the tokens around tiles."""
    n_indicators = model.model.vision_tower.num_visual_indicator_tokens
    table = model.model.visual_embeddings_table.weight
    images = encode_views(model, tensors, maps, selected)
    return [{**image, "indicators": table[-n_indicators:]} for image in images]


def to_forward_kwargs(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """One tensor with the views of all images, and one with the features of the tokens around them."""
    from transformers.models.ovis2.modeling_ovis2 import BaseModelOutputWithVisualIndicatorFeatures

    output = BaseModelOutputWithVisualIndicatorFeatures(
        pooler_output=torch.cat([image["tokens"] for image in images]),
        visual_indicator_features=images[0]["indicators"],
    )
    return {"mm_encoder_outputs": {"image": output}}
