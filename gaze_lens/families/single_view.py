"""Families with one view of the whole image, stretched: to one size (PaliGemma), or near its aspect ratio (Gemma 4)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gaze_lens.errors import InputError
from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import Processed, TokenMap, stretched_grid


def fixed_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, all with the same grid: the processor stretches images to one size."""
    if not processed.images:
        return []
    height, width = processed.tensors["pixel_values"].shape[-2:]
    patch = processed.config.vision_config.patch_size
    if height % patch or width % patch:
        raise InputError(
            f"The processor makes images of {width} x {height} pixels: expected multiples of the vision tower's patch, "
            f"{patch} pixels. Set processor.image_processor.size as in the model's checkpoint."
        )
    return [stretched_grid(size, height // patch, width // patch) for size in processed.images]


def counted_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, all with the square grid of the config; a token of a convolutional tower (Gemma 3n) sees more
    of the picture than its box."""
    side = math.isqrt(processed.config.vision_soft_tokens_per_image)
    return [stretched_grid(size, side, side) for size in processed.images]


def fixed_encode(model: Any, tensors: Mapping[str, Tensor], _maps: Any, selected: Sequence[int]) -> list[EncodedImage]:
    """The vision tower's output for the images `selected`."""
    output = model.model.get_image_features(tensors["pixel_values"][list(selected)], return_dict=True)
    return [{"tokens": tokens} for tokens in output.pooler_output]


def fixed_to_forward_kwargs(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """One tensor, [image, token, d_model]."""
    pooled = torch.stack([image["tokens"] for image in images])
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=pooled)}}


def shaped_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, from the column and row that the processor reports for each patch (-1 for padding)."""
    if not processed.images:
        return []
    pool = processed.config.vision_config.pooling_kernel_size
    sides = processed.tensors["image_position_ids"].amax(dim=1) + 1
    return [
        stretched_grid(size, rows // pool, columns // pool)
        for size, (columns, rows) in zip(processed.images, sides.tolist(), strict=True)
    ]


def shaped_encode(model: Any, tensors: Mapping[str, Tensor], _maps: Any, selected: Sequence[int]) -> list[EncodedImage]:
    """The vision tower's output for the images `selected`, without padding."""
    pixels, patch_positions = (tensors[name][list(selected)] for name in ("pixel_values", "image_position_ids"))
    output = model.model.get_image_features(pixels, patch_positions, return_dict=True)
    return [{"tokens": tokens} for tokens in output.pooler_output]
