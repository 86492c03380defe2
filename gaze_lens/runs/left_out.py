"""What a run has left out, with the reason, for the terminal and for reports.

>>> print(*reason_lines({"a": "no image", "b": "no image", "c": "too long"}), sep="\\n")
Left out: no image (2): a, b
Left out: too long (1): c
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

NAMES = 10  # of pictures in a line
LINES = 20


def reasons_by_name(left_out: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name -> reason, from reason -> names."""
    return {name: reason for reason, names in left_out.items() for name in names}


def reason_lines(left_out: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the number of pictures and the first names; at most `LINES` lines.

    left_out: name -> reason. The last line counts what the others do not name.
    """
    names = defaultdict(list)
    for name, reason in left_out.items():
        names[reason].append(name)
    lines = []
    for reason, listed in list(names.items())[:LINES]:
        more = f", and {len(listed) - NAMES} more" if len(listed) > NAMES else ""
        lines.append(f"Left out: {reason} ({len(listed)}): {', '.join(listed[:NAMES])}{more}")
    rest = sum(map(len, list(names.values())[LINES:]))
    return lines + [f"Left out: {rest} more, for other reasons"] * bool(rest)
