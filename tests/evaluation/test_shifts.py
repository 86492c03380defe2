"""Shifts of a number and direction flips, against a loop over cases, and what they refuse."""

import math

import pytest

import gaze_lens as gl
from gaze_lens.errors import InputError
from gaze_lens.evaluation.statistics import difference

UNSTEERED = [3.0, 3.0, 2.0, 4.0, 1.0, 5.0]
RIGHT = [4.0, 3.5, 1.0, 4.0 + 1e-6, 2.0, 5.0]
WRONG = [2.0, 3.2, 2.5, 3.0, 0.5, 4.0]
PICTURES = ["a", "a", "b", "b", "c", "c"]


def flips(right, wrong, unsteered, least):
    n = 0
    for r, w, u in zip(right, wrong, unsteered, strict=True):
        up_down = r - u > least and u - w > least
        down_up = u - r > least and w - u > least
        n += up_down or down_up
    return n / len(right)


@pytest.mark.parametrize("least", [0.0, 1e-4, 0.6])
def test_flips_are_shifts_in_opposite_directions_beyond_rounding(least):
    shift = gl.evaluation.score_shift(RIGHT, WRONG, UNSTEERED, PICTURES, least=least, resamples=50)
    assert shift.flips.value == pytest.approx(flips(RIGHT, WRONG, UNSTEERED, least))
    assert (shift.flips.n, shift.flips.n_strips) == (6, 3)


def test_the_flips_of_the_three_limits_differ():
    shares = [flips(RIGHT, WRONG, UNSTEERED, least) for least in (0.0, 1e-4, 0.6)]
    assert shares == pytest.approx([4 / 6, 3 / 6, 1 / 6])


def test_shifts_are_the_paired_differences_of_the_runs_and_add_up():
    shift = gl.evaluation.score_shift(RIGHT, WRONG, UNSTEERED, PICTURES, resamples=200, seed=3)
    assert shift.right == difference(RIGHT, UNSTEERED, PICTURES, resamples=200, seed=3)
    assert shift.between.value == pytest.approx(shift.right.value - shift.wrong.value)
    assert shift.right.value == pytest.approx(sum(r - u for r, u in zip(RIGHT, UNSTEERED, strict=True)) / 6)
    assert set(shift.to_dict()) == {"right", "wrong", "between", "flips"}
    assert str(shift).count("\n") == 3


def test_a_steering_that_does_the_same_in_both_regions_flips_nothing():
    shift = gl.evaluation.score_shift(RIGHT, RIGHT, UNSTEERED, PICTURES, resamples=50)
    assert (shift.flips.value, shift.between.value, shift.between.p) == (0.0, 0.0, 1.0)


def test_a_consistent_shift_of_many_pictures_is_significant():
    pictures = list(range(12))
    shift = gl.evaluation.score_shift([1.0] * 12, [-1.0] * 12, [0.0] * 12, pictures, resamples=100)
    assert shift.flips.value == 1.0
    assert shift.right.p < 0.01


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        (([1.0], [1.0, 2.0], [1.0, 2.0], ["a", "b"]), {}, "values were given"),
        (([], [], [], []), {}, "at least one value"),
        (([math.nan], [1.0], [1.0], ["a"]), {}, "not numbers"),
        (([1.0], [1.0], [1.0], ["a"]), {"least": -1}, "least=-1"),
        (([1.0], [1.0], [1.0], ["a"]), {"least": math.nan}, "least=nan"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(runs, options, message):
    with pytest.raises(InputError, match=message):
        gl.evaluation.score_shift(*runs, **options)
