"""Charts of head scores: the histogram with the cut, the chosen heads among all, and how many there are in each layer.

gl.show.score_histogram(scores, heads)
gl.show.chosen_heads(scores, heads)
gl.show.heads_per_layer({"gaze": heads, "image": scores.top(100, by="image")}, n_layers=36)
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from gaze_lens.errors import HeadError, InputError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.show.head_maps import MEANING, UNITS
from gaze_lens.show.plot import ACCENT, BLUES, FAINT, INK, MASS, SIGNED, Plot, figure_style, new_figure, set_title
from gaze_lens.whole_numbers import is_count

COLOURS = (BLUES[2], ACCENT, FAINT, BLUES[1], "#009e73", INK)  # told apart by colour-blind readers, too


def score_histogram(scores: HeadScores, heads: Any = None, *, statistic: str = "score", bins: int = 40) -> Plot:
    """`gl.show.score_histogram(scores, scores.top(100))`: how many heads have which value, and where the chosen begin.

    heads: the chosen ones; the cut is the lowest value among them, and their part of each bar is in another colour.
    Heads without a finite value (not eligible in this ranking) are left out and counted.
    data: "edges" [bin + 1]; "counts", "chosen" [bin]; "cut" (NaN without heads); "left_out". The count axis is
    logarithmic. Raises HeadError for heads outside the scores and for no finite value, InputError for no bins.
    """
    values, mask = scores.values(statistic).numpy(), _mask(scores, heads)
    finite = np.isfinite(values)
    if not is_count(bins):
        raise InputError(f"bins={bins!r} was given; give a whole number of bars, at least 1.")
    if not finite.any():
        raise HeadError(f"No head has a value by {statistic!r}, so that there is nothing to count.")
    counts, edges = np.histogram(values[finite], bins)
    chosen, _ = np.histogram(values[finite & mask], edges)
    cut = float(values[finite & mask].min()) if (finite & mask).any() else math.nan
    with figure_style():
        figure = new_figure(3.2, width=6.5)
        axes = figure.add_subplot()
        widths = np.diff(edges)
        axes.bar(edges[:-1], counts, widths, align="edge", color=BLUES[1], edgecolor="white", linewidth=0.3)
        axes.bar(edges[:-1], chosen, widths, align="edge", color=ACCENT, edgecolor="white", linewidth=0.3)
        if not math.isnan(cut):
            axes.axvline(cut, color=INK, linestyle="--", linewidth=1)
            axes.annotate(f"{mask.sum()} heads\nfrom {cut:.2g}", (cut, 1), xytext=(4, -4), va="top", fontsize=8,
                          xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set(xlabel=UNITS.get(statistic, statistic), ylabel="heads", ylim=(0.7, None))
        left_out = int((~finite).sum())
        note = MEANING.get(statistic, f"ranking {statistic!r}")
        set_title(axes, f"{statistic.capitalize()} of all heads", note + f"; {left_out} not eligible" * bool(left_out))
    text = f"{statistic.capitalize()} of {finite.sum()} heads: {mask.sum()} chosen" + f", from {cut:.3g}" * (cut == cut)
    data = {"edges": edges, "counts": counts, "chosen": chosen, "cut": cut, "left_out": left_out}
    return Plot(figure, data, text)


def chosen_heads(scores: HeadScores, heads: Any, *, statistic: str = "score") -> Plot:
    """`gl.show.chosen_heads(scores, scores.top(100))`: a value of every head, layer by head, the chosen ones framed.

    data: "values" [layer, head]; "chosen" [layer, head]; "heads", their names.
    Raises HeadError for no heads, and heads outside the scores.
    """
    heads = HeadSet.of(heads)
    values, mask = scores.values(statistic).numpy(), _mask(scores, heads)
    n_layers, n_heads = values.shape
    shown = np.where(np.isfinite(values), values, np.nan)
    top = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    low = -top if np.nanmin(shown, initial=0) < 0 else 0.0
    with figure_style():
        figure = new_figure(float(np.clip(0.17 * n_layers + 1.2, 3.0, 8.0)), width=7.5)
        axes = figure.add_subplot()
        options: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "vmin": low, "vmax": top or 1.0}
        image = axes.imshow(shown, cmap=SIGNED if low < 0 else MASS, **options)
        axes.set_facecolor("#e4e4e4")
        axes.add_collection(LineCollection(_frames(mask), colors=ACCENT, linewidths=1.1))
        axes.set(xlabel="head", ylabel="layer")
        axes.set_xticks(range(0, n_heads, math.ceil(n_heads / 16)))
        axes.set_yticks(range(0, n_layers, math.ceil(n_layers / 18)))
        figure.colorbar(image, ax=axes, label=UNITS.get(statistic, statistic), fraction=0.05, pad=0.02)
        layers = np.flatnonzero(mask.any(1))
        note = f"framed: the {len(heads)} chosen, in layers {layers.min()} to {layers.max()} of 0 to {n_layers - 1}"
        set_title(axes, f"{statistic.capitalize()} of every head", note)
    names = tuple(map(str, heads))
    return Plot(figure, {"values": values, "chosen": mask, "heads": names}, f"Chosen heads: {', '.join(names)}")


def heads_per_layer(heads: Any, *, n_layers: int) -> Plot:
    """`gl.show.heads_per_layer(scores.top(100), n_layers=36)`: how many of some heads are in each layer.

    heads: a HeadSet, or what makes one; or several by name, beside one another.
    data: "counts" [set, layer]; "names". Raises HeadError for no heads and for layers that the model does not have.
    """
    by_name = heads if isinstance(heads, Mapping) else {"heads": heads}
    sets = {str(name): HeadSet.of(one) for name, one in by_name.items()}
    layers = [head.layer for one in sets.values() for head in one]
    if not layers or not is_count(n_layers) or max(layers) >= n_layers:
        raise HeadError(f"Heads of layers {sorted(set(layers))} were given for a model of {n_layers} layers.")
    counts = np.stack([np.bincount([head.layer for head in one], minlength=n_layers) for one in sets.values()])
    with figure_style():
        figure = new_figure(2.8, width=7.5)
        axes = figure.add_subplot()
        width = 0.8 / len(sets)
        for index, (name, row) in enumerate(zip(sets, counts, strict=True)):
            places = np.arange(n_layers) - 0.4 + width * (index + 0.5)
            label = f"{name} ({row.sum()})"
            axes.bar(places, row, width, color=COLOURS[index % len(COLOURS)], label=label)
        axes.set_xticks(range(0, n_layers, math.ceil(n_layers / 18)))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="layer", ylabel="heads", xlim=(-0.6, n_layers - 0.4))
        axes.spines[["top", "right"]].set_visible(False)
        if len(sets) > 1:
            axes.legend(frameon=False, fontsize=8)
        set_title(axes, "Heads in each layer")
    lines = [f"{name}: " + " ".join(map(str, row)) for name, row in zip(sets, counts, strict=True)]
    return Plot(figure, {"counts": counts, "names": tuple(sets)}, "\n".join(["Heads in each layer", *lines]))


def _mask(scores: HeadScores, heads: Any) -> np.ndarray:
    """[layer, head], whether a head is among the chosen ones."""
    mask = np.zeros(tuple(scores.score.shape), bool)
    if heads is not None:
        chosen = HeadSet.of(heads)
        chosen.check(*mask.shape)
        mask[tuple(np.array(chosen.heads).T)] = True
    return mask


def _frames(mask: np.ndarray) -> list[list[tuple[float, float]]]:
    """The lines around each chosen cell."""
    around = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))
    return [[(column + x, row + y) for x, y in around] for row, column in np.argwhere(mask)]
