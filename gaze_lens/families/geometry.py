"""Which part of the original picture each image token covers.

A token map lists that for the tokens of one image, in the order of the prompt. Boxes are nominal: resampling and the
vision tower's own attention mix in pixels from a little beyond them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True, eq=False)
class Processed:
    """The processor's output for a batch of prompts, and everything that decides where image tokens lie.

    sizes: for each row of the batch, the original size of each of its images.
    tensors: the processor's output. config: the model's config.
    videos: of all videos of the batch, row by row, the size of the frames and how many were sampled.
    """

    sizes: tuple[tuple[Size, ...], ...]
    tensors: Mapping[str, Tensor]
    processor: Any
    config: Any
    videos: tuple[tuple[Size, int], ...] = ()

    @property
    def images(self) -> list[Size]:
        """The sizes of all images, row by row."""
        return [size for row in self.sizes for size in row]

    def setting(self, name: str) -> Any:
        """A setting of the image processor, as a call of the processor uses it.

        The processor's own defaults override those of its image processor: InternVL's processor cuts tiles, its image
        processor alone does not.
        """
        tokenizer = self.processor.tokenizer.init_kwargs
        merged = self.processor._merge_kwargs(self.processor.valid_processor_kwargs, tokenizer_init_kwargs=tokenizer)
        options = merged["images_kwargs"]
        return options[name] if name in options else getattr(self.processor.image_processor, name)


@dataclass(frozen=True, eq=False)
class TokenMap:
    """What the tokens of one image cover.

    boxes: x0, y0, x1, y1 in original pixels, NaN where a token covers nothing. cells: row and column in its view.
    view: the crop of the image that the token belongs to. moment: of tokens of a video, the video's index in the batch
    and the index of these frames in the video; None of those of an image.
    """

    boxes: Float[Tensor, "token 4"]
    cells: Int[Tensor, "token 2"]
    view: Int[Tensor, " token"]
    moment: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, eq=False)
class FramesMap:
    """What the tokens of one moment of a video cover. frames: indices of its frames, among those that were sampled."""

    frames: tuple[int, ...]
    tokens: TokenMap


def stretched_grid(size: tuple[float, float], rows: int, columns: int) -> TokenMap:
    """The whole image, stretched to `rows` x `columns` tokens in raster order. `size` is (width, height)."""
    width, height = size
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)
    x, y = column.double() * width / columns, row.double() * height / rows
    boxes = torch.stack([x, y, (column + 1).double() * width / columns, (row + 1).double() * height / rows], dim=-1)
    return TokenMap(boxes.float(), torch.stack([row, column], dim=-1), torch.zeros(rows * columns, dtype=torch.long))
