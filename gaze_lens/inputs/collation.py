"""Makes `VLMInputs` from a processor's output: finds the image tokens, and checks them against the token maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families import TokenMap
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Layout
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.video import SampledVideo, VideoFrames


@dataclass(frozen=True)
class Text:
    """One row's text for the tokenizer.

    answer: the ids at the end of the prompt that are the answer; empty where there is none.
    suffix: the answer, where the processor takes it separately from the text.
    """

    full: str
    answer: tuple[int, ...] = ()
    suffix: str | None = None


def collate(
    tensors: Mapping[str, Tensor],
    pictures: Sequence[Sequence[Picture]],
    texts: Sequence[Text],
    maps: Sequence[TokenMap],
    *,
    config: Any,
    tokenizer: Any,
    cross_attention: bool = False,
    videos: Sequence[Sequence[SampledVideo]] = (),
) -> VLMInputs:
    """Find every image token of a processed batch, and check their number against the token maps.

    maps: one per image, row by row. config: the model's, which says what stands for an image token. cross_attention:
    the maps describe keys of cross-attention layers. videos: those of each row, whose frames are among its pictures.
    """
    ids, attended = tensors["input_ids"].cpu(), tensors["attention_mask"].bool().cpu()
    remaining = iter(maps)
    by_row = [list(islice(remaining, len(row))) for row in pictures]
    make_layout = _cross_attention_layout if cross_attention else _layout
    sizes = tuple(tuple(picture.image.size for picture in row) for row in pictures)
    is_image = torch.isin(ids, torch.tensor(_placeholders(config, any(videos)), dtype=ids.dtype)) & attended
    layout = make_layout(is_image, attended, sizes, by_row)
    image_tokens = tuple(
        tokens
        for row, (row_pictures, row_maps) in enumerate(zip(pictures, by_row, strict=True))
        for tokens in _image_tokens(row, layout.images[row], row_pictures, row_maps)
    )
    for row, text in zip(ids.tolist(), texts, strict=True):
        if tuple(row[layout.length - len(text.answer) :]) != text.answer:
            raise InputError(f"The prompt does not end in the tokens of its answer: {text.full[-40:]!r}.")
    starts = tuple(layout.length - len(text.answer) for text in texts)
    prompts = tuple(text.full for text in texts)
    return VLMInputs(
        tensors, tuple(map(tuple, pictures)), prompts, image_tokens, layout, starts, tokenizer, tuple(maps),
        videos=tuple(map(tuple, videos)) if any(videos) else (),
    )  # fmt: skip


def _placeholders(config: Any, with_videos: bool) -> list[int]:
    """The ids that stand for image tokens; none in a language model. Some models have another one for videos."""
    names = ("image_token_id", "video_token_id") if with_videos else ("image_token_id",)
    ids = (getattr(config, name, None) for name in names)
    return [one for one in ids if one is not None]


def _layout(
    is_image: Bool[Tensor, "row position"],
    attended: Bool[Tensor, "row position"],
    sizes: tuple[tuple[tuple[int, int], ...], ...],
    maps: Sequence[Sequence[TokenMap]],
) -> Layout:
    """The layout of prompts that contain the image tokens; InputError where the maps have another number of tokens."""
    images, text = _positions(is_image), _positions(attended & ~is_image)
    for row, (positions, row_maps) in enumerate(zip(images, maps, strict=True)):
        if sum(map(len, row_maps)) != len(positions):
            raise InputError(
                f"Row {row} has {len(positions)} image tokens in its text, but its {len(row_maps)} images make "
                f"{sum(map(len, row_maps))}. Give one image per image placeholder, and write no placeholder tokens "
                "into prompts."
            )
    return Layout(is_image.shape[1], images, text, sizes)


def _cross_attention_layout(
    is_image: Bool[Tensor, "row position"],
    attended: Bool[Tensor, "row position"],
    sizes: tuple[tuple[tuple[int, int], ...], ...],
    maps: Sequence[Sequence[TokenMap]],
) -> Layout:
    """The layout of prompts that contain one placeholder for each image; the images' keys have their own indices."""
    placeholders = _positions(is_image)
    for row, (positions, images) in enumerate(zip(placeholders, sizes, strict=True)):
        if len(positions) != len(images):
            raise InputError(
                f"Row {row} has {len(positions)} image placeholders in its text, and {len(images)} images. Give one "
                "image per placeholder, and write no placeholder tokens into prompts."
            )
    keys = tuple(tuple(range(sum(map(len, row)))) for row in maps)
    return Layout(is_image.shape[1], keys, _positions(attended), sizes, cross_attention=True, placeholders=placeholders)


def _positions(mask: Bool[Tensor, "row position"]) -> tuple[tuple[int, ...], ...]:
    """For each row, the columns that are true."""
    return tuple(tuple(torch.nonzero(row)[:, 0].tolist()) for row in mask)


def _image_tokens(
    row: int, positions: Sequence[int], pictures: Sequence[Picture], maps: Sequence[TokenMap]
) -> list[ImageTokens]:
    """A row's image positions, divided among its images in order."""
    chunks = torch.tensor(positions, dtype=torch.long).split([len(token_map) for token_map in maps])
    moments = [picture.moment if isinstance(picture, VideoFrames) else None for picture in pictures]
    return [
        ImageTokens(
            chunk, token_map.boxes, token_map.cells, picture.image.size, image, row, token_map.view, moments[image]
        )
        for image, (chunk, token_map, picture) in enumerate(zip(chunks, maps, pictures, strict=True))
    ]
