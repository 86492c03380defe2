"""Inputs that were prepared one by one, as one batch.

batch = joined([model.encode(model.prepare(strip, text)) for text in questions])
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from gaze_lens.families import Features
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Layout


def joined(parts: Sequence[VLMInputs]) -> VLMInputs:
    """The rows of all parts, padded on the left to one length; the parts are encoded, and of one model.

    So only one part's pixels are there at a time.
    """
    length = max(part.layout.length for part in parts)
    shifts = [length - part.layout.length for part in parts]
    tensors = {
        name: torch.cat([_padded(part, name, shift) for part, shift in zip(parts, shifts, strict=True)])
        for name in parts[0].tensors
    }
    first = parts[0].features
    tokens, before = [], 0
    for part, shift in zip(parts, shifts, strict=True):
        tokens += [_moved(held, 0 if part.layout.cross_attention else shift, before) for held in part.image_tokens]
        before += part.n_rows
    return replace(
        parts[0],
        tensors=tensors,
        pictures=tuple(row for part in parts for row in part.pictures),
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        image_tokens=tuple(tokens),
        layout=_layout([part.layout for part in parts], shifts),
        answers=tuple(at + shift for part, shift in zip(parts, shifts, strict=True) for at in part.answers),
        maps=tuple(token_map for part in parts for token_map in part.maps),
        features=Features(tuple(p for part in parts for p in part.features.parts), first.arrange, first.counted),
    )


def _padded(part: VLMInputs, name: str, shift: int) -> Tensor:
    """A tensor of a part; one that goes by position gets columns on its left."""
    tensor = part.tensors[name]
    if tensor.shape[:2] != part.shape:
        return tensor
    filling = part.tokenizer.pad_token_id or 0 if name == "input_ids" else 0
    return pad(tensor, (0, 0) * (tensor.ndim - 2) + (shift, 0), value=filling)


def _moved(tokens: ImageTokens, shift: int, rows: int) -> ImageTokens:
    return replace(tokens, positions=tokens.positions + shift, row=tokens.row + rows)


def _layout(layouts: Sequence[Layout], shifts: Sequence[int]) -> Layout:
    """All rows, their columns moved; keys of cross-attention stay what they are."""

    def moved(name: str) -> tuple[tuple[int, ...], ...]:
        still = name == "images" and layouts[0].cross_attention
        return tuple(
            tuple(at + (0 if still else shift) for at in row)
            for layout, shift in zip(layouts, shifts, strict=True)
            for row in getattr(layout, name)
        )

    length = layouts[0].length + shifts[0]
    sizes = tuple(size for layout in layouts for size in layout.sizes)
    return Layout(length, moved("images"), moved("text"), sizes, layouts[0].cross_attention, moved("placeholders"))
