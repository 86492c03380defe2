"""Figures of `HeadScores`: all heads in one map, and the matrices of some heads.

gl.show.scores(scores, statistic="contrast")
gl.show.matrices(scores, scores.top(8))
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gaze_lens.errors import HeadError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.show.picture_axes import mark
from gaze_lens.show.plot import INK, MASS, SIGNED, Plot, figure_style, new_figure, set_title, text_colour

MAX_MARKED = 10  # heads named in a map, at most
MIN_SHARE = 0.05  # of the best head's value: heads with less are not marked
MAX_MATRICES = 24  # matrices in one figure
MAX_NUMBERED = 8  # panels a side, at most, for numbers in the cells
UNITS = {"score": "attention mass, 0-1", "contrast": "attention mass, -1 to 1", "correlation": "correlation, -1 to 1"}
MEANING = {
    "score": "mean attention mass on the panel asked about",
    "contrast": "mean attention mass on the panel asked about, less that on another panel",
    "correlation": "correlation of asked and attended panel",
}


def scores(scores: HeadScores, *, statistic: str = "score") -> Plot:
    """`gl.show.scores(scores)`: a statistic of every head, layer by head, with the ten best named.

    statistic: "score", "contrast" or "correlation". Of the ten, those with at least a twentieth of the best value are
        framed in the map. Bars show their values, with 95 % intervals from a bootstrap over strips if there are several
        strips.
    data: "values" [layer, head]; "heads", the best; "best" [head], their values; "intervals" [low/high, head] or None.
    Raises HeadError for an unknown statistic.
    """
    heads = scores.ranked(statistic)[:MAX_MARKED]
    values = getattr(scores, statistic).numpy()
    best = np.array([values[head] for head in heads])
    intervals = _intervals(scores, heads, statistic)
    n_strips = len(scores.samples)
    model = _model_name(scores)
    title = f"{model}: {statistic} of every head" if model else f"{statistic.capitalize()} of every head"
    with figure_style():
        height = float(np.clip(0.17 * len(values) + 1.2, 3.2, 8.0))
        figure = new_figure(height)
        grid = figure.add_gridspec(2, 2, width_ratios=(3.4, 1), height_ratios=(2.9, max(height - 2.9, 0.01)))
        left, right = figure.add_subplot(grid[:, 0]), figure.add_subplot(grid[0, 1])
        _map(left, values, heads, statistic)
        _bars(right, heads, best, intervals)
        set_title(left, title, f"{MEANING[statistic]}; {n_strips} strip{'s' * (n_strips > 1)}")
        set_title(right, f"Best {len(heads)}", "line: 95 %, over strips" if intervals is not None else "")
        right.set_xlabel(UNITS[statistic])
    text = "\n".join([title, *(f"{head!s:>8} {value:7.3f}" for head, value in zip(heads, best, strict=True))])
    names = tuple(map(str, heads))
    return Plot(figure, {"values": values, "heads": names, "best": best, "intervals": intervals}, text)


def _map(axes: Axes, values: Float[np.ndarray, "layer head"], heads: list[Head], statistic: str) -> None:
    n_layers, n_heads = values.shape
    signed = statistic != "score"
    top = float(np.abs(values).max()) or 1.0
    norm = Normalize(-top if signed else 0.0, top)
    image = axes.imshow(values, cmap=SIGNED if signed else MASS, norm=norm, aspect="auto", interpolation="nearest")
    axes.set(xlabel="head", ylabel="layer")
    axes.set_xticks(range(0, n_heads, math.ceil(n_heads / 16)))
    axes.set_yticks(range(0, n_layers, math.ceil(n_layers / 18)))
    axes.figure.colorbar(image, ax=axes, label=UNITS[statistic], fraction=0.05, pad=0.02)
    roomy = n_heads <= 12 and n_layers <= 24
    for rank, head in enumerate(heads, 1):
        if values[head] < MIN_SHARE * top:
            break
        mark(axes, head.head, head.layer)
        style: dict[str, Any] = {"color": text_colour(image, float(values[head])), "fontsize": 7.5 if roomy else 6.5}
        axes.text(head.head, head.layer, str(head) if roomy else str(rank), ha="center", va="center_baseline", **style)


def _bars(axes: Axes, heads: list[Head], best: Float[np.ndarray, " head"], intervals: np.ndarray | None) -> None:
    rows = np.arange(len(heads))
    axes.barh(rows, best, color="#6ea3cf", height=0.7)
    if intervals is not None:
        axes.hlines(rows, *intervals, color=INK, linewidth=1.2)
    axes.set_yticks(rows, [f"{rank}  {head}" for rank, head in enumerate(heads, 1)])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(0, color="#999999", linewidth=0.6)


def _intervals(scores: HeadScores, heads: list[Head], statistic: str) -> Float[np.ndarray, "2 head"] | None:
    """Bootstrap intervals of a few heads; the others are not resampled. None for a single strip."""
    if len(scores.samples) < 2:
        return None
    layers, columns = torch.tensor(heads).T
    few = HeadScores(scores.samples[:, layers, columns][:, None])
    return few.interval(statistic)[:, 0].numpy()


def matrices(scores: HeadScores, heads: Any) -> Plot:
    """`gl.show.matrices(scores, scores.top(4))`: for each head, attention by panel asked about.

    heads: a HeadSet, or what makes one (["L3H5", (2, 1)]); 24 at most. All share one colour scale.
    data: "matrix" [head, asked, attended], attention mass, 0-1, NaN for panels never seen together; "heads".
    Raises HeadError for no heads, too many, and heads outside the scores.
    """
    heads = HeadSet.of(heads)
    if len(heads) > MAX_MATRICES:
        raise HeadError(
            f"{len(heads)} heads were given to show: expected 1 to {MAX_MATRICES}. Take some, such as heads[:8]."
        )
    heads.check(*scores.matrix.shape[:2])
    matrix = np.stack([scores.matrix[head].numpy() for head in heads])
    contrasts = [round(scores.contrast[head].item(), 2) + 0.0 for head in heads]  # no -0.00
    notes = [f"score {scores.score[head]:.2f}, contrast {c:.2f}" for head, c in zip(heads, contrasts, strict=True)]
    with figure_style():
        figure = _grid(matrix, list(zip(map(str, heads), notes, strict=True)))
    lines = [f"Attention mass by asked (row) and attended (column) panel: {heads}"]
    for head, one in zip(heads, matrix, strict=True):
        lines += [str(head), *("  " + " ".join(f"{value:5.2f}" for value in row) for row in one)]
    return Plot(figure, {"matrix": matrix, "heads": tuple(map(str, heads))}, "\n".join(lines))


def _grid(matrix: Float[np.ndarray, "head asked attended"], titles: list[tuple[str, str]]) -> Figure:
    columns = min(len(matrix), 4)
    rows = math.ceil(len(matrix) / columns)
    side = {1: 3.2, 2: 2.8}.get(columns, 1.9)
    figure = new_figure((side + 0.6) * rows + 0.55, width=max((side + 0.1) * columns + 1.0, 4.6))
    figure.suptitle("Where heads look when a panel is asked about", x=0.01, ha="left", fontsize=10, weight="bold")
    axes = figure.subplots(rows, columns, squeeze=False)
    top = float(np.nanmax(matrix)) or 1.0
    for index, one in enumerate(axes.flat):
        if index >= len(matrix):
            one.set_visible(False)
            continue
        image = _matrix(one, matrix[index], top, size=6.5 if columns > 2 else 8.5)
        set_title(one, *titles[index])
        one.set_xlabel("panel attended to" if index + columns >= len(matrix) else "")
        one.set_ylabel("panel asked about" if index % columns == 0 else "")
    figure.colorbar(image, ax=axes, label="attention mass, 0-1", fraction=0.03, pad=0.01, aspect=30)
    return figure


def _matrix(axes: Axes, values: Float[np.ndarray, "asked attended"], top: float, *, size: float) -> ScalarMappable:
    n_panels = len(values)
    image = axes.imshow(values, cmap=MASS, vmin=0, vmax=top, interpolation="nearest")
    axes.set_facecolor("#e4e4e4")  # where no strip had both panels
    ticks = range(0, n_panels, math.ceil(n_panels / 12))
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.tick_params(length=0)
    if n_panels <= MAX_NUMBERED:
        for asked, attended in np.argwhere(np.isfinite(values)):
            value = float(values[asked, attended])
            text = f"{value:.2f}".removeprefix("0")
            style: dict[str, Any] = {
                "color": text_colour(image, value),
                "fontsize": size,
                "ha": "center",
                "va": "center_baseline",
            }
            axes.text(attended, asked, text, **style)
    return image


def _model_name(scores: HeadScores) -> str:
    """The model's short name; "" where it has none, or where it is a folder."""
    name = scores.model or ""
    return name.split("/")[-1] if name.count("/") <= 1 and not name.startswith((".", "/")) else ""
