"""The figure of `gl.show.attention_map`: for the mean and for each head, pictures under heat maps, and tinted text.

figure = draw(head_rows, title)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from gaze_lens.errors import RegionError
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.show.picture_axes import Sheet, step
from gaze_lens.show.plot import WIDTH, axes_at, new_figure, write_at
from gaze_lens.show.tinted_text import TintedText

MAX_SINGLE = 8  # heads shown one by one, at most
MAX_HEIGHT = 4.0  # inches, of a picture
# Transparent where there is no attention, and nowhere opaque, so that the picture stays visible.
HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0, "#ffd16600"), (0.15, "#ffb84d70"), (0.5, "#f0642899"), (1, "#b30f00c0")]
)  # fmt: skip
TINT = LinearSegmentedColormap.from_list("tint", ["#e0762f00", "#e0762fc0"])  # the text on it stays legible


@dataclass(frozen=True)
class PromptText:
    """positions: of a prompt's tokens of text. segments: name -> positions. telling: those that set the scale."""

    words: tuple[str, ...]
    positions: tuple[int, ...]
    segments: dict[str, tuple[int, ...]]
    telling: tuple[int, ...]

    @property
    def block(self) -> TintedText:
        """For drawing."""
        at = {position: index for index, position in enumerate(self.positions)}
        segments = {name: tuple(at[p] for p in some if p in at) for name, some in self.segments.items()}
        return TintedText(self.words, segments)


@dataclass(frozen=True)
class HeadRows:
    """Attention of some heads. rows: mass, 0-1. tokens: of the images that are shown; sheet: their pictures.

    on_text: mass on the prompt's positions; `rows` itself, unless the image is reached by cross-attention.
    more: (name, rows) of further tiles, of the mean over heads.
    """

    heads: tuple[str, ...]
    rows: Float[Tensor, "head position"]
    tokens: tuple[ImageTokens, ...]
    sheet: Sheet | None
    text: PromptText | None
    on_text: Float[Tensor, "head column"]
    more: tuple[tuple[str, Tensor, Tensor], ...] = ()

    @property
    def on_image(self) -> Float[np.ndarray, " head"]:
        """The share of each head's attention that falls on tokens of the images."""
        shares = [self.rows[:, tokens.positions].sum(1) for tokens in self.tokens]
        return torch.stack(shares).sum(0).numpy() if shares else np.zeros(len(self.rows), np.float32)

    @property
    def on_regions(self) -> Float[np.ndarray, "head region"]:
        """On each region of the sheet, in order, then each segment; NaN for a region smaller than a token."""
        return (
            np.stack([*self._on_shapes(), *self._on_segments()] or [np.zeros(0)], 1)
            if self.names
            else np.zeros((len(self.rows), 0), np.float32)
        )

    def _on_shapes(self) -> list[Float[np.ndarray, " head"]]:
        shares = []
        for index, _, shape in self.sheet.shapes() if self.sheet else ():
            try:
                shares.append(self.rows[:, self.tokens[index].select(shape)].sum(1).numpy())
            except RegionError:
                shares.append(np.full(len(self.rows), np.nan, np.float32))
        return shares

    def _on_segments(self) -> list[Float[np.ndarray, " head"]]:
        segments = self.text.segments.values() if self.text else ()
        return [self.on_text[:, list(positions)].sum(1).numpy() for positions in segments]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the regions of the sheet, then of the segments."""
        shapes = tuple(name for _, name, _ in self.sheet.shapes()) if self.sheet else ()
        return shapes + (tuple(self.text.segments) if self.text else ())

    @property
    def highest(self) -> float:
        """The largest mass of a head on a single image token."""
        rows = torch.cat([self.rows, *(rows for _, rows, _ in self.more)])
        return max(rows[:, tokens.positions].max().item() for tokens in self.tokens) or 1.0

    @property
    def highest_on_text(self) -> float:
        """The largest mass on a token of text that tells something."""
        rows = torch.cat([self.on_text, *(on_text for *_, on_text in self.more)])
        return rows[:, list(self.text.telling if self.text else ())].max().item() or 1.0

    def tiles(self) -> list[tuple[str, "HeadRows"]]:
        """(name, rows of one or several heads): the mean over all, the first heads, then what is in `more`."""
        n = len(self.heads)
        one = [self.of(self.rows[[i]], self.on_text[[i]], self.heads[i]) for i in range(min(n, MAX_SINGLE))]
        mean = self.of(self.rows, self.on_text, f"mean of {n}" if n > 1 else self.heads[0])
        further = [self.of(rows, on_text, name) for name, rows, on_text in self.more[:MAX_SINGLE]]
        return [mean, *(one if n > 1 else []), *further]

    def of(self, rows: Tensor, on_text: Tensor, name: str) -> tuple[str, "HeadRows"]:
        """The same with other rows, under a name."""
        return name, HeadRows(self.heads[: len(rows)], rows, self.tokens, self.sheet, self.text, on_text)

    def heading(self, name: str) -> str:
        """A tile's: how much is on what it shows."""
        parts = [f"{self.on_image.mean():.2f} on the image"] * bool(self.tokens)
        if self.text and self.text.segments:
            parts.append(f"{np.sum(self._on_segments(), 0).mean():.2f} on the segments")
        return f"{name}: {', '.join(parts)}" if parts else name


