"""The shares that a row found, as a bar chart: figures named "CONDITION, WHAT" are a bar each in the group WHAT.

context.save("fig9", "bars", bars_of(figures, title="Lists of objects"))
"""

from collections.abc import Sequence

import pandas as pd

from gaze_lens import show
from gaze_lens.paper.row import Figure
from gaze_lens.show.plot import Plot


def bars_of(figures: Sequence[Figure], *, title: str, group: str = "") -> Plot:
    """The bar chart of the figures that have a number. group: of figures without a WHAT in their name."""
    rows = []
    for figure in figures:
        if isinstance(figure.value, float | int):
            condition, _, what = figure.name.partition(", ")
            values = (figure.value, figure.low, figure.high)
            shares = (float("nan") if value is None else value / 100 for value in values)
            rows.append((what or group, condition, *shares))
    table = pd.DataFrame(rows, columns=["group", "condition", "accuracy", "low", "high"])
    tables = {str(name): some for name, some in table.groupby("group", sort=False)}
    return show.bars(tables, title=title, ylabel="%")
