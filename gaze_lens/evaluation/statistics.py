"""Means, paired differences and rank correlations, with intervals.

    mean(correct, strips)                             # Estimate: 0.83 [0.79, 0.87], n 600 of 100 strips
    difference(gaze, random, strips)                  # Difference: + 0.66 [0.61, 0.71], p = 0.0001
    spearman(scheduled, described, strips)            # Estimate of rho

`strips` has the strip of each value, as any label. Values of one strip are not independent, so strips are resampled,
and the signs of strips are flipped, not those of single values. Strips may have different numbers of values.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from transformer_lens.utilities.statistics import derive_generator, sign_flip_permutation_pvalue

from gaze_lens.errors import InputError
from gaze_lens.heads.rank_correlation import rank_correlation
from gaze_lens.whole_numbers import is_count

Labels = Sequence[Hashable]
Values = Sequence[float | None] | np.ndarray  # None is refused, as NaN is
CELLS = 2**19  # numbers in memory for one step of a bootstrap; small blocks stay in the processor's cache


@dataclass(frozen=True)
class Estimate:
    """A figure with a percentile bootstrap interval over strips. n: number of values; n_strips: of strips."""

    value: float
    low: float
    high: float
    n: int
    n_strips: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], n {self.n} of {self.n_strips} strips"

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean difference between pairs. p: two-sided, from flipping the signs of strips."""

    p: float

    def __str__(self) -> str:
        return f"{self.value:+.3g} [{self.low:.3g}, {self.high:.3g}], p = {self.p:.2g}, n {self.n} of {self.n_strips}"


def mean(values: Values, strips: Labels, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """The mean of the values (booleans count as 0 and 1).

    Raises InputError for no values, another number of labels, values that are not finite, and a level outside 0-1.
    """
    (column,), owner = _checked([values], strips, level, resamples)
    sums, counts = np.bincount(owner, column), np.bincount(owner).astype(float)
    blocks = draws(len(sums), resamples=resamples, seed=seed)
    low, high = _ends([sums[block].sum(1) / counts[block].sum(1) for block in blocks], level)
    return Estimate(float(column.mean()), low, high, len(column), len(sums))


def difference(
    first: Values, second: Values, strips: Labels, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """The mean of first - second, value by value (the same strip and target in two conditions).

    The p-value is that of the hypothesis that the conditions are equal: then each strip's difference could have either
    sign. With up to 12 strips all signs are tried, else `resamples` random ones. Errors as for `mean`.
    """
    (one, other), owner = _checked([first, second], strips, level, resamples)
    estimate = mean(one - other, strips, level=level, resamples=resamples, seed=seed)
    sums = torch.from_numpy(np.bincount(owner, one - other))
    generator = derive_generator(seed, "difference")
    p = sign_flip_permutation_pvalue(sums, n_permutations=resamples, generator=generator)
    return Difference(**vars(estimate), p=float(p))


def spearman(
    first: Values, second: Values, strips: Labels, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Spearman's rho over all pairs, such as scheduled and described panels; 0 if one of them is constant.

    Errors as for `mean`.
    """
    (one, other), owner = _checked([first, second], strips, level, resamples)
    n_strips = int(owner.max()) + 1
    pairs, which = np.unique(np.stack([one, other]), axis=1, return_inverse=True)
    which = which.reshape(-1)
    blocks = []
    for block in draws(n_strips, resamples=resamples, seed=seed, width=pairs.shape[1]):
        # Equal pairs are one pair with a larger weight: panels have few different pairs, however many strips there are.
        times = (np.bincount(resample, minlength=n_strips)[owner] for resample in block)
        weights = np.stack([np.bincount(which, each, minlength=pairs.shape[1]) for each in times])
        blocks.append(rank_correlation(pairs[0], pairs[1], weights))
    low, high = _ends(blocks, level)
    return Estimate(float(rank_correlation(one, other)), low, high, len(one), n_strips)


def draws(n_strips: int, *, resamples: int, seed: int, width: int = 1) -> Iterator[Int[np.ndarray, "resample strip"]]:
    """The strips of each resample: as many as there are strips, drawn with replacement. Yields blocks of resamples.

    width: how many numbers the caller needs per resample, if more than strips. A block has at most `CELLS` numbers (or
    one resample). The size of the blocks does not change the draws.
    """
    generator, size = np.random.default_rng(seed), max(1, CELLS // max(n_strips, width))
    for start in range(0, resamples, size):
        yield generator.integers(n_strips, size=(min(size, resamples - start), n_strips))


def _ends(blocks: Sequence[Float[np.ndarray, " _"]], level: float) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(blocks), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(
    columns: Sequence[Values], strips: Labels, level: float, resamples: int
) -> tuple[list[np.ndarray], Int[np.ndarray, " value"]]:
    """The columns as numbers, and for each value the index of its strip."""
    arrays = [np.asarray(column, dtype=float) for column in columns]
    lengths = [len(array) for array in arrays]
    if not len(strips) or set(lengths) != {len(strips)}:
        raise InputError(
            f"{' and '.join(map(str, lengths))} values were given with {len(strips)} strips; give at least one value, "
            "and a strip for each."
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError("Some values are not numbers (NaN or infinite); leave out what was not judged.")
    if not 0 < level < 1 or not is_count(resamples):
        raise InputError(f"level={level}, resamples={resamples}: give a level between 0 and 1, such as 0.95.")
    index = {label: row for row, label in enumerate(dict.fromkeys(strips))}
    return arrays, np.array([index[label] for label in strips])
