"""The zoo's figures as a table and two pictures, from the `figures.json` of its members."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gaze_lens.errors import InputError
from gaze_lens.runs.files import write_whole
from gaze_lens.show.plot import ACCENT, BLUES, FAINT, INK, MASS, Plot, figure_style, new_figure, set_title

CHANCE = 1 / 6
COLUMNS = (
    "member", "parameters", "heads", "k-th panel, exact", "top head", "contrast", "tracking heads",
    "at the answer", "in the best tenth", "steered", "with", "random", "all heads",
)  # fmt: skip
ROW = 3  # maps in a row


def write_report(out: Path, names: Iterable[str]) -> list[Path]:
    """Write table.md, maps.png and steering.png into `out`, on all members that have figures; returns their paths.

    Raises InputError where no member has figures.
    """
    paths = {name: out / name / "figures.json" for name in names}
    members = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    if not members:
        raise InputError(f"There is no measured member in {out}; run python -m training.zoo --out {out} first.")
    files = {
        "table.md": table(members).encode(),
        "maps.png": maps(members).render(),
        "steering.png": steering(members).render(),
    }
    for name, content in files.items():
        write_whole(out / name, content)
    return [out / name for name in files]


def percent(value: float) -> str:
    """99.4 for 0.994."""
    return f"{100 * value:.1f}"


def table(members: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table with a row for every member."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(name, figures)) + " |" for name, figures in members.items()]
    return "\n".join(lines) + "\n"


def cells(name: str, figures: Mapping[str, Any]) -> list[str]:
    """The row of one member in the table."""
    best, heads = str(figures["best"]), figures["looking"]
    steered = figures["steering"][best]["forced choice"]
    return [
        name,
        f"{figures['parameters'] / 1e6:.2f} M",
        str(heads["heads"]),
        percent(figures["answering"]["k-th panel"]["exact"]["value"]),
        heads["best"][0]["head"],
        f"{heads['best'][0]['contrast']:z.2f}",
        str(len(figures["verdict"]["heads"])),
        str(len(figures["verdict at the answer"]["heads"])),
        percent(figures["verdict"]["share"]),
        f"{percent(steered['value'])} [{percent(steered['low'])}, {percent(steered['high'])}]",
        f"{best} heads" if best != "1" else "1 head",
        percent(figures["random"]),
        percent(figures["all"]["forced choice"]["value"]),
    ]


def maps(members: Mapping[str, Mapping[str, Any]]) -> Plot:
    """The contrast of every head of every member, [layer, head], on one colour scale."""
    data = {name: np.array(figures["contrast"]) for name, figures in members.items()}
    rows = -(-len(data) // ROW)
    with figure_style():
        figure = new_figure(0.6 + 2.0 * rows)
        axes = figure.subplots(rows, min(ROW, len(data)), squeeze=False)
        for unused in axes.flat[len(data) :]:
            unused.set_visible(False)
        for one, (name, values) in zip(axes.flat, data.items(), strict=False):
            image = one.imshow(values, cmap=MASS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            one.set(xlabel="head", ylabel="layer")
            one.set_yticks(range(len(values)))
            layer, head = np.unravel_index(values.argmax(), values.shape)
            set_title(one, name, f"best: L{layer}H{head}, contrast {values.max():.2f}")
        figure.colorbar(image, ax=axes, label="contrast, 0-1", fraction=0.03, pad=0.01)
    lines = [f"{name}: largest contrast {values.max():.2f}" for name, values in data.items()]
    return Plot(figure, data, "\n".join(["Contrast of every head", *lines]))


def steering(members: Mapping[str, Mapping[str, Any]]) -> Plot:
    """How often the answer describes the target: steering gaze heads, as many random heads, and all heads."""
    kinds = {
        "gaze heads": ([m["steering"][str(m["best"])]["forced choice"]["value"] for m in members.values()], BLUES[2]),
        "random heads": ([m["random"] for m in members.values()], BLUES[0]),
        "all heads": ([m["all"]["forced choice"]["value"] for m in members.values()], ACCENT),
    }
    with figure_style():
        figure = new_figure(3.4, width=8.0)
        axes = figure.add_subplot()
        positions = np.arange(len(members))
        for shift, (label, (values, colour)) in enumerate(kinds.items()):
            axes.bar(positions + 0.27 * (shift - 1), 100 * np.array(values), 0.25, label=label, color=colour)
        bounds = [m["steering"][str(m["best"])]["forced choice"] for m in members.values()]
        middle = 100 * np.array([b["value"] for b in bounds])
        errors = [middle - [100 * b["low"] for b in bounds], [100 * b["high"] for b in bounds] - middle]
        axes.errorbar(positions - 0.27, middle, yerr=errors, fmt="none", ecolor=INK, capsize=2, linewidth=1)
        axes.axhline(100 * CHANCE, color=FAINT, linestyle="--", linewidth=1)
        axes.set_xticks(positions, list(members))
        axes.set(ylim=(0, 102), ylabel="answers that describe\ntheir target, %")
        axes.legend(loc="upper right", bbox_to_anchor=(1, 1.18), ncols=3, frameon=False)
        set_title(axes, "Steering", "line: 95 % interval; dashed: chance")
    data = {"members": tuple(members)} | {name: np.array(values) for name, (values, _) in kinds.items()}
    lines = [f"{name}: {percent(value)} %" for name, value in zip(members, kinds["gaze heads"][0], strict=True)]
    return Plot(figure, data, "\n".join(["Steering with gaze heads", *lines]))
