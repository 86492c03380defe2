"""Figures of `PatchResult`: the recovery of each patched cell, by layer and head or by layer and positions.

gl.show.patching(gl.patch(model, clean, corrupted, what="z", positions=["image", "last"], metric=metric))
gl.show.patching(gl.patch(model, clean, corrupted, what="resid_pre", positions=["image", "last"], metric=metric))
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gaze_lens.errors import InputError
from gaze_lens.patching import PatchResult
from gaze_lens.show.picture_axes import mark
from gaze_lens.show.plot import SIGNED, Plot, figure_style, new_figure, set_title, text_colour

MAX_NAMED = 5  # heads named in the map of a group, at most
MIN_RECOVERY = 0.05  # recovery: heads with less are not named
MAX_COLUMNS = 3  # maps side by side
MAX_NUMBERED = 12  # layers, at most, for numbers in the cells of a map without heads
NOTE = "share of the metric's difference that patching brings back; 1: as in the clean run"


def patching(result: PatchResult, *, positions: str | Sequence[str] | None = None) -> Plot:
    """`gl.show.patching(result)`: the recovery of every cell; a map of layers and heads for each group of positions.

    result: of `gl.patch`, `gl.attribute` or `gl.path_patch`; where no heads were patched, there is one map of layers
        and groups of positions.
    positions: names of the groups to show; all by default.
    data: "values" [group, layer, head], or [group, layer] without heads, NaN where nothing was patched; "positions",
        the groups' names.
    Raises InputError for several metrics (take one: result["name"]), for results without layers, for edges, for unknown
    groups, and where the clean and the corrupted runs do not differ.
    """
    names = _groups(result, positions)
    values = np.stack([result.grid(name).numpy() for name in names])
    if np.isinf(values).any() or not np.isfinite(values).any():
        raise InputError(
            "The clean and the corrupted runs have the same metric on average: there is no difference to bring back. "
            "Choose a metric that tells them apart."
        )
    title = f"Patching {result.what}: recovery"
    with figure_style():
        figure = _layers(values, names, title) if values.ndim == 2 else _heads(values, names, title)
    return Plot(figure, {"values": values, "positions": tuple(names)}, _words(values, names, title))


def _groups(result: PatchResult, positions: str | Sequence[str] | None) -> list[str]:
    """The names of the groups to show, checked where `result.grid` does not."""
    index = result.index_df
    if not {"layer", "positions"} <= set(index) or "receiver" in index:
        raise InputError(
            f"what={result.what!r} has the columns {list(index)}; expected one value for every layer, or head, and "
            "group of positions. result.table() has every cell."
        )
    if positions is None:
        return list(dict.fromkeys(index["positions"]))
    names = [positions] if isinstance(positions, str) else list(positions)
    if not names:
        raise InputError("No group of positions was given to show; expected at least one, or positions=None for all.")
    return names


def _heads(values: Float[np.ndarray, "group layer head"], names: Sequence[str], title: str) -> Figure:
    n_layers, columns = values.shape[1], 2 if len(names) == 4 else min(len(names), MAX_COLUMNS)
    rows = math.ceil(len(names) / columns)
    figure = new_figure(rows * float(np.clip(0.17 * n_layers + 1.3, 2.4, 7.0)), width=9.0 if columns > 1 else 6.0)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for number, (one, name) in enumerate(zip(axes.flat, names, strict=False)):
        image = _map(one, values[number], _scale(values))
        _name_best(one, image, values[number])
        lowest = number + columns >= len(names)  # with no map below
        one.set(xlabel="head" if lowest else "", ylabel="" if number % columns else "layer")
        one.tick_params(labelbottom=lowest)
        set_title(one, *((name, "") if len(names) > 1 else (f"{title}, patched at {name}", NOTE)))
    for one in axes.flat[len(names) :]:
        one.set_visible(False)
    if len(names) > 1:
        figure.suptitle(f"{title}, by where it was patched", x=0.01, ha="left", fontsize=10, weight="bold")
    figure.colorbar(image, ax=axes, label="recovery", fraction=0.05, pad=0.02)
    return figure


def _layers(values: Float[np.ndarray, "group layer"], names: Sequence[str], title: str) -> Figure:
    n_layers = values.shape[1]
    figure = new_figure(float(np.clip(0.26 * len(names) + 1.5, 2.2, 8.0)))
    axes = figure.add_subplot()
    image = _map(axes, values, _scale(values))
    axes.set(xlabel="layer", ylabel="")
    axes.set_yticks(range(len(names)), names)
    if n_layers <= MAX_NUMBERED:
        for group, layer in np.argwhere(np.isfinite(values)):
            value = float(values[group, layer])
            style: dict[str, Any] = {
                "color": text_colour(image, value),
                "ha": "center",
                "va": "center_baseline",
                "fontsize": 7.5,
            }
            axes.text(layer, group, f"{value + 0.0:.2f}".replace("-0.00", "0.00"), **style)
    set_title(axes, title, NOTE)
    figure.colorbar(image, ax=axes, label="recovery", fraction=0.05, pad=0.02)
    return figure


def _scale(values: np.ndarray) -> Normalize:
    """Symmetric, so that zero is white, and at least up to 1, so that a small recovery has a pale colour."""
    top = max(1.0, float(np.nanmax(np.abs(values))))
    return Normalize(-top, top)


def _map(axes: Axes, values: Float[np.ndarray, "row column"], norm: Normalize) -> ScalarMappable:
    image = axes.imshow(values, cmap=SIGNED, norm=norm, aspect="auto", interpolation="nearest")
    axes.set_facecolor("#e4e4e4")  # where nothing was patched
    axes.set_yticks(range(0, values.shape[0], math.ceil(values.shape[0] / 18)))
    axes.set_xticks(range(0, values.shape[1], math.ceil(values.shape[1] / 16)))
    return image


def _best(values: Float[np.ndarray, "layer head"]) -> list[tuple[int, int]]:
    """The cells with the largest recovery, positive or negative, best first."""
    cells = [(layer, head) for layer, head in np.argwhere(np.isfinite(values)).tolist()]
    ranked = sorted(cells, key=lambda cell: -abs(values[cell]))[:MAX_NAMED]
    return [cell for cell in ranked if abs(values[cell]) >= MIN_RECOVERY]


def _name_best(axes: Axes, image: ScalarMappable, values: Float[np.ndarray, "layer head"]) -> None:
    roomy = values.shape[1] <= 12 and values.shape[0] <= 24
    for rank, (layer, head) in enumerate(_best(values), 1):
        mark(axes, head, layer)
        style: dict[str, Any] = {"color": text_colour(image, float(values[layer, head])), "fontsize": 6.0}
        text = re.sub(r"^(-?)0", r"\1", f"{values[layer, head]:.2f}") if roomy else str(rank)
        axes.text(head, layer, text, ha="center", va="center_baseline", **style)


def _words(values: np.ndarray, names: Sequence[str], title: str) -> str:
    lines = [title]
    for name, one in zip(names, values, strict=True):
        if one.ndim == 1:
            lines.append(f"  {name}, by layer: " + " ".join(f"{value:.2f}" for value in one))
        else:
            best = ", ".join(f"L{layer}H{head} {one[layer, head]:.2f}" for layer, head in _best(one))
            lines.append(f"  {name}: {best or f'no head brings back {MIN_RECOVERY} or more'}")
    return "\n".join(lines)
