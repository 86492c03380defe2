"""What a grid of tokens covers of a picture that was resized, then cropped or padded.

The picture is drawn onto a canvas, and tokens are cut from the canvas. Both directions are alike and independent, so
each is an `Axis` with the spans of its rows or columns. A crop draws the picture beyond the canvas, padding draws it
short of the canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.families.geometry import Size, TokenMap

LEAST = 1e-3  # of a token's side: what it must have of the picture to cover it; less is rounding


@dataclass(frozen=True)
class Axis:
    """One direction: a picture of `length` pixels takes `drawn` pixels of a canvas, from its pixel `start` on."""

    length: int
    drawn: float
    start: float = 0.0

    def original(self, canvas: Float[Tensor, "token 2"]) -> Float[Tensor, "token 2"]:
        """Spans of the canvas in original pixels; some may lie outside the picture."""
        return (canvas - self.start) * (self.length / self.drawn)


def even_spans(count: int, side: int) -> Float[Tensor, "token 2"]:
    """`count` spans of `side` pixels, side by side from the canvas' edge."""
    starts = torch.arange(count).double() * side
    return torch.stack([starts, starts + side], dim=-1)


def placed_grid(size: Size, across: Float[Tensor, "column 2"], down: Float[Tensor, "row 2"], view: int = 0) -> TokenMap:
    """Tokens in raster order, whose columns and rows span what is given, in original pixels.

    Boxes end where the image does; tokens that lie in the padding keep their cells and have no box.
    """
    (x, seen_x), (y, seen_y) = _clipped(across, size[0]), _clipped(down, size[1])
    row = torch.arange(len(y)).repeat_interleave(len(x))
    column = torch.arange(len(x)).repeat(len(y))
    boxes = torch.stack([x[column, 0], y[row, 0], x[column, 1], y[row, 1]], dim=-1).float()
    boxes[~(seen_x[column] & seen_y[row])] = torch.nan
    return TokenMap(boxes, torch.stack([row, column], dim=-1), torch.full((len(row),), view))


def _clipped(spans: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The spans within the picture, and which of them have more than a trace of it."""
    inside = spans.clamp(0, length)
    return inside, inside.diff(dim=-1)[:, 0] > LEAST * spans.diff(dim=-1)[:, 0]


def blank(count: int, view: int = 0) -> TokenMap:
    """Tokens that cover nothing: a class token, ends of lines."""
    nowhere = torch.full((count, 4), torch.nan)
    return TokenMap(nowhere, torch.full((count, 2), -1), torch.full((count,), view))


def joined(maps: Sequence[TokenMap]) -> TokenMap:
    """One map after the other."""
    return TokenMap(
        torch.cat([part.boxes for part in maps]),
        torch.cat([part.cells for part in maps]),
        torch.cat([part.view for part in maps]),
    )


def with_line_ends(grid: TokenMap, rows: int, view: int) -> TokenMap:
    """A grid in raster order, with a token that covers nothing after each of its rows."""
    ends = blank(rows, view)
    # Stable: among equal keys the grid's own order stays, and an end comes after the tokens of its row.
    key = torch.cat([grid.cells[:, 0], torch.arange(rows)])
    order = key.sort(stable=True).indices
    both = joined([grid, ends])
    return TokenMap(both.boxes[order], both.cells[order], both.view[order])
