"""Accuracies of an evaluation: by condition, along a curve, and by target.

results = gl.evaluate(model, strips, conditions)
gl.show.accuracies(results); gl.show.accuracy_curve(results, "heads"); gl.show.accuracies_by_target(results)
"""

from typing import Any

import numpy as np

from gaze_lens.errors import InputError
from gaze_lens.show.plot import ACCENT, BLUES, FAINT, MASS, Plot, figure_style, new_figure, set_title

UNITS = {"heads": "number of heads steered", "strength": "bias, in logits", "mass": "mass set, share of attention"}


def accuracies(results: Any) -> Plot:
    """`gl.show.accuracies(results)`: the share of answers that describe their target, by condition.

    Lines are 95 % intervals over pictures; small dots are the draws of random controls, where there are several.
    data: "conditions"; "accuracy", "low", "high" (0-1); "chance". Raises InputError where nothing was judged.
    """
    table = results.table()
    table = table[(table.n > 0) & (table.curve == "")]
    if table.empty:
        raise InputError("No answer of these results was judged; judge them with gl.rejudge.")
    with figure_style():
        figure = new_figure(1.1 + 0.34 * len(table))
        axes = figure.add_subplot()
        rows = np.arange(len(table))
        axes.barh(rows, 100 * table.accuracy, color=BLUES[1], height=0.62)
        errors = 100 * np.stack([table.accuracy - table.low, table.high - table.accuracy])
        axes.errorbar(100 * table.accuracy, rows, xerr=errors, fmt="none", ecolor=BLUES[3], capsize=3, linewidth=1.2)
        for row, name in enumerate(table.condition):
            values = results.answers[results.answers.condition == name].groupby("draw").correct.mean()
            if len(values) > 1:
                axes.plot(100 * values, np.full(len(values), row), ".", color=ACCENT, markersize=4)
        axes.axvline(100 * results.chance, color=FAINT, linestyle="--", linewidth=1)
        axes.text(100 * results.chance, -0.62, " chance", color=FAINT, fontsize=8, va="center")
        labels = [f"{row.condition} ({row.heads})" if row.heads else row.condition for row in table.itertuples()]
        axes.set_yticks(rows, labels)
        axes.set(xlim=(0, 100), ylim=(len(table) - 0.4, -0.9), xlabel="answers that describe their target, %")
        set_title(axes, "Accuracy by condition (number of heads)", "lines: 95 % intervals; dots: draws of random heads")
    data = {name: table[name].to_numpy(float) for name in ("accuracy", "low", "high")}
    lines = [f"{c}: {100 * a:.1f} %" for c, a in zip(table.condition, table.accuracy, strict=True)]
    return Plot(
        figure, {"conditions": tuple(table.condition), "chance": results.chance, **data},
        "\n".join(["Accuracy by condition", *lines]),
    )  # fmt: skip


def accuracy_curve(results: Any, along: str = "heads") -> Plot:
    """`gl.show.accuracy_curve(results, "heads")`, "strength" or "mass": accuracy along the points of such a curve.

    data: "x"; "accuracy", "low", "high" (0-1). Raises InputError where the results have no such curve.
    """
    table = results.table()
    table = table[(table.n > 0) & (table.curve == along)].sort_values(along)
    if along not in UNITS or table.empty:
        raise InputError(
            f"These results have no curve along {along!r}; add gl.evaluation.head_counts, strengths or masses."
        )
    with figure_style():
        figure = new_figure(3.2, width=6.5)
        axes = figure.add_subplot()
        axes.fill_between(table[along], 100 * table.low, 100 * table.high, color=BLUES[0], linewidth=0)
        axes.plot(table[along], 100 * table.accuracy, "o-", color=BLUES[2], markersize=4)
        axes.axhline(100 * results.chance, color=FAINT, linestyle="--", linewidth=1)
        axes.set_xscale("linear" if along == "mass" else "log")
        axes.set_xticks(table[along], [f"{value:g}" for value in table[along]])
        axes.minorticks_off()
        axes.set(ylim=(0, 102), xlabel=UNITS[along], ylabel="answers that describe\ntheir target, %")
        set_title(axes, f"Accuracy by {UNITS[along]}", "band: 95 % interval; dashed: chance")
    data = {"x": table[along].to_numpy(float)} | {c: table[c].to_numpy(float) for c in ("accuracy", "low", "high")}
    lines = [f"{x:g}: {100 * a:.1f} %" for x, a in zip(data["x"], data["accuracy"], strict=True)]
    return Plot(figure, data, "\n".join([f"Accuracy by {UNITS[along]}", *lines]))


def accuracies_by_target(results: Any) -> Plot:
    """`gl.show.accuracies_by_target(results)`: accuracy for every condition and target.

    data: "conditions", "targets"; "accuracy" `[condition, target]`, 0-1, NaN where nothing was judged.
    """
    table = results.by_target()
    names, targets = (tuple(dict.fromkeys(table[column])) for column in ("condition", "target"))
    values = table.accuracy.to_numpy(float).reshape(len(names), len(targets))
    with figure_style():
        figure = new_figure(1.2 + 0.3 * len(names))
        axes = figure.add_subplot()
        image = axes.imshow(100 * values, cmap=MASS, vmin=0, vmax=100, aspect="auto")
        if len(targets) <= 12:
            for row, column in np.ndindex(values.shape):
                value = values[row, column]
                colour = "white" if value > 0.6 else "black"
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(targets)), targets, rotation=0 if len(targets) <= 8 else 90)
        axes.set_yticks(range(len(names)), names)
        figure.colorbar(image, ax=axes, label="accuracy, %", fraction=0.03)
        set_title(axes, "Accuracy by condition and target", "share of answers that describe the target, %")
    return Plot(
        figure,
        {"conditions": names, "targets": targets, "accuracy": values},
        f"Accuracy by condition and target\n{table}",
    )
