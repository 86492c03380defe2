"""Families whose processor stretches an image onto one grid and reports it as `image_grid_thw` (the Qwen-VL line)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import FramesMap, Processed, TokenMap, stretched_grid

MERGES = ("image_merge_sizes",)  # VideoLLaMA 3: how many patches make a token's side, for each image


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, from the grid that the processor reports."""
    merge = processed.processor.image_processor.merge_size
    grids = processed.tensors["image_grid_thw"].tolist() if processed.images else []
    return [
        stretched_grid(size, rows // merge, columns // merge)
        for size, (_, rows, columns) in zip(processed.images, grids, strict=True)
    ]


def video_maps(processed: Processed) -> list[list[FramesMap]]:
    """For each video, a map for every `temporal_patch_size` of its sampled frames, which share their tokens."""
    processor = processed.processor.video_processor
    merge, merged = processor.merge_size, processor.temporal_patch_size
    grids = processed.tensors["video_grid_thw"].tolist() if processed.videos else []
    return [
        [
            FramesMap(
                tuple(range(n_frames)[moment * merged : (moment + 1) * merged]),
                replace(stretched_grid(size, rows // merge, columns // merge), moment=(video, moment)),
            )
            for moment in range(moments)
        ]
        for video, ((size, n_frames), (moments, rows, columns)) in enumerate(zip(processed.videos, grids, strict=True))
    ]


def encode(
    model: Any, tensors: Mapping[str, Tensor], maps: Sequence[TokenMap], selected: Sequence[int]
) -> list[EncodedImage]:
    """The vision tower's output for the images `selected`, with DeepStack features where there are any.

    The frames of one moment of a video are an image of their own: the tower does not mix them with others.
    """
    numbers = {index: n for n, index in enumerate(i for i, one in enumerate(maps) if one.moment is None)}
    images = [index for index in selected if maps[index].moment is None]
    moments = [index for index in selected if maps[index].moment is not None]
    encoded = dict(zip(images, _encode_images(model, tensors, [numbers[index] for index in images]), strict=True))
    places = [maps[index].moment for index in moments]
    encoded |= zip(moments, _encode_moments(model, tensors, places), strict=True)
    return [encoded[index] for index in selected]


def _encode_images(model: Any, tensors: Mapping[str, Tensor], selected: Sequence[int]) -> list[EncodedImage]:
    if not selected:
        return []
    grids = tensors["image_grid_thw"]
    chunks = tensors["pixel_values"].split(grids.prod(-1).tolist())
    pixels = torch.cat([chunks[index] for index in selected])
    rows = {name: tensors[name][list(selected)] for name in MERGES if name in tensors}
    return _parts(model.model.get_image_features(pixels, grids[list(selected)], **rows, return_dict=True))


def _encode_moments(model: Any, tensors: Mapping[str, Tensor], selected: Sequence[Any]) -> list[EncodedImage]:
    """selected: (video, moment in it)."""
    if not selected:
        return []
    grids = tensors["video_grid_thw"]
    videos = tensors["pixel_values_videos"].split(grids.prod(-1).tolist())
    sizes = grids[:, 1:].prod(-1).tolist()
    pixels = torch.cat([videos[video].split(sizes[video])[moment] for video, moment in selected])
    single = torch.stack([torch.cat([torch.ones_like(grids[video, :1]), grids[video, 1:]]) for video, _ in selected])
    output = model.model.get_video_features(pixels, single, return_dict=True)
    return [{**part, "of_video": True} for part in _parts(output)]


def _parts(output: Any) -> list[EncodedImage]:
    """The vision tower's output, image by image."""
    levels = [_by_image(level, output.pooler_output) for level in output.get("deepstack_features") or ()]
    return [
        {"tokens": tokens, "levels": [level[index] for level in levels]}
        for index, tokens in enumerate(output.pooler_output)
    ]


def to_forward_kwargs(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """One tensor per image, and for each DeepStack level one tensor per image; those of videos apart."""
    kinds = {
        "image": [image for image in images if not image.get("of_video")],
        "video": [image for image in images if image.get("of_video")],
    }
    return {"mm_encoder_outputs": {kind: _together(parts) for kind, parts in kinds.items() if parts}}


def _together(images: Sequence[EncodedImage]) -> Any:
    pooled: Any = tuple(image["tokens"] for image in images)  # Hugging Face declares tensors and makes tuples
    levels: list[Any] = [tuple(level) for level in zip(*(image["levels"] for image in images), strict=True)]
    if not levels:
        return BaseModelOutputWithPooling(pooler_output=pooled)
    # Imported here because it is slow, and other families do not need it.
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    return BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=levels)


def _by_image(level: Tensor | Sequence[Tensor], images: Sequence[Tensor]) -> Sequence[Tensor]:
    """One DeepStack level, split into images where it is one tensor."""
    return level.split([len(tokens) for tokens in images]) if isinstance(level, Tensor) else level
