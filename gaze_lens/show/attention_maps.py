"""The attention of heads over the picture, for one token.

gl.show.attention_map(model, inputs, heads)                       # what the last prompt token looks at
gl.show.attention_map(model, inputs, heads, fwd_hooks=gl.steer(heads, inputs.region("panel 4")))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from gaze_lens.attention.positions import Positions
from gaze_lens.attention.region_reader import RegionReader, keep_rows
from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.show.labels import visible
from gaze_lens.show.picture_axes import Sheet, step
from gaze_lens.show.plot import WIDTH, Plot, axes_at, figure_style, new_figure, write_at

MAX_SINGLE = 8  # heads shown one by one, at most
MAX_HEIGHT = 4.0  # inches, of a picture
# Transparent where there is no attention, and nowhere opaque, so that the picture stays visible.
HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0, "#ffd16600"), (0.15, "#ffb84d70"), (0.5, "#f0642899"), (1, "#b30f00c0")]
)  # fmt: skip


@dataclass(frozen=True)
class _HeadRows:
    """Attention of some heads. rows: mass, 0-1. tokens: of the images of the batch row. sheet: their pictures."""

    heads: tuple[str, ...]
    rows: Float[Tensor, "head position"]
    tokens: tuple[ImageTokens, ...]
    sheet: Sheet

    @property
    def on_image(self) -> Float[np.ndarray, " head"]:
        """The share of each head's attention that falls on image tokens."""
        return torch.stack([self.rows[:, tokens.positions].sum(1) for tokens in self.tokens]).sum(0).numpy()

    @property
    def on_regions(self) -> Float[np.ndarray, "head region"]:
        """The share on each region, in the sheet's order; NaN for a region smaller than a token."""
        shares = []
        for index, _, shape in self.sheet.shapes():
            try:
                shares.append(self.rows[:, self.tokens[index].select(shape)].sum(1))
            except RegionError:
                shares.append(torch.full((len(self.rows),), torch.nan))
        return torch.stack(shares, 1).numpy() if shares else np.zeros((len(self.rows), 0), np.float32)

    @property
    def highest(self) -> float:
        """The largest mass of a head on a single image token."""
        return max(self.rows[:, tokens.positions].max().item() for tokens in self.tokens) or 1.0


def attention_map(
    model: Model,
    inputs: VLMInputs,
    heads: Any,
    *,
    position: int | None = None,
    row: int = 0,
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
) -> Plot:
    """`gl.show.attention_map(model, inputs, heads)`: where heads look for one token, their mean and each by itself.

    heads: a HeadSet, or what makes one; the mean is of all of them; of more than eight, the first eight are shown
        one by one.
    position: column of the padded prompt, the query; negative from the end; the last prompt token by default. For the
        words of an answer, prepare the inputs with `answers=`.
    row: of the batch. fwd_hooks: run under these, a steering for example.
    Only single rows of the pattern are computed.
    data: "attention" [head, key], mass, 0-1; "on_image" [head]; "on_regions" [head, region]; "heads"; "regions".
    Raises HeadError for no heads or heads outside the model, InputError for a position that is padding or outside
    the prompt, and for inputs without an image.
    """
    heads = HeadSet.of(heads, model)
    position = _position(inputs, position, row)
    rows = read_rows(model, inputs, heads, position=position, row=row, fwd_hooks=fwd_hooks)
    tokens = tuple(tokens for tokens in inputs.image_tokens if tokens.row == row)
    head_rows = _HeadRows(tuple(map(str, heads)), rows, tokens, Sheet.of(inputs.pictures[row]))
    title = f"Where {len(heads)} heads look" if len(heads) > 1 else f"Where {heads} looks"
    title += f" from {_token(inputs, position, row)}"
    with figure_style():
        figure = _draw(head_rows, title)
    names = tuple(name for _, name, _ in head_rows.sheet.shapes())
    data = {"attention": rows.numpy(), "on_image": head_rows.on_image, "on_regions": head_rows.on_regions}
    return Plot(figure, {**data, "heads": head_rows.heads, "regions": names}, _words(head_rows, title, names))


@torch.no_grad()
def read_rows(
    model: Model,
    inputs: VLMInputs,
    heads: HeadSet,
    *,
    position: int,
    row: int,
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
) -> Float[Tensor, "head key"]:
    """The attention of heads at one position to every key of the prompt, 0-1, heads in the order of the set.

    Where the image is reached by cross-attention: to every key of the image, and 0 from heads of other layers.
    """
    reader = RegionReader.of_prompt(heads, inputs.layout, keep_rows, row=row)
    hooks = [*fwd_hooks, *reader.hooks(Positions.of([position]))]
    model.run_with_hooks(inputs, fwd_hooks=hooks, return_type=None, logits_to_keep=inputs.last_logits, use_cache=False)
    (rows,) = reader.values([position])
    return rows[:, 0]


def _position(inputs: VLMInputs, position: int | None, row: int) -> int:
    length = inputs.layout.length
    if not 0 <= row < inputs.n_rows:
        raise InputError(f"There is no row {row} in these inputs: expected 0 to {inputs.n_rows - 1}.")
    if not inputs.pictures[row]:
        raise InputError(f"Row {row} has no image to show attention on: prepare the prompt with one.")
    absolute = length - 1 if position is None else position + length * (position < 0)
    tokens = inputs.layout.text[row] + (() if inputs.layout.cross_attention else inputs.layout.images[row])
    if absolute not in tokens:
        first = min(tokens)
        raise InputError(
            f"Position {position} is no token of row {row}: expected {first} to {length - 1}, or negative, -1 the last."
        )
    return absolute


