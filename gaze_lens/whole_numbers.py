"""Numbers of things that users give: how many tokens, heads, rows.

>>> is_count(3), is_count(0, least=0), is_count(2.5), is_count(True), is_count("3")
(True, True, False, False, False)
"""

import operator
from typing import Any


def is_count(value: Any, *, least: int = 1) -> bool:
    """Whether a value is a whole number of at least `least`: an int, or NumPy's or torch's; true and false are none."""
    if isinstance(value, bool):
        return False
    try:
        return operator.index(value) >= least
    except TypeError:
        return False
