"""Charts along the layers: where a direction flips answers, and where hidden states tell questions apart.

gl.show.layer_flips(prompts.flips(model, direction))
gl.show.question_clusters(gl.patching.question_states(model, strips, questions))
"""

import math
from typing import Any

import numpy as np

from gaze_lens.errors import InputError
from gaze_lens.patching import QuestionStates
from gaze_lens.show.plot import ACCENT, BLUES, FAINT, INK, Plot, figure_style, new_figure, set_title

COLUMNS = ("start", "stop", "flipped", "low", "high", "difference", "unsteered")
PLANES = 4  # layers whose states are shown as points
QUESTIONS = ("#0a3263", "#2b6cab", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#777777")


def layer_flips(table: Any) -> Plot:
    """`gl.show.layer_flips(table)`: the share of answers that a direction flips, and the logit difference, by layer.

    table: of `gl.patching.flip_rates`, or `OrderPrompts.flips`; bands of several layers are at their middle.
    data: "layer"; "flipped", "low", "high" (0-1); "difference", "unsteered" (logits).
    Raises InputError for a table without these columns, or without rows.
    """
    if not len(table) or not set(COLUMNS) <= set(table):
        raise InputError(f"A table with the columns {', '.join(COLUMNS)} is wanted; see gl.patching.flip_rates.")
    rows = table.sort_values(["start", "stop"])
    data = {name: rows[name].to_numpy(float) for name in COLUMNS[2:]}
    data = {"layer": (rows.start.to_numpy(float) + rows.stop.to_numpy(float) - 1) / 2, **data}
    with figure_style():
        figure = new_figure(4.6, width=7.0)
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.fill_between(data["layer"], 100 * data["low"], 100 * data["high"], color=BLUES[0], linewidth=0)
        upper.plot(data["layer"], 100 * data["flipped"], "o-", color=BLUES[2], markersize=3.5)
        upper.set(ylim=(-2, 102), ylabel="answers that flip, %")
        lower.axhline(0, color=FAINT, linewidth=0.6)
        lower.axhline(data["unsteered"][0], color=INK, linestyle="--", linewidth=1)
        lower.plot(data["layer"], data["difference"], "o-", color=ACCENT, markersize=3.5)
        lower.set(xlabel="layer at which the direction is added", ylabel="logit difference,\nother less natural")
        lower.set_xticks(_ticks(data["layer"]))
        for axes in (upper, lower):
            axes.spines[["top", "right"]].set_visible(False)
        n = int(rows["n"].iloc[0]) if "n" in rows else 0
        set_title(upper, "Answers that a direction flips, by layer", f"band: 95 % interval; {n} answers" if n else "")
        set_title(lower, "Logit of the other order's answer less the natural one's", "dashed: without the direction")
    lines = [f"layer {a:g}: {100 * b:.1f} %, {c:+.2f}" for a, b, c in
             zip(data["layer"], data["flipped"], data["difference"], strict=True)]  # fmt: skip
    return Plot(figure, data, "\n".join(["Answers that a direction flips, by layer", *lines]))


def question_clusters(states: QuestionStates, *, layers: Any = None) -> Plot:
    """`gl.show.question_clusters(states)`: the silhouette by layer, and the states of some layers on their main axes.

    layers: whose states are drawn as points, at most four; by default one before the best, the best, and two after.
    data: "layer", "silhouette"; "shown", the layers drawn; "points" [shown, row, 2]; "share" [shown, 2], each axis'
    share of the variance; "question" [row].
    Raises InputError for layers that were not read, and for too many.
    """
    table = states.silhouette()
    values = table.silhouette.to_numpy(float)
    shown = _shown(states.layers, values) if layers is None else tuple(layers)
    if not 0 < len(shown) <= PLANES:
        raise InputError(f"layers={shown} was given; give 1 to {PLANES} layers.")
    planes = [states.plane(layer) for layer in shown]
    question = states.question.numpy()
    with figure_style():
        figure = new_figure(5.0)
        grid = figure.add_gridspec(2, len(shown), height_ratios=(1, 1.2))
        axes = figure.add_subplot(grid[0, :])
        axes.axhline(0, color=FAINT, linewidth=0.6)
        axes.plot(states.layers, values, "o-", color=BLUES[2], markersize=3.5)
        axes.set_xticks(_ticks(np.array(states.layers, float)))
        axes.set(xlabel="layer", ylabel="silhouette")
        axes.spines[["top", "right"]].set_visible(False)
        best = states.layers[int(np.nanargmax(values))]
        set_title(axes, "How far hidden states tell the questions apart", f"largest at layer {best}; -1 to 1")
        for index, (layer, plane) in enumerate(zip(shown, planes, strict=True)):
            _plane(figure.add_subplot(grid[1, index]), plane, layer, legend=index == 0)
    data = {"layer": np.array(states.layers), "silhouette": values, "shown": np.array(shown), "question": question}
    data |= {"points": np.stack([plane[["x", "y"]].to_numpy() for plane in planes])}
    data |= {"share": np.stack([plane[["share_x", "share_y"]].to_numpy()[0] for plane in planes])}
    lines = [f"layer {layer}: {value:.3f}" for layer, value in zip(states.layers, values, strict=True)]
    return Plot(figure, data, "\n".join(["Silhouette of the questions", *lines]))


def _plane(axes: Any, plane: Any, layer: int, *, legend: bool) -> None:
    """The states of a layer as points, a colour for each question."""
    for question, rows in plane.groupby("question"):
        axes.plot(
            rows.x, rows.y, ".", color=QUESTIONS[question % len(QUESTIONS)], markersize=5, label=f"{question + 1}"
        )
    shares = plane[["share_x", "share_y"]].iloc[0]
    set_title(axes, f"Layer {layer}", f"{100 * shares.sum():.0f} % of the variance")
    axes.set(xticks=[], yticks=[])
    if legend:
        axes.legend(title="question", frameon=False, fontsize=7, title_fontsize=7, handletextpad=0, borderpad=0)


def _shown(layers: tuple[int, ...], values: np.ndarray) -> tuple[int, ...]:
    """Some layers to draw: half way to the best, the best, half way from there to the last, and the last."""
    best, last = int(np.nanargmax(values)), len(layers) - 1
    return tuple(layers[index] for index in sorted({best // 2, best, (best + last) // 2, last}))


def _ticks(layers: np.ndarray) -> np.ndarray:
    return layers[:: max(1, math.ceil(len(layers) / 18))]
