"""All rows of the paper's table of experiments, by number and by name.

>>> [row.number for row in rows_named(["fig3a", "tab5"])]
[8, 10]
"""

from collections.abc import Sequence
from itertools import chain

from gaze_lens.errors import InputError
from gaze_lens.paper import head_rows, layer_rows, model_rows, narration_rows, photo_rows, steering_rows
from gaze_lens.paper.row import Row

GROUPS = (head_rows, layer_rows, model_rows, narration_rows, photo_rows, steering_rows)
ROWS: tuple[Row, ...] = tuple(sorted(chain(*(module.ROWS for module in GROUPS)), key=lambda row: row.number))


def rows_named(names: Sequence[str] = ("all",)) -> list[Row]:
    """The rows of these names, numbers, or other figures' names, in the table's order; "all" is every row.

    Raises InputError for a name that no row has.
    """
    if isinstance(names, str):
        raise InputError(f"rows={names!r} was given; give a list of names, such as ['fig3a', 'tab5'].")
    known = {name: row for row in ROWS for name in (row.name, str(row.number), *row.also)}
    unknown = [name for name in names if name not in known and name != "all"]
    if unknown or not names:
        listed = ", ".join(row.name for row in ROWS)
        raise InputError(f"Rows {', '.join(unknown) or '(none)'} were asked for: expected all, or some of {listed}.")
    wanted = set(ROWS_BY_NAME) if "all" in names else {known[name].name for name in names}
    return [row for row in ROWS if row.name in wanted]


ROWS_BY_NAME = {row.name: row for row in ROWS}
