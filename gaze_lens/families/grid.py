"""Families whose processor stretches an image onto one grid and reports it as `image_grid_thw` (the Qwen-VL line)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import Processed, TokenMap, stretched_grid

MERGES = ("image_merge_sizes",)  # VideoLLaMA 3: how many patches make a token's side, for each image


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, from the grid that the processor reports."""
    merge = processed.processor.image_processor.merge_size
    grids = processed.tensors["image_grid_thw"].tolist() if processed.images else []
    return [
        stretched_grid(size, rows // merge, columns // merge)
        for size, (_, rows, columns) in zip(processed.images, grids, strict=True)
    ]


def encode(model: Any, tensors: Mapping[str, Tensor], _maps: Any, selected: Sequence[int]) -> list[EncodedImage]:
    """The vision tower's output for the images `selected`, with DeepStack features where there are any."""
    grids = tensors["image_grid_thw"]
    chunks = tensors["pixel_values"].split(grids.prod(-1).tolist())
    pixels = torch.cat([chunks[index] for index in selected])
    rows = {name: tensors[name][list(selected)] for name in MERGES if name in tensors}
    output = model.model.get_image_features(pixels, grids[list(selected)], **rows, return_dict=True)
    levels = [_by_image(level, output.pooler_output) for level in output.get("deepstack_features") or ()]
    return [
        {"tokens": tokens, "levels": [level[index] for level in levels]}
        for index, tokens in enumerate(output.pooler_output)
    ]


def to_forward_kwargs(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """One tensor per image, and for each DeepStack level one tensor per image."""
    pooled: Any = tuple(image["tokens"] for image in images)  # Hugging Face declares tensors and makes tuples
    levels: list[Any] = [tuple(level) for level in zip(*(image["levels"] for image in images), strict=True)]
    if not levels:
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pooled)}}
    # Imported here because it is slow, and other families do not need it.
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    output = BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=levels)
    return {"mm_encoder_outputs": {"image": output}}


def _by_image(level: Tensor | Sequence[Tensor], images: Sequence[Tensor]) -> Sequence[Tensor]:
    """One DeepStack level, split into images where it is one tensor."""
    return level.split([len(tokens) for tokens in images]) if isinstance(level, Tensor) else level
