"""Families that see an image whole and, after it, in tiles put together again (LLaVA-NeXT, LLaVA-OneVision).

View 0 is the image stretched to one square. View 1 is the image, its aspect kept, padded onto the tiles of the grid
that fits best, without the rows or columns of tokens that lie in the padding; each row ends in a token that covers
nothing but has the image's id. A tower whose patches do not divide the tile leaves a strip at the right and lower side
of every tile to no token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaze_lens.errors import ModelError
from gaze_lens.families.features import Part, encode_each
from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.placement import Axis, blank, even_spans, joined, placed_grid, with_line_ends

LARGEST = 1.1  # OneVision shrinks grids that are larger than this times the limit, to a side


@dataclass(frozen=True)
class Tile:
    """A square view as the vision tower sees it: `pixels` to a side, in patches of `patch` pixels, a token each."""

    pixels: int
    patch: int

    @property
    def side(self) -> int:
        """Tokens to a side."""
        return self.pixels // self.patch

    @property
    def spans(self) -> Float[Tensor, "token 2"]:
        """What the tokens of a row span, in pixels of the tile."""
        return even_spans(self.side, self.patch)

    def spans_between(self, edges: Float[Tensor, " edge"]) -> Float[Tensor, "token 2"]:
        """What lies between edges given in tokens, in pixels of a row of tiles; strips between tiles belong to none."""
        starts, ends = edges[:-1], edges[1:]
        left, right = (starts / self.side).floor(), (ends / self.side).ceil() - 1
        return torch.stack([self._pixel(left, starts), self._pixel(right, ends)], dim=-1)

    def _pixel(self, tile: Tensor, edge: Tensor) -> Tensor:
        return tile * self.pixels + (edge - tile * self.side) * self.patch


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image; LLaVA-NeXT."""
    tile = _tile(processed)
    return [_anyres(processed, size, tile, most=None) for size in processed.images]


def token_maps_by_sample(processed: Processed) -> list[TokenMap]:
    """One map per image; LLaVA-OneVision, which shrinks large grids, and where a prompt has several images shows each
    in one view only, padded to a square."""
    tile = _tile(processed)
    most = int(processed.processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    alone = _alone(processed.tensors) if processed.images else []
    return [
        _anyres(processed, size, tile, most=most) if single else _padded(size, tile)
        for size, single in zip(processed.images, alone, strict=True)
    ]


def _alone(tensors: Mapping[str, Tensor]) -> list[bool]:
    """For each image of the batch, whether its prompt has no other."""
    return [count == 1 for count in tensors["batch_num_images"].tolist() for _ in range(count)]


def _tile(processed: Processed) -> Tile:
    """The tile; ModelError where the processor resizes or crops tiles to another size than it cut them."""
    vision = processed.config.vision_config
    named = {name: dict(processed.setting(name) or {}) for name in ("size", "crop_size")}
    if {side for sides in named.values() for side in sides.values()} != {vision.image_size}:
        raise ModelError(
            f"The image processor has {named}, the vision tower an image size of {vision.image_size}: expected the "
            "same number throughout, so that tiles are seen as they were cut. Load the processor of this checkpoint."
        )
    return Tile(vision.image_size, vision.patch_size)


def _anyres(processed: Processed, size: Size, tile: Tile, *, most: int | None) -> TokenMap:
    """The image stretched to one tile, then its grid of tiles, a token at the end of each row.

    most: how many tiles' worth of tokens the grid is shrunk to; None for all.
    """
    width, height = size
    whole = placed_grid(
        size,
        Axis(width, tile.pixels).original(tile.spans),
        Axis(height, tile.pixels).original(tile.spans),
    )
    resolution = _best_resolution(size, processed.setting("image_grid_pinpoints"))
    kept_rows, kept_columns = _kept(size, resolution, tile)
    rows, columns = _shrunk(len(kept_rows), len(kept_columns), tile, most)
    across, down = _drawn(size, resolution)
    grid = placed_grid(
        size,
        across.original(tile.spans_between(_edges(kept_columns, columns))),
        down.original(tile.spans_between(_edges(kept_rows, rows))),
        view=1,
    )
    return joined([whole, with_line_ends(grid, rows, view=1)])


def _best_resolution(size: Size, choices: Sequence[Sequence[int]]) -> Size:
    """(width, height) of the choice that keeps most of the image's pixels and, among those, has the fewest itself.

    choices: (height, width) each.
    """
    width, height = size

    def merit(choice: Sequence[int]) -> tuple[int, int]:
        scale = min(choice[1] / width, choice[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - choice[0] * choice[1]

    best = max(choices, key=merit)  # the first of equals
    return best[1], best[0]


def _drawn(size: Size, resolution: Size) -> tuple[Axis, Axis]:
    """The image on its canvas: as large as fits, in the middle."""
    (width, height), (full_width, full_height) = size, resolution
    by_width, by_height = full_width / width, full_height / height
    if by_width < by_height:
        drawn = full_width, min(math.ceil(height * by_width), full_height)
    else:
        drawn = min(math.ceil(width * by_height), full_width), full_height
    across, down = (
        Axis(length, now, (full - now) // 2) for length, now, full in zip(size, drawn, resolution, strict=True)
    )
    return across, down


def _kept(size: Size, resolution: Size, tile: Tile) -> tuple[range, range]:
    """The rows and columns of tokens that are left when those in the padding are taken away, equally many on either
    side; edge rows may still be padding in part."""
    (width, height), (full_width, full_height) = size, resolution
    rows, columns = full_height // tile.pixels * tile.side, full_width // tile.pixels * tile.side
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return range(padding, rows - padding), range(columns)
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return range(rows), range(padding, columns - padding)


def _shrunk(rows: int, columns: int, tile: Tile, most: int | None) -> tuple[int, int]:
    """Rows and columns after features of a large grid were interpolated to a smaller one."""
    ratio = math.sqrt(rows * columns / (most * tile.side**2)) if most else 0
    return (int(rows // ratio), int(columns // ratio)) if ratio > LARGEST else (rows, columns)


def _edges(kept: range, count: int) -> Float[Tensor, " edge"]:
    """The edges of `count` equal parts of the kept rows or columns, in tokens of the whole grid."""
    return kept.start + torch.arange(count + 1).double() * len(kept) / max(count, 1)


def _padded(size: Size, tile: Tile) -> TokenMap:
    """The image in the middle of a square, which is one view, and a token at the end."""
    square = max(size)
    across, down = (
        Axis(length, length * tile.pixels / square, (square - length) // 2 * tile.pixels / square) for length in size
    )
    return joined([placed_grid(size, across.original(tile.spans), down.original(tile.spans)), blank(1)])


def encode_by_sample(model: nn.Module, tensors: Mapping[str, Tensor], maps: Any, kept: Sequence[int]) -> list[Part]:
    """As `encode_each`, told for every image whether its prompt has others.

    The model reads that from the numbers of images in prompts, so an image that has others but is encoded without
    them is given twice, and taken once.
    """
    alone = _alone(tensors)
    given, counts = [], []
    for single, run in groupby(kept, key=lambda index: alone[index]):
        images = list(run)
        padded = images * 2 if len(images) == 1 and not single else images
        given += padded
        counts += [1] * len(padded) if single else [len(padded)]
    numbers = tensors["batch_num_images"].new_tensor(counts)
    parts = encode_each(model, tensors, maps, given, batch_num_images=numbers)
    made = dict(zip(given, parts, strict=True))
    return [made[index] for index in kept]
