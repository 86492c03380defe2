"""Small HTML tables: what a result shows at the end of a notebook's cell."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

ROWS = 20  # shown of a longer table
CELL = "text-align: left; padding: 2px 8px;"


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, tint: bool = False) -> str:
    """`html_table("2 heads", ["head", "score"], [["L1H6", 0.91]])`: all that is text is escaped.

    rows: their first `ROWS`, and how many more there are. tint: numbers from 0 to 1 get a background as strong.
    """
    every = list(rows)
    head = "".join(f'<th style="{CELL}">{escape(str(column))}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(_cell(value, tint) for value in row)}</tr>" for row in every[:ROWS])
    more = f"<p>... and {len(every) - ROWS} more</p>" if len(every) > ROWS else ""
    return f"<p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any, tint: bool) -> str:
    is_number = isinstance(value, float)
    text = f"{value:.3f}" if is_number else str(value)
    share = min(max(value, 0.0), 1.0) if tint and is_number and not math.isnan(value) else 0.0
    background = f" background: rgba(224, 130, 60, {share:.2f});" if share else ""
    return f'<td style="{CELL}{background}">{escape(text)}</td>'
