"""Comparing the heads of two models: overlap, chance by drawing, and what cannot be compared."""

import itertools

import numpy as np
import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import HeadError, InputError
from gaze_lens.heads.comparison import compare_heads


def scores(values):
    """Scores whose mass on the panel asked about is given: [layer, head]."""
    values = torch.as_tensor(values, dtype=torch.float32)
    samples = torch.zeros(2, *values.shape, 2, 2)
    samples[..., 0, 0] = samples[..., 1, 1] = values
    return gl.HeadScores(samples)


def test_overlap_is_counted_and_chance_is_that_of_random_sets():
    first = gl.HeadSet(["L0H0", "L0H1", "L1H0"], fingerprint="Some-2x3x3x8")
    second = gl.HeadSet(["L1H0", "L1H2", "L0H0"], fingerprint="Other-2x3x1x8")
    (one,) = compare_heads(first, second).overlaps
    every = list(itertools.combinations(range(6), 3))
    shared = np.array([len(set(a) & set(b)) for a in every for b in every])
    assert (one.k, one.shared, one.jaccard) == (3, 2, 2 / 4)
    assert one.expected == pytest.approx(shared.mean())
    assert one.expected_jaccard == pytest.approx((shared / (6 - shared)).mean())
    assert one.p == pytest.approx((shared >= 2).mean())


def test_the_best_of_scores_are_compared_at_several_counts():
    values = torch.arange(12.0).reshape(3, 4) / 12
    same = compare_heads(scores(values), scores(values.square()), counts=[1, 5, 12])
    assert [one.shared for one in same.overlaps] == [1, 5, 12]
    assert same.overlaps[-1].p == 1
    assert same.rank_correlation == pytest.approx(1)
    opposite = compare_heads(scores(values), scores(1 - values), counts=[6])
    assert (opposite.overlaps[0].shared, opposite.rank_correlation) == (0, pytest.approx(-1))
    assert [one.k for one in compare_heads(scores(values), scores(values)).overlaps] == [5, 10]


def test_it_prints_a_line_for_each_count():
    values = torch.arange(12.0).reshape(3, 4) / 12
    comparison = gl.compare_heads(scores(values), scores(values), counts=[6])
    expected = "best 6: 6 shared (chance 3.0, p = 0.0011), Jaccard 1.00 (chance 0.35)"
    assert str(comparison).splitlines() == [expected, "rank correlation of all 12 heads: 1.00"]
    assert list(comparison.table()["k"]) == [6]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(HeadError, match=r"different shapes, 2 x 3 and 3 x 4"):
        compare_heads(scores(torch.rand(2, 3)), scores(torch.rand(3, 4)))
    with pytest.raises(HeadError, match="different shapes"):
        compare_heads(gl.HeadSet(["L0H0"], fingerprint="A-9x9x9x9"), scores(torch.rand(2, 3)))
    with pytest.raises(InputError, match="Give n_heads="):
        compare_heads(gl.HeadSet(["L0H0"]), gl.HeadSet(["L0H0"]))
    assert compare_heads(gl.HeadSet(["L0H0"]), gl.HeadSet(["L0H0"]), n_heads=10).overlaps[0].p == 0.1
    with pytest.raises(InputError, match="numbers from 1 to 6"):
        compare_heads(scores(torch.rand(2, 3)), scores(torch.rand(2, 3)), counts=[7])