@dataclass(frozen=True)
class _Grid:
    """The layout, in inches: the mean comes first, as wide as the figure where the picture is a strip."""

    sheet: Sheet
    n_tiles: int

    @property
    def strip(self) -> bool:
        return self.sheet.aspect >= 2.5

    @property
    def columns(self) -> int:
        return 2 if self.strip else min(self.n_tiles, 4 if self.n_tiles == 4 else 3)

    @property
    def cell(self) -> float:
        """Width of a picture."""
        return min((WIDTH - 0.1 - 0.2 * (self.columns - 1)) / self.columns, MAX_HEIGHT * self.sheet.aspect)

    def tile(self, index: int) -> tuple[float, float, float]:
        """Left and top of a tile, which begins with its heading, and the width of its picture."""
        if index == 0:
            return 0.05, 0.38, WIDTH - 0.1 if self.strip else self.cell
        row, column = divmod(index - self.strip, self.columns)
        first = 0.38 + self.strip * self.height(WIDTH - 0.1, names=True)
        names = not self.strip  # in the first row, beside the mean
        top = first + row * self.height(self.cell, names=False) + (row > 0) * names * self.sheet.head_room
        return 0.05 + column * (self.cell + 0.2), top, self.cell

    def height(self, width: float, *, names: bool) -> float:
        """Of a tile: heading, names, picture, notes."""
        return 0.36 + (1 + names) * self.sheet.head_room + width / self.sheet.aspect

    @property
    def bottom(self) -> float:
        _, top, width = self.tile(self.n_tiles - 1)
        return top + self.height(width, names=self.n_tiles <= self.columns)


def _token(inputs: VLMInputs, position: int, row: int) -> str:
    """A position in words."""
    word = visible(inputs.tokenizer.decode(int(inputs.input_ids[row, position])))
    last = position == inputs.answers[row] - 1
    return f"the last prompt token (“{word}”, position {position})" if last else f"“{word}” (position {position})"


def _draw(head_rows: _HeadRows, title: str) -> Figure:
    indices = list(range(len(head_rows.heads)))
    tiles = [indices] + [[index] for index in indices[:MAX_SINGLE] if len(indices) > 1]
    grid = _Grid(head_rows.sheet, len(tiles))
    width = WIDTH if grid.columns > 1 else max(grid.cell + 0.1, 6.4)  # the title needs 6 inches
    figure = new_figure(grid.bottom + 0.55, width=width, layout=None)
    write_at(figure, 0.05, 0.08, title, fontsize=10, weight="bold")
    scale = ScalarMappable(Normalize(0, head_rows.highest), HEAT)
    for index, heads in enumerate(tiles):
        _tile(figure, head_rows, heads, grid.tile(index), scale)
    _bar(figure, head_rows, scale)
    return figure


def _tile(
    figure: Figure, head_rows: _HeadRows, heads: list[int], corner: tuple[float, float, float], scale: ScalarMappable
) -> None:
    """The mean of some heads over the picture, under a heading. corner: as `_Grid.tile`."""
    x, y, width = corner
    sheet, first = head_rows.sheet, len(heads) == len(head_rows.heads)
    name = head_rows.heads[heads[0]] if len(heads) == 1 else f"mean of {len(heads)}"
    write_at(figure, x, y, f"{name}: {head_rows.on_image[heads].mean():.2f} on the image", fontsize=8.5)
    top = y + 0.2 + sheet.head_room * first
    axes = axes_at(figure, x, top, width=width, height=width / sheet.aspect)
    sheet.draw(axes, faded=True)
    _heat(axes, head_rows, heads, scale)
    sheet.outline(axes, width=0.8)
    shares = head_rows.on_regions[heads].mean(0)
    notes = ["–" if np.isnan(share) else f"{share:.2f}" for share in shares]
    sheet.label(axes, notes, width=width, names=first, size=8)


def _heat(axes: Axes, head_rows: _HeadRows, heads: list[int], scale: ScalarMappable) -> None:
    values = head_rows.rows[heads].mean(0)
    for index, (tokens, picture) in enumerate(zip(head_rows.tokens, head_rows.sheet.pictures, strict=True)):
        stride = step(picture)
        heat = tokens.heatmap(values[tokens.positions])[::stride, ::stride].numpy()
        head_rows.sheet.draw_array(axes, index, heat, cmap=scale.cmap, norm=scale.norm, interpolation="nearest")


def _bar(figure: Figure, head_rows: _HeadRows, scale: ScalarMappable) -> None:
    height = figure.get_size_inches()[1]
    axes = axes_at(figure, 0.2, height - 0.5, width=3.2, height=0.1)
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal")
    named = any(picture.regions for picture in head_rows.sheet.pictures)
    bar.set_label("attention mass on an image token, 0-1" + " (numbers: on a region)" * named, fontsize=7.5)
    bar.ax.tick_params(labelsize=7, pad=1)


def _words(head_rows: _HeadRows, title: str, names: tuple[str, ...]) -> str:
    lines = [title]
    for head, image, regions in zip(head_rows.heads, head_rows.on_image, head_rows.on_regions, strict=True):
        shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(names, regions, strict=True))
        lines.append(f"{head:>8}  image {image:.2f}" + f" ({shares})" * bool(shares))
    return "\n".join(lines)
