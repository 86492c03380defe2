"""Whether heads look at the region that the text describes, and when.

    agreement(mass, regions, described)                   # Agreement(looked=0.62, mass=0.91, ...)
    segments(mean, regions, described)                    # a row for each segment of the text: onset, lag, share
    switches(looked_at, regions, described, schedule)     # tokens from a switch to the gaze, and to the words

`described` has a region or None for each token. The methods of `Trajectory` say what the columns are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.deprecation import renamed_names
from gaze_lens.errors import InputError, RegionError

if TYPE_CHECKING:
    from pandas import DataFrame

__getattr__ = renamed_names(__name__, {"stretches": "segments"})


@dataclass(frozen=True, eq=False)
class Agreement:
    """How often, and how much, the heads look at the region that is being described.

    looked: the share of the tokens that describe a region at which this region has the largest mean mass; 1 /
        n_regions by chance. Every such token counts the same, however little the heads look.
    mass: the share, over these tokens, of the attention on regions that is on the described one. Tokens with more
        attention on regions count more. NaN where there is none.
    by_head: as `mass`, for each head.
    n_tokens: how many tokens describe a region. n_regions: how many regions were tracked.
    """

    looked: float
    mass: float
    by_head: Float[Tensor, " head"] = field(repr=False)
    n_tokens: int
    n_regions: int


def agreement(
    mass: Float[Tensor, "step head region"], regions: Sequence[str], described: Sequence[str | None]
) -> Agreement:
    """See `Trajectory.agreement`."""
    steps, indices = _described_steps(len(mass), regions, described)
    mass = mass[steps]
    looked = (mass.mean(1).argmax(-1) == indices).float().mean()
    on_described = mass.gather(-1, indices[:, None, None].expand(-1, mass.shape[1], 1)).squeeze(-1)
    share = on_described.sum() / mass.sum()
    return Agreement(looked.item(), share.item(), on_described.sum(0) / mass.sum((0, 2)), len(steps), len(regions))


def _described_steps(n_steps: int, regions: Sequence[str], described: Sequence[str | None]) -> tuple[Tensor, Tensor]:
    """The steps whose tokens describe a region, and the indices of these regions."""
    if len(described) != n_steps:
        raise InputError(f"{len(described)} entries were given for {n_steps} tokens: give a region or None for each.")
    unknown = sorted({name for name in described if name is not None} - set(regions))
    if unknown:
        raise RegionError(f"The text is said to describe {unknown}: expected some of {list(regions)}, or None.")
    steps = [step for step, name in enumerate(described) if name is not None]
    if not steps:
        raise InputError("No token is said to describe a region, so that there is nothing to compare with.")
    return torch.tensor(steps), torch.tensor([regions.index(described[step]) for step in steps])


def segments(
    mean: Float[Tensor, "step region"], regions: Sequence[str], described: Sequence[str | None]
) -> "DataFrame":
    """See `Trajectory.segments`. Tokens that describe nothing, between two that describe one region, are inside."""
    import pandas

    steps, indices = (column.tolist() for column in _described_steps(len(mean), regions, described))
    rows, before = [], 0
    for region, group in groupby(zip(steps, indices, strict=True), key=lambda pair: pair[1]):
        inside = [step for step, _ in group]
        start, stop = inside[0], inside[-1] + 1
        within = mean[start:stop]
        onset = _onset(mean[before:stop, region], within[:, region].max().item()) + before
        share = (within[:, region].sum() / within.sum()).item()
        rows.append((regions[region], start, stop, onset, onset - start, share))
        before = start
    return pandas.DataFrame(rows, columns=["region", "start", "stop", "onset", "lag", "share"])


def _onset(mass: Float[Tensor, " step"], peak: float) -> float:
    """The first step at which the mass reaches half of the peak; NaN for a peak of 0."""
    return (mass >= peak / 2).float().argmax().item() if peak > 0 else math.nan


def intervals(schedule: Sequence[tuple[int, Any]], regions: Sequence[str], n_steps: int) -> list[tuple[int, int, int]]:
    """For every entry of a schedule: (its step, the step of the next entry, the index of its region).

    Both steps are n_steps at most. Raises RegionError for regions that were not tracked.
    """
    named = [(int(step), getattr(region, "name", region)) for step, region in schedule]
    unknown = [name for _, name in named if name not in regions]
    if unknown:
        raise RegionError(f"The schedule names {unknown}, which were not tracked: expected some of {list(regions)}.")
    following = [*named[1:], (n_steps, "")]
    return [
        (min(step, n_steps), min(end, n_steps), regions.index(name))
        for (step, name), (end, _) in zip(named, following, strict=False)  # nothing for an empty schedule
    ]


def switches(
    looked_at: Sequence[str],
    regions: Sequence[str],
    described: Sequence[str | None],
    schedule: Sequence[tuple[int, Any]],
) -> "DataFrame":
    """See `Trajectory.switches`."""
    import pandas

    _described_steps(len(looked_at), regions, described)
    rows = []
    for (step, _), (start, stop, index) in zip(schedule, intervals(schedule, regions, len(described)), strict=True):
        delays = [_first(names[start:stop], regions[index]) for names in (looked_at, described)]
        rows.append((int(step), regions[index], *delays))
    return pandas.DataFrame(rows, columns=["step", "region", "gaze", "words"])


def _first(names: Sequence[str | None], name: str) -> float:
    """The index of the first entry that is `name`; NaN where there is none."""
    return float(names.index(name)) if name in names else math.nan
