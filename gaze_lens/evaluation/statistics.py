"""Figures of an evaluation with their uncertainty: means, paired differences and rank correlations.

    mean(correct, strips)                             # Estimate: 0.83 [0.79, 0.87], n 600 of 100 strips
    difference(gaze, random, strips)                  # Difference: + 0.66 [0.61, 0.71], p = 0.0001
    spearman(scheduled, described, strips)            # Estimate of rho

`strips` says for every value which strip it comes from (any labels): values of one strip hang together, so strips are
resampled, and strips have their signs flipped, not single values. A strip may have more values than another.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from transformer_lens.utilities.statistics import derive_generator, sign_flip_permutation_pvalue

from gaze_lens.errors import InputError
from gaze_lens.heads.rank_correlation import rank_correlation

Labels = Sequence[Hashable]
Values = Sequence[float | None] | np.ndarray  # None is refused, as NaN is
CELLS = 2**19  # numbers of scratch memory for one step of a bootstrap; small ones stay near the processor


@dataclass(frozen=True)
class Estimate:
    """A figure with a percentile bootstrap interval over strips. n: values; n_strips: independent ones."""

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
    """A mean difference between pairs. p: two-sided, from flipping the sign of whole strips."""

    p: float

    def __str__(self) -> str:
        return f"{self.value:+.3g} [{self.low:.3g}, {self.high:.3g}], p = {self.p:.2g}, n {self.n} of {self.n_strips}"


def mean(values: Values, strips: Labels, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """The mean of the values (booleans count as 0 and 1).

    Raises InputError for no values, another number of labels, values that are not finite, and a level outside 0-1.
    """
    (found,), owner = _checked([values], strips, level, resamples)
    sums, counts = np.bincount(owner, found), np.bincount(owner).astype(float)
    blocks = draws(len(sums), resamples=resamples, seed=seed)
    low, high = _ends([sums[drawn].sum(1) / counts[drawn].sum(1) for drawn in blocks], level)
    return Estimate(float(found.mean()), low, high, len(found), len(sums))


def difference(
    first: Values, second: Values, strips: Labels, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Difference:
    """How much larger the first is than the second, value by value (the same strip and target in two conditions).

    The p-value is for no difference: were the conditions alike, every strip's difference could have had either sign.
    With up to 12 strips all signs are tried, else `resamples` random ones. Errors as for `mean`.
    """
    (one, other), owner = _checked([first, second], strips, level, resamples)
    found = mean(one - other, strips, level=level, resamples=resamples, seed=seed)
    sums = torch.from_numpy(np.bincount(owner, one - other))
    generator = derive_generator(seed, "difference")
    p = sign_flip_permutation_pvalue(sums, n_permutations=resamples, generator=generator)
    return Difference(**found.to_dict(), p=float(p))


def spearman(
    first: Values, second: Values, strips: Labels, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Estimate:
    """Spearman's rho over all pairs, as of a schedule's panels and the panels described; 0 where either is constant.

    Errors as for `mean`.
    """
    (one, other), owner = _checked([first, second], strips, level, resamples)
    n_strips = int(owner.max()) + 1
    pairs, which = np.unique(np.stack([one, other]), axis=1, return_inverse=True)
    which = which.reshape(-1)
    found = []
    for drawn in draws(n_strips, resamples=resamples, seed=seed, width=pairs.shape[1]):
        # Points alike are one point of a larger weight: places have few pairs, however many strips there are.
        times = (np.bincount(chosen, minlength=n_strips)[owner] for chosen in drawn)
        weights = np.stack([np.bincount(which, each, minlength=pairs.shape[1]) for each in times])
        found.append(rank_correlation(*pairs, weights))
    low, high = _ends(found, level)
    return Estimate(float(rank_correlation(one, other)), low, high, len(one), n_strips)


def draws(n_strips: int, *, resamples: int, seed: int, width: int = 1) -> Iterator[Int[np.ndarray, "resample strip"]]:
    """Which strips every resample is made of: as many as there are, with replacement; block by block.

    width: numbers that a caller holds for a resample, where they are more than strips. All blocks together are the
    same whatever their size, and none is larger than `CELLS` numbers (or one resample).
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
    """The columns as numbers, and for every value the index of its strip."""
    found = [np.asarray(column, dtype=float) for column in columns]
    lengths = [len(column) for column in found]
    if not len(strips) or set(lengths) != {len(strips)}:
        raise InputError(
            f"{' and '.join(map(str, lengths))} values were given with {len(strips)} strips; give at least one value, "
            "and a strip for each."
        )
    if not all(np.isfinite(column).all() for column in found):
        raise InputError("Some values are not numbers (NaN or infinite); leave out what was not judged.")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"level={level}, resamples={resamples}: give a level between 0 and 1, such as 0.95.")
    index = {label: row for row, label in enumerate(dict.fromkeys(strips))}
    return found, np.array([index[label] for label in strips])
