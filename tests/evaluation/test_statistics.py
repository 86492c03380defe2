"""Means, differences and rank correlations against slow loops, known coverage, and what they refuse."""

import itertools
import math
import random

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaze_lens.errors import InputError
from gaze_lens.evaluation import statistics
from gaze_lens.evaluation.statistics import difference, draws, mean, spearman
from gaze_lens.heads.rank_correlation import midranks, rank_correlation


def grouped(values, strips):
    """Lists of values, by strip in order of appearance."""
    return [[v for v, s in zip(values, strips, strict=True) if s == strip] for strip in dict.fromkeys(strips)]


def ragged(seed=0, n_strips=9):
    """Values of strips that have 1 to 6 each, in mixed order, and the strips' names."""
    rng = random.Random(seed)
    rows = [(rng.gauss(k % 3, 1), f"strip {k}") for k in range(n_strips) for _ in range(1 + k % 6)]
    rng.shuffle(rows)
    return [value for value, _ in rows], [strip for _, strip in rows]


def test_a_mean_equals_resampling_strip_by_strip():
    values, strips = ragged()
    estimate = mean(values, strips, level=0.8, resamples=200, seed=3)
    groups = grouped(values, strips)
    means = []
    for resample in np.concatenate(list(draws(len(groups), resamples=200, seed=3))):
        pooled = [value for strip in resample for value in groups[strip]]
        means.append(sum(pooled) / len(pooled))
    assert estimate.value == pytest.approx(sum(values) / len(values))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, [0.1, 0.9])))
    assert (estimate.n, estimate.n_strips) == (len(values), 9)
    assert estimate == mean(values, strips, level=0.8, resamples=200, seed=3)
    assert str(mean([True, True, False, False], "aabb")).startswith("0.5 [0, 1], n 4 of 2 strips")


@pytest.mark.parametrize("cells", [1, 100, 2**30])
def test_draws_do_not_depend_on_the_size_of_blocks(cells, monkeypatch):
    monkeypatch.setattr(statistics, "CELLS", cells)
    blocks = list(draws(7, resamples=50, seed=3))
    assert max(block.size for block in blocks) <= max(cells, 7)
    assert max(len(block) for block in draws(7, resamples=50, seed=3, width=30)) <= max(cells // 30, 1)
    at_once = np.random.default_rng(3).integers(7, size=(50, 7))
    np.testing.assert_array_equal(np.concatenate(blocks), at_once)


@pytest.mark.parametrize("figure", [mean, difference, spearman])
def test_figures_do_not_depend_on_the_size_of_blocks(figure, monkeypatch):
    columns, strips = [ragged(seed)[0] for seed in range(1 if figure is mean else 2)], ragged()[1]
    expected = figure(*columns, strips, resamples=60, seed=1)
    monkeypatch.setattr(statistics, "CELLS", 64)
    assert figure(*columns, strips, resamples=60, seed=1) == expected


def test_values_of_one_strip_are_not_independent():
    values = [float(k % 2) for k in range(20) for _ in range(6)]
    strips = [k for k in range(20) for _ in range(6)]
    together, apart = mean(values, strips), mean(values, range(120))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    strips = np.repeat(np.arange(40), 6).tolist()
    hits = 0
    for seed in range(150):
        odds = rng.beta(2, 2, size=40)
        estimate = mean(rng.random(240) < np.repeat(odds, 6), strips, resamples=400, seed=seed)
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= hits / 150 <= 0.99


def slow_p(first, second, strips):
    """The share of sign patterns over strips under which the sum of differences is as far from 0."""
    sums = [sum(group) for group in grouped(np.subtract(first, second), strips)]
    signs = list(itertools.product((1, -1), repeat=len(sums)))
    as_far = [abs(np.dot(pattern, sums)) >= abs(sum(sums)) - 1e-9 for pattern in signs]
    return sum(as_far) / len(signs)


def test_few_strips_have_an_exact_p_value():
    first, strips = ragged(1)
    second, _ = ragged(2)
    estimate = difference(first, second, strips)
    assert estimate.p == pytest.approx(slow_p(first, second, strips))
    pairs = mean(np.subtract(first, second), strips)
    assert (estimate.value, estimate.low, estimate.high) == (pairs.value, pairs.low, pairs.high)
    assert difference(second, first, strips).p == pytest.approx(estimate.p)
    assert difference(second, first, strips).value == pytest.approx(-estimate.value)


def test_many_strips_have_a_sampled_p_value_near_the_normal_one():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.12, 1, 300), rng.normal(0, 1, 300)
    estimate = difference(first, second, np.arange(300).tolist(), resamples=20_000)
    pairs = first - second
    z = abs(pairs.sum()) / math.sqrt((pairs**2).sum())
    assert estimate.p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.01)


