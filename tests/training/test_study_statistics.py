"""Statistics over seeds: values that can be told by hand."""

import itertools

import numpy as np
import pytest

pytest.importorskip("scipy")
from training.study_statistics import comparison, formed_at, hedges_g, holm, interval  # noqa: E402


def test_an_interval_is_students():
    low, high = interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2  # t(3) at 97.5 %
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-5)
    assert interval([0.7]) is None
    assert interval([0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_the_permutation_test_counts_all_labellings(alternative):
    first, second = [0.9, 0.2, 0.8, 0.7], [0.1, 0.6, 0.3, 0.25]
    pooled, seen = [*first, *second], np.mean(first) - np.mean(second)
    differences = []
    for chosen in itertools.combinations(range(8), 4):
        rest = [pooled[i] for i in range(8) if i not in chosen]
        differences.append(np.mean([pooled[i] for i in chosen]) - np.mean(rest))
    differences = np.array(differences)
    upper, lower = np.mean(differences >= seen - 1e-12), np.mean(differences <= seen + 1e-12)
    expected = upper if alternative == "greater" else min(1, 2 * min(upper, lower))
    found = comparison(first, second, alternative=alternative)
    assert found.p == pytest.approx(expected)
    assert found.difference == pytest.approx(seen)
    assert found.smallest_p == pytest.approx((1 if alternative == "greater" else 2) / 70)


def test_single_seeds_are_compared_without_evidence():
    found = comparison([0.9], [0.1], alternative="greater")
    assert (found.p, found.smallest_p, found.g) == (None, 0.5, None)


def test_hedges_g_is_cohens_d_with_a_correction():
    assert hedges_g([1.0, 3.0], [0.0, 2.0]) == pytest.approx(1 / np.sqrt(2) * (1 - 3 / 7))
    assert hedges_g([1.0, 1.0], [0.0, 0.0]) is None


def test_holm_multiplies_the_smallest_most_and_never_falls():
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert holm([0.02, 0.03]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_formed_is_the_first_step_from_which_on_more_than_half_is_there():
    assert formed_at([50, 100, 150, 200], [0.0, 0.6, 0.2, 0.8]) == 200
    assert formed_at([50, 100, 150, 200], [0.0, 0.6, 0.5, 0.8]) == 100
    assert formed_at([50, 100], [0.1, 0.15], floor=1 / 6) is None
    assert formed_at([50, 100, 150], [0.16, 0.5, 0.9], floor=1 / 6) == 150
