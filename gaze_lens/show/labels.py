"""Labels that several figures share: of tokens, units and sets of heads."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from gaze_lens.show.plot import shorten
from gaze_lens.tracking import Trajectory

LABELLED = 64  # tokens written along the axis, at most


def unit(trajectory: Trajectory) -> str:
    """What its masses are measured in."""
    return "attention mass x value norm" if trajectory.weighted else "attention mass, 0-1"


def who(trajectory: Trajectory) -> str:
    """The heads, in a title."""
    return f"{len(trajectory.heads)} heads look" if len(trajectory.heads) > 1 else f"{trajectory.heads} looks"


def token_ticks(axes: Axes, tokens: Sequence[str]) -> None:
    """Tokens along the x axis, or where they are many some of them."""
    every = math.ceil(len(tokens) / LABELLED)
    steps = range(0, len(tokens), every)
    axes.set_xticks(steps, [visible(tokens[step]) for step in steps], rotation=90, fontsize=7.5)
    axes.set_xlabel(f"token (one in {every} of {len(tokens)} is written)" if every > 1 else "token")


def visible(token: str) -> str:
    """A token as one can see it: spaces around it dropped, line ends and tabs as signs."""
    signs = {"\n": "↵", "\t": "⇥", "\r": ""}
    text = "".join(signs.get(character, character) for character in token)
    return shorten(text.strip() or "␣", 1.0, size=7.5)
