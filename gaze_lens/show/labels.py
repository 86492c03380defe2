"""Labels that several figures share: of tokens, units and sets of heads."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from gaze_lens.show.plot import shorten
from gaze_lens.tracking import Trajectory

LABELLED = 64  # tokens written along the axis, at most


def unit(trajectory: Trajectory) -> str:
    """The unit of its masses."""
    return "attention mass x value norm" if trajectory.weighted else "attention mass, 0-1"


def heads_look(trajectory: Trajectory) -> str:
    """The beginning of a title: "4 heads look", or "L3H5 looks"."""
    return f"{len(trajectory.heads)} heads look" if len(trajectory.heads) > 1 else f"{trajectory.heads} looks"


def token_ticks(axes: Axes, tokens: Sequence[str]) -> None:
    """Tokens along the x axis; only every n-th where they are many."""
    stride = math.ceil(len(tokens) / LABELLED)
    steps = range(0, len(tokens), stride)
    axes.set_xticks(steps, [visible(tokens[step]) for step in steps], rotation=90, fontsize=7.5)
    axes.set_xlabel(f"token (one in {stride} of {len(tokens)} is written)" if stride > 1 else "token")


def visible(token: str) -> str:
    """A token as a label: without the spaces around it, line ends and tabs as signs."""
    signs = {"\n": "↵", "\t": "⇥", "\r": ""}
    text = "".join(signs.get(character, character) for character in token)
    return shorten(text.strip() or "␣", 1.0, size=7.5)
