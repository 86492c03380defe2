"""Lines with bands, and bars by condition: what several experiments found, on one scale.

gl.show.curves({"gaze": table, "random": other}, x="heads", y="accuracy", log=True)
gl.show.bars({"question": results.table(), "narration": others.table()}, by="condition", y="accuracy")
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from gaze_lens.errors import InputError
from gaze_lens.show.head_charts import COLOURS
from gaze_lens.show.plot import FAINT, INK, Plot, figure_style, new_figure, set_title


def curves(
    tables: Mapping[str, Any], *, x: str, y: str = "accuracy", log: bool = False, chance: float | None = None,
    title: str = "", xlabel: str | None = None, ylabel: str | None = None, percent: bool = True,
) -> Plot:  # fmt: skip
    """`gl.show.curves({"gaze": table, "random": other}, x="heads")`: a line for each table, and its interval as a band.

    tables: by name, each with columns x and y, and `low` and `high` where there are intervals (others have no band).
    Rows without a number are left out. log: a logarithmic x axis. chance: a dashed line. percent: y is 0-1 and is shown
    as 0-100.
    data: for each name "NAME x", "NAME y", "NAME low", "NAME high", in the units of the tables; "names"; "chance".
    Raises InputError for no tables, and for a table without rows or without these columns.
    """
    data: dict[str, Any] = {"names": tuple(tables), "chance": np.nan if chance is None else chance}
    scale = 100 if percent else 1
    with figure_style():
        figure = new_figure(3.4, width=7.0)
        axes = figure.add_subplot()
        for index, (name, table) in enumerate(_checked(tables, (x, y)).items()):
            rows = table.sort_values(x)
            numbers = {column: rows[column].to_numpy(float) for column in (y, "low", "high") if column in rows}
            places, colour = rows[x].to_numpy(float), COLOURS[index % len(COLOURS)]
            if {"low", "high"} <= set(numbers):
                band = (scale * numbers["low"], scale * numbers["high"])
                axes.fill_between(places, *band, color=colour, alpha=0.18, linewidth=0)
            axes.plot(places, scale * numbers[y], "o-", color=colour, markersize=3.5, linewidth=1.6, label=name)
            data |= {f"{name} x": places} | {f"{name} {'y' if key == y else key}": n for key, n in numbers.items()}
        if chance is not None:
            axes.axhline(scale * chance, color=FAINT, linestyle="--", linewidth=1, zorder=0)
        _x_axis(axes, np.unique(np.concatenate([data[f"{name} x"] for name in tables])), log=log)
        axes.set(xlabel=xlabel or x, ylabel=ylabel or y + ", %" * percent)
        if percent:
            axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        has_band = any(f"{name} low" in data for name in tables)
        notes = ["bands: 95 % intervals"] * has_band + ["dashed: chance"] * (chance is not None)
        set_title(axes, title or f"{y.capitalize()} by {x}", "; ".join(notes))
    lines = []
    for name in tables:
        pairs = zip(data[f"{name} x"], data[f"{name} y"], strict=True)
        lines.append(f"{name}: " + ", ".join(f"{place:g}: {value:.3g}" for place, value in pairs))
    return Plot(figure, data, "\n".join([title or f"{y.capitalize()} by {x}", *lines]))


def _x_axis(axes: Axes, places: np.ndarray, *, log: bool) -> None:
    """Ticks at the points that were measured, where there are few."""
    if log:
        axes.set_xscale("log")
    if len(places) <= 20:
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()


def bars(
    tables: Mapping[str, Any], *, by: str = "condition", y: str = "accuracy", chance: float | None = None,
    title: str = "", ylabel: str | None = None, percent: bool = True,
) -> Plot:  # fmt: skip
    """`gl.show.bars({"question": one.table(), "narration": other.table()})`: a group of bars for each table.

    tables: by name, each with columns `by` (what a bar is of) and y, and `low` and `high` where there are intervals.
    A bar that a table does not have, or that has no number, is left out. chance: a dashed line. percent: y is 0-1 and
    is shown as 0-100.
    data: "groups", the names of the tables; "names", of the bars; "y", "low", "high" [group, bar], NaN where missing.
    Raises InputError as `curves`, and for a table with two rows of one name.
    """
    checked = _checked(tables, (by, y))
    names = tuple(dict.fromkeys(name for table in checked.values() for name in table[by]))
    values = {key: np.full((len(tables), len(names)), np.nan) for key in ("y", "low", "high")}
    for group, (label, table) in enumerate(checked.items()):
        if table[by].duplicated().any():
            raise InputError(f"The table {label!r} has two rows of one {by}; give one for each bar.")
        for row in table.to_dict("records"):
            for key, column in (("y", y), ("low", "low"), ("high", "high")):
                values[key][group, names.index(row[by])] = row.get(column, np.nan)
    scale = 100 if percent else 1
    with figure_style():
        figure = new_figure(3.4, width=max(5.0, min(9.0, 1.6 + 0.42 * values["y"].size)))
        axes = figure.add_subplot()
        _draw_bars(axes, {key: scale * one for key, one in values.items()}, names, percent=percent)
        if chance is not None:
            axes.axhline(scale * chance, color=FAINT, linestyle="--", linewidth=1, zorder=0)
        axes.set_xticks(range(len(tables)), tuple(checked))
        axes.set(ylabel=ylabel or y + ", %" * percent)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=min(len(names), 6), loc="upper center", bbox_to_anchor=(0.5, -0.1))
        has_lines = bool(np.isfinite(values["low"]).any())
        notes = ["lines: 95 % intervals"] * has_lines + ["dashed: chance"] * (chance is not None)
        set_title(axes, title or f"{y.capitalize()} by {by}", "; ".join(notes))
    lines = [f"{label}: " + ", ".join(f"{name} {value:.3g}" for name, value in zip(names, row, strict=True))
             for label, row in zip(checked, values["y"], strict=True)]  # fmt: skip
    data = {"groups": tuple(checked), "names": names, **values}
    return Plot(figure, data, "\n".join([title or f"{y.capitalize()} by {by}", *lines]))


def _draw_bars(axes: Axes, values: Mapping[str, np.ndarray], names: tuple[str, ...], *, percent: bool) -> None:
    """The groups of bars, with their values above them."""
    width = 0.84 / len(names)
    for index, name in enumerate(names):
        heights, low, high = (values[key][:, index] for key in ("y", "low", "high"))
        places = np.arange(len(heights)) - 0.42 + width * (index + 0.5)
        axes.bar(places, heights, width * 0.94, color=COLOURS[index % len(COLOURS)], label=name)
        known = np.isfinite(low) & np.isfinite(high)
        axes.vlines(places[known], low[known], high[known], color=INK, linewidth=1)
        for x, height, top in zip(places, heights, np.where(known, high, heights), strict=True):
            if np.isfinite(height):
                text = f"{height:.0f}" if percent else f"{height:.2g}"
                axes.annotate(
                    text, (x, max(top, 0.0)), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7
                )


def _checked(tables: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, pd.DataFrame]:
    """The tables without the rows that have no number. Raises InputError where nothing is left."""
    if not tables:
        raise InputError("No tables were given; give one by name, such as {'gaze': results.table()}.")
    checked = {}
    for name, table in tables.items():
        missing = [column for column in columns if column not in table]
        rows = table if missing else table.dropna(subset=list(columns))
        if missing or rows.empty:
            raise InputError(f"The table {name!r} has no {', '.join(missing) or 'row with numbers'}.")
        checked[str(name)] = rows
    return checked
