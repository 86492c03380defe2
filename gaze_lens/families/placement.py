"""Which part of a picture a grid of tokens covers, where the picture was resized, then cropped or padded.

The picture is drawn onto a canvas, and the canvas is cut into tokens. The two directions are independent, so each is an
`Axis` with the spans of its columns or rows. With a crop the picture is larger than the canvas, with padding smaller.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.families.geometry import Size, TokenMap

LEAST = 1e-3  # part of a token's side: a token that shows less of the picture covers nothing (rounding)


@dataclass(frozen=True)
class Axis:
    """One direction: a picture of `length` pixels is drawn `drawn` pixels long, from the canvas pixel `start` on."""

    length: int
    drawn: float
    start: float = 0.0

    def original(self, canvas: Float[Tensor, "token 2"]) -> Float[Tensor, "token 2"]:
        """Spans of the canvas, converted to original pixels; some may lie outside the picture."""
        return (canvas - self.start) * (self.length / self.drawn)


def even_spans(count: int, side: int) -> Float[Tensor, "token 2"]:
    """`count` adjacent spans of `side` pixels, from the edge of the canvas."""
    starts = torch.arange(count).double() * side
    return torch.stack([starts, starts + side], dim=-1)


def placed_grid(size: Size, across: Float[Tensor, "column 2"], down: Float[Tensor, "row 2"], view: int = 0) -> TokenMap:
    """Tokens in raster order, from the spans of their columns (`across`) and rows (`down`) in original pixels.

    Boxes are clipped to the image; tokens that lie in the padding keep their cells and have no box.
    """
    (x, x_visible), (y, y_visible) = _clipped(across, size[0]), _clipped(down, size[1])
    row = torch.arange(len(y)).repeat_interleave(len(x))
    column = torch.arange(len(x)).repeat(len(y))
    boxes = torch.stack([x[column, 0], y[row, 0], x[column, 1], y[row, 1]], dim=-1).float()
    boxes[~(x_visible[column] & y_visible[row])] = torch.nan
    return TokenMap(boxes, torch.stack([row, column], dim=-1), torch.full((len(row),), view))


def _clipped(spans: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The spans clipped to the picture, and which of them still cover part of it."""
    clipped = spans.clamp(0, length)
    return clipped, clipped.diff(dim=-1)[:, 0] > LEAST * spans.diff(dim=-1)[:, 0]


def blank(count: int, view: int = 0) -> TokenMap:
    """Tokens that cover nothing: a class token, ends of rows."""
    no_boxes = torch.full((count, 4), torch.nan)
    return TokenMap(no_boxes, torch.full((count, 2), -1), torch.full((count,), view))


def concatenated(maps: Sequence[TokenMap]) -> TokenMap:
    """One map with the tokens of all, in order."""
    return TokenMap(
        torch.cat([token_map.boxes for token_map in maps]),
        torch.cat([token_map.cells for token_map in maps]),
        torch.cat([token_map.view for token_map in maps]),
    )


def with_row_ends(grid: TokenMap, rows: int, view: int) -> TokenMap:
    """A grid in raster order, with a token that covers nothing after each of its rows."""
    ends = blank(rows, view)
    # A stable sort keeps the grid's own order among equal keys, so that an end comes after the tokens of its row.
    key = torch.cat([grid.cells[:, 0], torch.arange(rows)])
    order = key.sort(stable=True).indices
    both = concatenated([grid, ends])
    return TokenMap(both.boxes[order], both.cells[order], both.view[order])