def test_no_difference_is_no_evidence_and_a_clear_one_is():
    right, strips = [True, False] * 30, [k for k in range(10) for _ in range(6)]
    assert difference(right, right, strips).p == 1
    clear = difference([True] * 60, [False] * 60, strips)
    assert (clear.value, clear.low, clear.high, clear.p) == (1, 1, 1, 2 / 2**10)
    assert str(clear) == "+1 [1, 1], p = 0.002, n 60 of 10"


def test_p_values_are_rarely_small_without_a_difference():
    rng = np.random.default_rng(9)
    strips = np.repeat(np.arange(30), 6).tolist()
    small = 0
    for seed in range(200):
        odds = np.repeat(rng.random(30), 6)
        first, second = rng.random(180) < odds, rng.random(180) < odds
        small += difference(first, second, strips, resamples=400, seed=seed).p <= 0.05
    assert small <= 20  # 10 are expected; more than 20 come with probability 0.001


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_rank_correlation_is_pearson_of_mean_ranks(pairs):
    first, second = map(np.array, zip(*pairs, strict=True))
    ranks = [pandas.Series(column).rank().to_numpy() for column in (first, second)]
    constant = len(set(first)) == 1 or len(set(second)) == 1
    expected = 0 if constant else np.corrcoef(ranks)[0, 1]
    assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-9)


def test_weights_count_points_again():
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 6, 25), rng.normal(size=25)
    times = rng.integers(0, 4, (3, 25))
    correlations = rank_correlation(first, second, times.astype(float))
    for row, value in zip(times, correlations, strict=True):
        assert value == pytest.approx(rank_correlation(first.repeat(row), second.repeat(row)))
    assert midranks(np.array([5, 1, 5]), np.ones(3)).tolist() == [2.0, 0.5, 2.0]


def test_spearman_equals_resampling_strip_by_strip():
    scheduled, strips = [k for _ in range(8) for k in range(5)], [s for s in range(8) for _ in range(5)]
    rng = random.Random(1)
    described = [k if rng.random() < 0.7 else rng.randrange(5) for k in scheduled]
    estimate = spearman(scheduled, described, strips, resamples=100, seed=5)
    pairs = grouped(list(zip(scheduled, described, strict=True)), strips)
    values = []
    for resample in np.concatenate(list(draws(8, resamples=100, seed=5))):
        pooled = [pair for strip in resample for pair in pairs[strip]]
        ranks = [pandas.Series(column).rank() for column in zip(*pooled, strict=True)]
        values.append(np.corrcoef(ranks)[0, 1])
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert estimate.value == pytest.approx(float(rank_correlation(np.array(scheduled), np.array(described))))
    assert spearman(scheduled, scheduled, strips).value == pytest.approx(1)
    assert spearman(scheduled, [3] * 40, strips).value == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "0 values were given with 0 strips; give at least one value"),
        (([1.0, 2.0], ["a"]), "2 values were given with 1 strips"),
        (([1.0, float("nan")], "ab"), "not numbers.*leave out what was not judged"),
    ],
)
def test_what_cannot_be_averaged(arguments, message):
    with pytest.raises(InputError, match=message):
        mean(*arguments)


def test_pairs_and_levels_are_checked():
    with pytest.raises(InputError, match="2 and 3 values were given with 3 strips"):
        difference([1, 2], [1, 2, 3], "abc")
    with pytest.raises(InputError, match="level=95"):
        mean([1.0], "a", level=95)
    with pytest.raises(InputError, match="not numbers"):
        mean([True, None], "ab")
