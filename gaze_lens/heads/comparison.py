"""Are the heads of two models the same? Overlap of the best k, what chance gives, and the correlation of all ranks.

    print(gl.compare_heads(scores_of_text, scores_of_pictures, by="contrast"))
    gl.compare_heads(scores_of_text.top(20), scores_of_pictures.top(20)).table()
    print(gl.compare_rankings(scores, ["score", "image", "localization"]))      # of one model

Between audio models and the language models inside them, 66 to 74 of 100 heads were found to be the same, where chance
gives 20 (arXiv 2609.14174).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, prod
from typing import TYPE_CHECKING

from gaze_lens.errors import HeadError, InputError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import Head, HeadSet, size_in
from gaze_lens.heads.rank_correlation import rank_correlation

if TYPE_CHECKING:
    from pandas import DataFrame

COUNTS = (5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Overlap:
    """What the best k heads of two models have in common.

    shared: heads in both. jaccard: shared heads by heads in either. expected, expected_jaccard: the means of these for
    two random sets of k heads. p: the probability that random sets share as many, or more (hypergeometric).
    """

    k: int
    shared: int
    jaccard: float
    expected: float
    expected_jaccard: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """What `compare_heads` returns; `print` it, or take its `table()`.

    n_heads: of either model. rank_correlation: Spearman's, over all heads; None where sets were given.
    """

    overlaps: tuple[Overlap, ...]
    n_heads: int
    rank_correlation: float | None = None

    def table(self) -> "DataFrame":
        """One row for each k."""
        import pandas as pd

        return pd.DataFrame([vars(overlap) for overlap in self.overlaps])

    def __str__(self) -> str:
        lines = [
            f"best {one.k}: {one.shared} shared (chance {one.expected:.1f}, p = {one.p:.2g}), "
            f"Jaccard {one.jaccard:.2f} (chance {one.expected_jaccard:.2f})"
            for one in self.overlaps
        ]
        if self.rank_correlation is not None:
            lines.append(f"rank correlation of all {self.n_heads} heads: {self.rank_correlation:.2f}")
        return "\n".join(lines)


def compare_heads(
    first: HeadSet | HeadScores,
    second: HeadSet | HeadScores,
    *,
    counts: Sequence[int] | None = None,
    by: str = "score",
    n_heads: int | None = None,
) -> Comparison:
    """`gl.compare_heads(a, b)`: how many of the best heads of two models of one shape are the same.

    first, second: scores, or sets of heads, best first.
    counts: the k to compare at, up to the number of heads; by default 5, 10, 20, 50 and 100 as far as both go, or the
        length of the shorter set. by: the statistic that ranks scores ("score", "contrast", "correlation").
    n_heads: of either model, which chance depends on; read from scores, or from the fingerprint of a set.
    Raises HeadError for models of different shapes, InputError for counts that are too large and for sets whose model
    has an unknown number of heads.
    """
    shapes = {shape for shape in map(_shape, (first, second)) if shape is not None}
    if len(shapes) > 1:
        (layers, heads), (other_layers, other_heads) = sorted(shapes)
        raise HeadError(
            f"The heads are of models of different shapes, {layers} x {heads} and {other_layers} x {other_heads} "
            "(layers x heads); a head of one has no counterpart in the other. Compare models of one shape."
        )
    total = n_heads or next((prod(shape) for shape in shapes), None)
    if total is None:
        raise InputError("How many heads does the model have? Give n_heads=, or sets with a fingerprint.")
    ranked = [list(one) if isinstance(one, HeadSet) else one.ranked(by) for one in (first, second)]
    selected = _counts(counts, min(map(len, ranked)))
    overlaps = tuple(_overlap(ranked[0], ranked[1], k, total) for k in selected)
    return Comparison(overlaps, total, _correlation(first, second, by))


def compare_rankings(
    scores: HeadScores,
    by: Sequence[str] = ("score", "image", "localization"),
    *,
    counts: Sequence[int] | None = None,
) -> "DataFrame":
    """`gl.compare_rankings(scores)`: how many of the best heads different rankings of one model share, two by two.

    counts: the k to compare at, as for `compare_heads`.
    Returns a table with a row for each k and pair, and for more than two rankings a row "all" for each k. Columns: k,
    first, second, shared, jaccard, and what chance gives: expected, expected_jaccard, p; NaN where that is not known.
    Raises InputError for fewer than two rankings, HeadError for unknown ones. Source of the comparison: Gandikota and
    Bau 2026 (arXiv 2606.14703), table 6.
    """
    import pandas as pd

    if isinstance(by, str) or len(set(by)) < max(2, len(by)):
        raise InputError(f"by={by!r} was given: expected two or more rankings, each once, such as ['score', 'image'].")
    ranked, total = {name: scores.ranked(name) for name in by}, scores.score.numel()
    rows: list[dict[str, object]] = []
    for k in _counts(counts, min(map(len, ranked.values()))):
        for first, second in combinations(by, 2):
            overlap = _overlap(ranked[first], ranked[second], k, total)
            rows.append({"k": k, "first": first, "second": second, **vars(overlap)})
        if len(by) > 2:
            shared = len(set.intersection(*(set(heads[:k]) for heads in ranked.values())))
            either = len(set.union(*(set(heads[:k]) for heads in ranked.values())))
            chance = {"expected": total * (k / total) ** len(by)}
            rows.append({"k": k, "first": "all", "second": "", "shared": shared, "jaccard": shared / either, **chance})
    return pd.DataFrame(rows)


def _shape(heads: HeadSet | HeadScores) -> tuple[int, int] | None:
    """(layers, heads in each) of the model; None where a set does not say."""
    if isinstance(heads, HeadScores):
        n_layers, n_heads = heads.score.shape
        return n_layers, n_heads
    return size_in(heads.fingerprint)


def _counts(counts: Sequence[int] | None, most: int) -> list[int]:
    """The numbers of heads to compare at."""
    if counts is None:
        return [k for k in COUNTS if k <= most] or [most]
    wrong = [k for k in counts if not 1 <= k <= most]
    if wrong or not counts:
        raise InputError(f"counts={list(counts)} was given; give one or more numbers from 1 to {most}.")
    return list(counts)


def _overlap(first: Sequence[Head], second: Sequence[Head], k: int, total: int) -> Overlap:
    shared = len(set(first[:k]) & set(second[:k]))
    ways = [comb(k, n) * comb(total - k, k - n) for n in range(k + 1)]  # in which random sets share n heads
    mean_jaccard = sum(count * n / (2 * k - n) for n, count in enumerate(ways)) / sum(ways)
    p = sum(ways[shared:]) / sum(ways)
    return Overlap(k, shared, shared / (2 * k - shared), k * k / total, mean_jaccard, p)


def _correlation(first: HeadSet | HeadScores, second: HeadSet | HeadScores, by: str) -> float | None:
    """Spearman's rho of the two models' statistics; None where there are only sets."""
    if isinstance(first, HeadSet) or isinstance(second, HeadSet):
        return None
    values = [one.values(by).flatten().double() for one in (first, second)]
    both = ~(values[0].isnan() | values[1].isnan())  # heads that both rank
    return float(rank_correlation(*(one[both].numpy() for one in values)))
