"""Whether heads look at what the text is about, and when.

    agreement(mass, regions, told)                   # Agreement(looked=0.62, mass=0.91, ...)
    stretches(mean, regions, told)                   # a row for each stretch of text: onset, lag, share
    switches(looked_at, regions, told, schedule)     # tokens from a switch to the gaze, and to the words

`told` is a region or None for each token. What the columns mean is said by the methods of `Trajectory`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError, RegionError

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Agreement:
    """How much of the looking is at what is being described.

    looked: the share of the described tokens at which the region looked at most, by the mean over heads, is the one
        described; 1 / regions by chance. Steps at which the heads hardly look count like any other.
    mass: the share of the heads' attention on regions that fell on the described one, over these tokens: steps count
        by how much the heads look. NaN where they never do.
    by_head: the same as `mass` for each head.
    n_tokens: tokens that describe a region. n_regions: that were tracked.
    """

    looked: float
    mass: float
    by_head: Float[Tensor, " head"] = field(repr=False)
    n_tokens: int
    n_regions: int


def agreement(mass: Float[Tensor, "step head region"], regions: Sequence[str], told: Sequence[str | None]) -> Agreement:
    """See `Trajectory.agreement`."""
    steps, wanted = _described(len(mass), regions, told)
    mass = mass[steps]
    looked = (mass.mean(1).argmax(-1) == wanted).float().mean()
    on_it = mass.gather(-1, wanted[:, None, None].expand(-1, mass.shape[1], 1)).squeeze(-1)
    share = on_it.sum() / mass.sum()
    return Agreement(looked.item(), share.item(), on_it.sum(0) / mass.sum((0, 2)), len(steps), len(regions))


def _described(n_steps: int, regions: Sequence[str], told: Sequence[str | None]) -> tuple[Tensor, Tensor]:
    """The steps whose tokens describe a region, and the regions' indices."""
    if len(told) != n_steps:
        raise InputError(f"{len(told)} entries were given for {n_steps} tokens: expected a region or None for each.")
    strangers = sorted({name for name in told if name is not None} - set(regions))
    if strangers:
        raise RegionError(f"The text is said to be about {strangers}: expected some of {list(regions)}, or None.")
    steps = [step for step, name in enumerate(told) if name is not None]
    if not steps:
        raise InputError("No token is said to be about a region, so there is nothing to agree with.")
    return torch.tensor(steps), torch.tensor([regions.index(told[step]) for step in steps])


def stretches(mean: Float[Tensor, "step region"], regions: Sequence[str], told: Sequence[str | None]) -> "DataFrame":
    """See `Trajectory.stretches`. Tokens about nothing between two about one region belong to its stretch."""
    import pandas

    steps, wanted = (found.tolist() for found in _described(len(mean), regions, told))
    rows, before = [], 0
    for region, group in groupby(zip(steps, wanted, strict=True), key=lambda pair: pair[1]):
        inside = [step for step, _ in group]
        start, stop = inside[0], inside[-1] + 1
        within = mean[start:stop]
        onset = _onset(mean[before:stop, region], within[:, region].max().item()) + before
        share = (within[:, region].sum() / within.sum()).item()
        rows.append((regions[region], start, stop, onset, onset - start, share))
        before = start
    return pandas.DataFrame(rows, columns=["region", "start", "stop", "onset", "lag", "share"])


def _onset(mass: Float[Tensor, " step"], most: float) -> float:
    """The first step that reaches half of the most; NaN where there is none at all."""
    return (mass >= most / 2).float().argmax().item() if most > 0 else math.nan


def turns(schedule: Sequence[tuple[int, Any]], regions: Sequence[str], n_steps: int) -> list[tuple[int, int, int]]:
    """(step, first step of the next, index of the region) of every entry of a schedule; both n_steps at most.

    Raises RegionError for regions that were not tracked.
    """
    named = [(int(step), getattr(region, "name", region)) for step, region in schedule]
    strangers = [name for _, name in named if name not in regions]
    if strangers:
        raise RegionError(f"The schedule names {strangers}, which were not tracked: expected some of {list(regions)}.")
    behind = [*named[1:], (n_steps, "")]
    return [
        (min(step, n_steps), min(end, n_steps), regions.index(name))
        for (step, name), (end, _) in zip(named, behind, strict=False)  # of an empty schedule, nothing
    ]


def switches(
    looked_at: Sequence[str], regions: Sequence[str], told: Sequence[str | None], schedule: Sequence[tuple[int, Any]]
) -> "DataFrame":
    """See `Trajectory.switches`."""
    import pandas

    _described(len(looked_at), regions, told)
    rows = []
    for (step, _), (start, stop, index) in zip(schedule, turns(schedule, regions, len(told)), strict=True):
        after = [_until(kind[start:stop], regions[index]) for kind in (looked_at, told)]
        rows.append((int(step), regions[index], *after))
    return pandas.DataFrame(rows, columns=["step", "region", "gaze", "words"])


def _until(names: Sequence[str | None], name: str) -> float:
    """How many stand before the name; NaN where it is not among them."""
    return float(names.index(name)) if name in names else math.nan
