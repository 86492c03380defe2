"""A heat map's weight on a token is the mean over its box, and what is no map is refused."""

import numpy as np
import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import RegionError
from gaze_lens.regions.image_tokens import ImageTokens


def tokens_of(boxes, size):
    n = len(boxes)
    return ImageTokens(
        torch.arange(5, 5 + n),
        torch.tensor(boxes),
        torch.full((n, 2), -1),
        size,
        0,
        0,
        torch.zeros(n, dtype=torch.long),
    )


BOXES = [
    [0.0, 0.0, 8.0, 8.0],
    [8.0, 0.0, 13.7, 8.0],
    [2.5, 1.25, 9.5, 7.75],
    [10.0, 6.0, 30.0, 30.0],
    [float("nan")] * 4,
]


def mean_over(array, box):
    """The mean over the part of a box that is inside, pixel by pixel."""
    total = area = 0.0
    for (y, x), value in np.ndenumerate(array):
        width = min(box[2], x + 1) - max(box[0], x)
        height = min(box[3], y + 1) - max(box[1], y)
        if width > 0 and height > 0:
            total, area = total + value * width * height, area + width * height
    return total / area if area else 0.0


def test_a_token_has_the_mean_over_its_box():
    array = np.random.default_rng(0).random((10, 14))
    found = tokens_of(BOXES, (14, 10)).weights(gl.HeatMap(array))
    expected = [mean_over(array, box) for box in BOXES]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.double), atol=1e-7, rtol=0)
    assert found[-1] == 0
    same = tokens_of(BOXES, (14, 10)).weights(gl.HeatMap(torch.tensor(array)))
    assert torch.equal(found, same)


def test_ones_are_ones_and_a_mask_is_a_share_of_the_area():
    ones = tokens_of(BOXES, (14, 10)).weights(gl.HeatMap(np.ones((10, 14))))
    assert ones.tolist() == pytest.approx([1, 1, 1, 1, 0], abs=1e-12)
    half = np.zeros((10, 14))
    half[:, :4] = 1
    found = tokens_of(BOXES, (14, 10)).weights(gl.HeatMap(half))
    assert found.tolist() == pytest.approx([0.5, 0, 1.5 / 7, 0, 0])


def test_fixations_are_gaussians_with_the_largest_at_one():
    points, durations = [(3.5, 2.5), (10.0, 8.0)], [200.0, 100.0]
    array = gl.HeatMap.of_points(points, sigma=2, durations=durations).drawn(14, 10)
    expected = np.zeros((10, 14))
    for (y, x), _ in np.ndenumerate(expected):
        for (px, py), duration in zip(points, durations, strict=True):
            expected[y, x] += duration * np.exp(-((x + 0.5 - px) ** 2 + (y + 0.5 - py) ** 2) / 8)
    expected /= expected.max()
    expected[expected < np.exp(-8)] = 0
    np.testing.assert_allclose(array, expected, atol=1e-12)
    assert array[2, 3] == 1
    assert gl.HeatMap.of_points([(0, 0)], sigma=1).drawn(30, 30)[20:, 20:].max() == 0


def test_a_disc_is_the_pixels_within_its_radius():
    array = gl.HeatMap.of_disc((5, 5), radius=3).drawn(14, 10)
    expected = [[(x + 0.5 - 5) ** 2 + (y + 0.5 - 5) ** 2 <= 9 for x in range(14)] for y in range(10)]
    assert (array == np.array(expected)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gl.HeatMap(np.zeros((10, 14))), "is 0 throughout"),
        (lambda: gl.HeatMap(np.full((10, 14), np.nan)), "values from nan to nan"),
        (lambda: gl.HeatMap(np.array([[0.5, np.nan]])), "values from nan to nan"),
        (lambda: gl.HeatMap(np.array([[0.5, -0.1]])), "values from -0.1 to 0.5"),
        (lambda: gl.HeatMap(np.array([[0.5, 1.1]])), "values from 0.5 to 1.1 was given; give weights from 0 to 1"),
        (lambda: gl.HeatMap(np.ones(4)), r"shape \(4,\) was given; give \[height, width\]"),
        (lambda: gl.HeatMap(np.ones((0, 4))), r"shape \(0, 4\)"),
        (lambda: gl.HeatMap([["a", "b"]]), "expected numbers"),
        (lambda: gl.HeatMap.of_points([], sigma=3), "give at least one"),
        (lambda: gl.HeatMap.of_points([(1, 2, 3)], sigma=3), "give at least one"),
        (lambda: gl.HeatMap.of_points([(1, 2)], sigma=0), "sigma=0"),
        (lambda: gl.HeatMap.of_points([(1, 2)], sigma=3, durations=[0]), "above 0"),
        (lambda: gl.HeatMap.of_points([(1, 2)], sigma=3, durations=[1, 2]), "one duration for each"),
        (lambda: gl.HeatMap.of_disc((1, 2, 3), radius=3), "give"),
        (lambda: gl.HeatMap.of_disc((1, 2), radius=float("nan")), "radius=nan"),
        (lambda: gl.HeatMap(np.ones((14, 10))).drawn(14, 10), r"\[height, width\] = \(10, 14\)"),
        (lambda: gl.HeatMap.of_points([(14, 2)], sigma=3).drawn(14, 10), r"at \(14, 2\) lies outside the image"),
        (lambda: gl.HeatMap.of_points([(1, 2)], sigma=1e-3).drawn(14, 10), "so small that no pixel"),
        (lambda: gl.HeatMap.of_disc((1, -1), radius=3).drawn(14, 10), "disc's centre .* lies outside"),
        (lambda: gl.HeatMap.of_disc((1, 1), radius=0.1).drawn(14, 10), "is 0 throughout"),
    ],
)
def test_what_is_no_map_is_refused(make, message):
    with pytest.raises(RegionError, match=message):
        make()


def test_a_map_that_misses_every_token_is_refused():
    array = np.zeros((10, 14))
    array[9, 13] = 1
    with pytest.raises(RegionError, match="is 0 on all 2 tokens"):
        tokens_of(BOXES[:2], (14, 10)).weights(gl.HeatMap(array))
