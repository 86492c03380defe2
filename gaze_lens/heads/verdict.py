"""Does a model have gaze heads at all? How many heads track the region that is asked about, with a test of it.

    verdict = scores.verdict()
    print(verdict)                      # "2 of 72 heads track ..." or "None found: ..."
    verdict.heads                       # HeadSet, largest contrast first; empty where no head passes the test
    verdict.save("verdict.json")

The null hypothesis is that the attention of a head depends on the question in any way, but not on the *region* that the
question names. A model with random weights does depend on the question: each prompt shifts attention a little, by the
same amount on every strip. So the test relabels the questions, in the same way on all strips, and compares the contrast
of a head with the contrasts of all heads of its layer under all other labellings. (`scores.null` relabels each strip by
itself. It asks whether a head depends on the question at all, and finds such heads in random weights.)
"""

import itertools
import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.heads.head_set import HeadSet
from gaze_lens.heads.rank_correlation import rank_correlation
from gaze_lens.heads.statistics import ROUNDING, contrast
from gaze_lens.runs.files import to_json, write_whole

ORDERS = 5040  # labellings that are tried: all of them for up to seven regions, else so many random ones
HALVES = 20  # random ways to split the strips in two
TENTH = 0.1
NONE_FOUND = "None found"


@dataclass(frozen=True, eq=False)
class Verdict:
    """`scores.verdict()`: the heads whose contrast is larger than relabelled questions explain.

    heads: these heads, largest contrast first. A share of `level` of them is expected to be false discoveries
        (Benjamini and Hochberg 1995). Each has a contrast of at least `least`.
    n_heads, n_strips, n_regions: the size of the scores.
    largest: the largest contrast of any head, -1 to 1.
    share: the part of all positive contrast that the best tenth of the heads has, 0-1; 0.1 if all heads were equal.
    effective: the effective number of heads with positive contrast: the square of its sum divided by the sum of its
        squares.
    stability: Spearman correlation of the heads' contrasts between two halves of the strips, mean of 20 random splits;
        None for a single strip. It is high for random weights, too: it says how reproducible the ranking is, not what
        the ranking means.
    fewest: the smallest number of heads that can pass the test at all, given the number of labellings and of heads.
    p: [layer, head], one-sided.
    """

    heads: HeadSet
    n_heads: int
    n_strips: int
    n_regions: int
    level: float
    least: float
    largest: float
    share: float
    effective: float
    stability: float | None
    fewest: int
    p: Float[Tensor, "layer head"] = field(repr=False)

    @property
    def found(self) -> bool:
        """Whether any head tracks the region asked about."""
        return len(self.heads) > 0

    @property
    def decidable(self) -> bool:
        """Whether the test could find a single head, or one in a hundred; short strips have too few labellings."""
        return self.fewest <= max(1, self.n_heads // 100)

    def __str__(self) -> str:
        if not self.found and not self.decidable:
            return (
                f"Cannot tell: strips of {self.n_regions} regions allow so few labellings of the questions that fewer "
                f"than {self.fewest} of {self.n_heads} heads could not be found, and no more were. Score on strips of "
                f"more regions. The largest contrast is {self.largest:.2g}."
            )
        rate = f"{100 * self.level:g} % false discoveries, contrast {self.least:g} or more"
        if not self.found:
            text = f"{NONE_FOUND}: no head of {self.n_heads} tracks the region asked about ({rate}); {self._spread()}"
            few = f" Fewer than {self.fewest} could not be found." if self.fewest > 1 else ""
            return f"{text}. The largest contrast is {self.largest:.2g}.{few}"
        verb = "heads tracks" if len(self.heads) == 1 else "heads track"
        text = f"{len(self.heads)} of {self.n_heads} {verb} the region asked about ({rate}); {self._spread()}"
        return f"{text}. The largest contrast is {self.largest:.2g}, of {self.heads[0]}."

    def _spread(self) -> str:
        """A sentence on how concentrated the contrast is, and how stable."""
        best = f"the best tenth holds {100 * self.share:.0f} % of the positive contrast, as if {self.effective:.1f}"
        stable = "" if self.stability is None else f"; halves of the strips rank heads with rho {self.stability:.2f}"
        return f"{best} heads shared it{stable}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: its text and all fields but the p-values."""
        names = ("n_heads", "n_strips", "n_regions", "level", "least", "largest", "share", "effective", "stability")
        numbers = {name: getattr(self, name) for name in (*names, "fewest")}
        return {"verdict": str(self), "found": self.found, "heads": [str(head) for head in self.heads], **numbers}

    def save(self, path: str | os.PathLike[str]) -> None:
        """`verdict.save("verdict.json")`: the file is complete or not there at all."""
        write_whole(path, to_json(self.to_dict()).encode())


def labellings(n: int, *, seed: int) -> Int[Tensor, "labelling asked"]:
    """Orders of n questions without the true one: all; for more than seven questions, 5,039 random ones."""
    if math.factorial(n) <= ORDERS:
        return torch.tensor(list(itertools.permutations(range(n))))[1:]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(ORDERS - 1, n, generator=generator).argsort(-1)
    return drawn[(drawn != torch.arange(n)).any(-1)]


def relabelled(
    matrix: Float[Tensor, "layer head asked attended"], orders: Int[Tensor, "labelling asked"]
) -> Float[Tensor, "layer head labelling"]:
    """Every head's contrast under every order of the questions."""
    n = matrix.shape[-1]
    cells = torch.nn.functional.one_hot(orders * n + torch.arange(n), n * n).sum(1).to(matrix)
    diagonal = matrix.flatten(-2) @ cells.T
    return diagonal / n - (matrix.sum((-1, -2))[..., None] - diagonal) / (n * (n - 1))


def tracking(
    values: Float[Tensor, "layer head"], null: Float[Tensor, "layer head labelling"], *, level: float, least: float
) -> tuple[Bool[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Which heads have a larger contrast than the null distribution of their layer explains, and the p-values.

    The test runs in rounds. After each round the heads that passed are removed from the null distribution, and the rest
    is tested again, until no more heads pass. Otherwise a strong head would hide weaker heads of its layer: it has
    large contrasts also under labellings that are right for some of the questions. If no head passes, there is one
    round only.
    """
    passed, p = torch.zeros_like(values, dtype=torch.bool), torch.ones_like(values)
    while True:
        for layer in range(len(values)):
            rest = ~passed[layer]
            p[layer, rest] = _tail(values[layer, rest], null[layer, rest].flatten())
        larger = passed | (discoveries(p, level) & (values >= least))
        if torch.equal(larger, passed):
            return passed, p
        passed = larger


def _tail(values: Float[Tensor, " head"], null: Float[Tensor, " draw"]) -> Float[Tensor, " head"]:
    """(1 + number of draws at least as large) / (1 + number of draws), for each value."""
    smaller = torch.searchsorted(null.sort().values, values.contiguous())
    return (1 + len(null) - smaller) / (1 + len(null))


def discoveries(p: Float[Tensor, "*heads"], level: float) -> Bool[Tensor, "*heads"]:
    """The p-values that are discoveries, of which a share of `level` is false: Benjamini and Hochberg 1995."""
    ordered = p.flatten().sort().values
    passed = ordered <= level * torch.arange(1, len(ordered) + 1) / len(ordered)
    return p <= torch.where(passed, ordered, -1).max()


def concentration(values: Float[Tensor, "*heads"]) -> tuple[float, float]:
    """(share of the best tenth, effective number) of the positive values; (0, 0) without positive values."""
    positive = values.flatten().clamp(min=0).double().sort(descending=True).values
    total = positive.sum()
    if total == 0:
        return 0.0, 0.0
    best = positive[: math.ceil(TENTH * len(positive))].sum()
    return float(best / total), float(total**2 / (positive**2).sum())


def split_half(samples: Float[Tensor, "strip layer head asked attended"], *, seed: int) -> float | None:
    """Mean rank correlation of the heads' contrasts between two random halves of the strips."""
    if len(samples) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    correlations = []
    for _ in range(HALVES):
        order = torch.randperm(len(samples), generator=generator)
        halves = [contrast(samples[half].nanmean(0)).flatten().numpy() for half in order.chunk(2)]
        correlations.append(float(rank_correlation(*halves)))
    return float(np.mean(correlations))


def judge_samples(
    samples: Float[Tensor, "strip layer head asked attended"], *, level: float, least: float, seed: int
) -> tuple[Bool[Tensor, "layer head"], dict[str, Any]]:
    """Which heads track the region asked about, and the other fields of a Verdict."""
    matrix = samples.nanmean(0)
    values, orders = contrast(matrix), labellings(matrix.shape[-1], seed=seed)
    tolerance = ROUNDING * matrix.abs().amax((-1, -2))
    tracks, p = tracking(values - tolerance, relabelled(matrix, orders), level=level, least=least)
    share, effective = concentration(values)
    floor = 1 / (1 + len(orders) * values.shape[1])  # the smallest possible p-value
    return tracks, {
        "p": p, "n_heads": values.numel(), "n_strips": len(samples), "n_regions": matrix.shape[-1],
        "level": level, "least": least, "largest": float(values.max()), "share": share, "effective": effective,
        "stability": split_half(samples, seed=seed), "fewest": max(1, math.ceil(floor * values.numel() / level)),
    }  # fmt: skip