@dataclass(frozen=True)
class _Grid:
    """The layout, in inches: the mean is first, as wide as the figure where pictures are strips or text is shown."""

    sheet: Sheet | None
    block: TintedText | None
    n_tiles: int

    @property
    def wide_first(self) -> bool:
        return self.block is not None or self.aspect >= 2.5

    @property
    def aspect(self) -> float:
        return self.sheet.aspect if self.sheet else 10.0

    @property
    def columns(self) -> int:
        return 2 if self.wide_first else min(self.n_tiles, 4 if self.n_tiles == 4 else 3)

    @property
    def cell(self) -> float:
        """Width of a tile."""
        room = (WIDTH - 0.1 - 0.2 * (self.columns - 1)) / self.columns
        return room if self.block is not None else self.picture(room)

    def picture(self, width: float) -> float:
        """Width of the pictures in a tile of a width."""
        return min(width, MAX_HEIGHT * self.aspect)

    def tile(self, index: int) -> tuple[float, float, float]:
        """Left and top of a tile, which begins with its heading, and its width."""
        if index == 0:
            return 0.05, 0.38, WIDTH - 0.1 if self.wide_first else self.cell
        row, column = divmod(index - self.wide_first, self.columns)
        first = 0.38 + self.wide_first * self.height(WIDTH - 0.1, names=True)
        names = not self.wide_first  # in the first row, beside the mean
        top = first + row * self.height(self.cell, names=False) + (row > 0) * names * self.head_room
        return 0.05 + column * (self.cell + 0.2), top, self.cell

    @property
    def head_room(self) -> float:
        return self.sheet.head_room if self.sheet else 0.0

    def height(self, width: float, *, names: bool) -> float:
        """Of a tile: heading, names, pictures, notes, text."""
        pictures = (1 + names) * self.head_room + self.picture(width) / self.aspect if self.sheet else 0.0
        return 0.36 + pictures + (self.block.height(width) + 0.1 if self.block else 0.0)

    @property
    def bottom(self) -> float:
        _, top, width = self.tile(self.n_tiles - 1)
        return top + self.height(width, names=self.n_tiles <= self.columns)


def draw(head_rows: HeadRows, title: str) -> Figure:
    """The figure: a tile for the mean, and one for each of the first heads and of `more`."""
    tiles = head_rows.tiles()
    grid = _Grid(head_rows.sheet, head_rows.text.block if head_rows.text else None, len(tiles))
    width = WIDTH if grid.columns > 1 else max(grid.cell + 0.1, 6.4)  # the title needs 6 inches
    figure = new_figure(grid.bottom + 0.55, width=width, layout=None)
    write_at(figure, 0.05, 0.08, title, fontsize=10, weight="bold")
    scales = _scales(head_rows)
    for index, (name, rows) in enumerate(tiles):
        _tile(figure, rows, name, grid, index, scales)
    _bars(figure, head_rows, scales)
    return figure


def _scales(head_rows: HeadRows) -> tuple[ScalarMappable | None, ScalarMappable | None]:
    """Of pictures, and of text."""
    pictures = ScalarMappable(Normalize(0, head_rows.highest), HEAT) if head_rows.tokens else None
    text = ScalarMappable(Normalize(0, head_rows.highest_on_text), TINT) if head_rows.text else None
    return pictures, text


def _tile(
    figure: Figure,
    rows: HeadRows,
    name: str,
    grid: _Grid,
    index: int,
    scales: tuple[ScalarMappable | None, ScalarMappable | None],
) -> None:
    """The mean of some rows over pictures and text, under a heading."""
    x, y, width = grid.tile(index)
    write_at(figure, x, y, rows.heading(name), fontsize=8.5)
    notes = ["–" if np.isnan(share) else f"{share:.2f}" for share in rows.on_regions.mean(0)]
    top = y + 0.2
    if rows.sheet and scales[0]:
        size, n_shapes = grid.picture(width), len(list(rows.sheet.shapes()))
        top += rows.sheet.head_room * (index == 0)
        axes = axes_at(figure, x, top, width=size, height=size / rows.sheet.aspect)
        rows.sheet.draw(axes, faded=True)
        _heat(axes, rows, rows.sheet, scales[0])
        rows.sheet.outline(axes, width=0.8)
        rows.sheet.label(axes, notes[:n_shapes], width=size, names=index == 0, size=8)
        notes, top = notes[n_shapes:], top + size / rows.sheet.aspect + rows.sheet.head_room + 0.1
    if rows.text and grid.block and scales[1]:
        values = rows.on_text.mean(0)[list(rows.text.positions)].numpy()
        grid.block.draw(figure, (x, top), width, values, scales[1], notes)


def _heat(axes: Axes, rows: HeadRows, sheet: Sheet, scale: ScalarMappable) -> None:
    values = rows.rows.mean(0)
    for index, (tokens, picture) in enumerate(zip(rows.tokens, sheet.pictures, strict=True)):
        stride = step(picture)
        heat = tokens.heatmap(values[tokens.positions])[::stride, ::stride].numpy()
        sheet.draw_array(axes, index, heat, cmap=scale.cmap, norm=scale.norm, interpolation="nearest")


def _bars(figure: Figure, head_rows: HeadRows, scales: Sequence[ScalarMappable | None]) -> None:
    """The scales: of pictures, and beside it of text, whose largest value is exceeded by special tokens."""
    height, left = figure.get_size_inches()[1], 0.2
    numbers = " (numbers: on a region)" * bool(head_rows.names)
    what = ["an image token", "a token of text"]
    for scale, token in zip(scales, what, strict=True):
        if scale is None:
            continue
        axes = axes_at(figure, left, height - 0.5, width=3.2, height=0.1)
        clipped = token != what[0] and head_rows.on_text.max().item() > 1.001 * head_rows.highest_on_text
        bar = figure.colorbar(scale, cax=axes, orientation="horizontal", extend="max" if clipped else "neither")
        bar.set_label(f"attention mass on {token}, 0-1" + numbers, fontsize=7.5)
        bar.ax.tick_params(labelsize=7, pad=1)
        left, numbers = left + 4.0, ""
