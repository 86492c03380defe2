"""Inputs that were prepared one by one, concatenated into one batch.

batch = concatenated([model.encode(model.prepare(strip, text)) for text in questions])
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Layout, Rows
from gaze_lens.regions.segments import Passages
from gaze_lens.regions.video import SampledVideo


def concatenated(parts: Sequence[VLMInputs]) -> VLMInputs:
    """The rows of all parts, padded on the left to the same length. The parts must be encoded inputs of one model.

    Preparing and encoding one part at a time keeps the pixels of only one part in memory.
    """
    length = max(part.layout.length for part in parts)
    shifts = [length - part.layout.length for part in parts]
    tensors = {
        name: torch.cat([_padded(part, name, shift) for part, shift in zip(parts, shifts, strict=True)])
        for name in parts[0].tensors
    }
    encoded = tuple(image for part in parts for image in part.encoded_features.images)
    tokens, before = [], 0
    for part, shift in zip(parts, shifts, strict=True):
        columns = 0 if part.layout.cross_attention else shift
        tokens += [_shifted(image, columns, before) for image in part.image_tokens]
        before += part.n_rows
    return replace(
        parts[0],
        tensors=tensors,
        pictures=tuple(row for part in parts for row in part.pictures),
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        image_tokens=tuple(tokens),
        layout=_layout([part.layout for part in parts], shifts),
        answers=tuple(start + shift for part, shift in zip(parts, shifts, strict=True) for start in part.answers),
        maps=tuple(token_map for part in parts for token_map in part.maps),
        features=replace(parts[0].encoded_features, images=encoded),
        passages=_passages(parts),
        videos=_videos(parts),
    )


def _passages(parts: Sequence[VLMInputs]) -> tuple[Passages | None, ...]:
    """The passages of all rows; () where there are none."""
    rows = tuple(one for part in parts for one in part.passages or (None,) * part.n_rows)
    return rows if any(part.passages for part in parts) else ()


def _videos(parts: Sequence[VLMInputs]) -> tuple[tuple[SampledVideo, ...], ...]:
    """The videos of all rows; () where there are none."""
    rows = tuple(row for part in parts for row in part.videos or ((),) * part.n_rows)
    return rows if any(rows) else ()


def _padded(part: VLMInputs, name: str, shift: int) -> Tensor:
    """A tensor of a part, with columns of padding on its left where it has a value for each position."""
    tensor = part.tensors[name]
    if tensor.shape[:2] != part.shape:
        return tensor
    padding = part.tokenizer.pad_token_id or 0 if name == "input_ids" else 0
    return pad(tensor, (0, 0) * (tensor.ndim - 2) + (shift, 0), value=padding)


def _shifted(tokens: ImageTokens, shift: int, rows: int) -> ImageTokens:
    return replace(tokens, positions=tokens.positions + shift, row=tokens.row + rows)


def _layout(layouts: Sequence[Layout], shifts: Sequence[int]) -> Layout:
    """The layout of all rows, with shifted columns; keys of cross-attention are not shifted."""
    cross_attention = layouts[0].cross_attention

    def shifted(name: str) -> tuple[tuple[int, ...], ...]:
        fixed = name == "images" and cross_attention
        return tuple(
            tuple(position + (0 if fixed else shift) for position in row)
            for layout, shift in zip(layouts, shifts, strict=True)
            for row in getattr(layout, name)
        )

    length = layouts[0].length + shifts[0]
    sizes = tuple(size for layout in layouts for size in layout.sizes)
    segments = _segments(layouts, shifts)
    return Layout(length, shifted("images"), shifted("text"), sizes, cross_attention, shifted("placeholders"), segments)


def _segments(layouts: Sequence[Layout], shifts: Sequence[int]) -> tuple[Rows, ...]:
    """The shifted positions of passages; () where no part has any."""
    if not any(layout.segments for layout in layouts):
        return ()
    return tuple(
        tuple(tuple(position + shift for position in segment) for segment in row)
        for layout, shift in zip(layouts, shifts, strict=True)
        for row in layout.segments or ((),) * layout.n_rows
    )
