"""Intervals, effect sizes and permutation tests over seeds, and when something forms along a run.

comparison([0.9, 0.8, 0.9, 0.95], [0.1, 0.0, 0.2, 0.1], alternative="greater")
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Alternative = Literal["two-sided", "greater"]


@dataclass(frozen=True)
class Comparison:
    """Two treatments: difference of means, Hedges' g, and the p-value of an exact permutation test over seeds.

    g: None where no seed differs from another of its treatment.
    p: None where a treatment has a single seed.
    smallest_p: the p-value that the most extreme labelling would have.
    """

    difference: float
    g: float | None
    p: float | None
    smallest_p: float


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean over seeds; None for a single seed."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if not error:
        return mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def hedges_g(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Difference of means in units of the pooled standard deviation, corrected for few seeds."""
    freedom = len(first) + len(second) - 2
    squares = sum((len(group) - 1) * float(np.var(group, ddof=1)) for group in (first, second) if len(group) > 1)
    if freedom < 1 or not squares:
        return None
    d = (float(np.mean(first)) - float(np.mean(second))) / math.sqrt(squares / freedom)
    return d * (1 - 3 / (4 * freedom - 1))


def comparison(first: Sequence[float], second: Sequence[float], *, alternative: Alternative) -> Comparison:
    """Compare the seeds of two treatments. alternative: "greater" if the hypothesis is that `first` is larger."""

    def difference(x: np.ndarray, y: np.ndarray, axis: int = 0) -> np.ndarray | np.floating:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    groups, p = (np.array(first), np.array(second)), None
    if min(len(group) for group in groups) > 1:
        test = stats.permutation_test(groups, difference, alternative=alternative, n_resamples=np.inf, vectorized=True)
        p = float(test.pvalue)
    labellings = math.comb(len(first) + len(second), len(first))
    two_sided = alternative == "two-sided" and labellings > 1
    smallest = min(1.0, (1 + two_sided) / labellings)
    return Comparison(float(difference(*groups)), hedges_g(first, second), p, smallest)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction, in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def formed_at(steps: Sequence[int], values: Sequence[float], *, floor: float = 0.0) -> int | None:
    """The first step from which on the value stays above half of its last one; None where the last is not above floor.

    floor: the value that chance gives; half is counted from there.
    """
    if not values or values[-1] <= floor:
        return None
    half = floor + (values[-1] - floor) / 2
    below = [i for i, value in enumerate(values) if value <= half]
    return steps[below[-1] + 1 if below else 0]
