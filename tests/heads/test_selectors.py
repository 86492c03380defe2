"""Selectors against slow loops that follow the definitions word for word."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import HeadError, InputError
from gaze_lens.heads import selectors

LAYERS, HEADS, STRIPS, PANELS = 4, 6, 5, 3
GRID = (4, 7)
BY = ["selectivity", "routing", "image", "localization"]


@pytest.fixture(scope="module")
def scores():
    """Random masses; the last strip has only two panels."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(STRIPS, LAYERS, HEADS, PANELS, PANELS, generator=generator) / PANELS
    samples[-1, ..., 2, :] = samples[-1, ..., :, 2] = torch.nan
    usual = torch.rand(LAYERS, HEADS, 1, generator=generator) ** 4  # most heads look at the image little
    image_mass = (usual + torch.rand(STRIPS, LAYERS, HEADS, PANELS, generator=generator) / 20).clamp(max=1)
    image_mass[-1, ..., 2] = torch.nan
    mean_map = torch.rand(LAYERS, HEADS, *GRID, generator=generator) ** 4 / 10
    mean_map[3, 1] = 0.002  # even: no component
    mean_map[3, 2, -1] = 0.5  # the whole bottom row
    image_mass[:, 3, 1:3] = image_mass[:, 3, 1:3] * 0.01 + 0.98  # both have much mass
    return gl.HeadScores(samples, image_mass=image_mass, mean_map=mean_map)


def questions(scores, layer, head):
    """(row of masses on the strip's panels, which was asked about), question by question."""
    for strip in range(STRIPS):
        n = 2 if strip == STRIPS - 1 else PANELS
        for asked in range(n):
            yield [float(scores.samples[strip, layer, head, asked, j]) for j in range(n)], asked


def slow_selectivity(scores, layer, head):
    shares = [row[asked] / sum(row) for row, asked in questions(scores, layer, head)]
    return sum(shares) / len(shares)


def slow_routing(scores, layer, head):
    right = [max(range(len(row)), key=row.__getitem__) == asked for row, asked in questions(scores, layer, head)]
    return sum(right) / len(right)


def slow_image(scores, layer, head):
    z_scores = []
    for strip in range(STRIPS):
        for asked in range(2 if strip == STRIPS - 1 else PANELS):
            masses = [float(scores.image_mass[strip, layer, other, asked]) for other in range(HEADS)]
            mean = sum(masses) / HEADS
            deviation = math.sqrt(sum((mass - mean) ** 2 for mass in masses) / HEADS)
            z_scores.append((masses[head] - mean) / deviation)
    return sum(z_scores) / len(z_scores)


def slow_elbow(masses):
    """The mass of the point farthest from the line through the first and the last point, by its distance."""
    ascending = sorted(masses)
    x, y = len(ascending) - 1, ascending[-1] - ascending[0]
    distances = [abs(y * i - x * (mass - ascending[0])) / math.hypot(x, y) for i, mass in enumerate(ascending)]
    return ascending[max(range(len(distances)), key=distances.__getitem__)]


def slow_components(cells):
    """Sets of cells that touch, by flood filling."""
    left, found = {(r, c) for r in range(len(cells)) for c in range(len(cells[0])) if cells[r][c]}, []
    while left:
        waiting, component = [left.pop()], set()
        while waiting:
            row, column = waiting.pop()
            component.add((row, column))
            near = {(row + dr, column + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            waiting += near
        found.append(component)
    return found


def slow_localization(scores, layer, head):
    """Minus the entropy; None for a head that is not eligible."""
    of_heads = {
        (one, other): float(scores.image_mass[:, one, other].nanmean())
        for one in range(LAYERS)
        for other in range(HEADS)
    }
    if layer < 2 or of_heads[layer, head] <= slow_elbow(of_heads.values()):
        return None
    cells = scores.mean_map[layer, head].double().numpy()
    clipped = np.maximum(cells - cells.mean(), 0)
    found = slow_components((clipped > 0.001).tolist())
    if all(any((GRID[0] - 1, column) in one for one in found) for column in range(GRID[1])):
        return None
    if not found:
        return -math.inf
    shares = [sum(clipped[cell] for cell in one) / clipped.sum() for one in found]
    return sum(share * math.log(share) for share in shares)


SLOW = dict(zip(BY, [slow_selectivity, slow_routing, slow_image, slow_localization], strict=True))


@pytest.mark.parametrize("by", BY)
def test_a_ranking_equals_a_slow_loop(scores, by):
    values = {(layer, head): SLOW[by](scores, layer, head) for layer in range(LAYERS) for head in range(HEADS)}
    for head, expected in values.items():
        value = float(scores.values(by)[head])
        assert math.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-5)
    eligible = [head for head in values if values[head] is not None]
    assert scores.ranked(by) == sorted(eligible, key=lambda head: (-values[head], head))
    assert len({round(value, 6) for value in values.values() if value is not None}) > 3


def test_what_the_localization_ranking_leaves_out(scores):
    ranked = scores.ranked("localization")
    assert ranked[-1] == (3, 1), "without a component the entropy is infinite"
    assert (3, 2) not in ranked, "its bottom row is full"
    assert 1 < len(ranked) < (LAYERS - 2) * HEADS
    with pytest.raises(HeadError, match=f"expected 1 to {len(ranked)}, those of 24 heads that 'localization' ranks"):
        scores.top(len(ranked) + 1, by="localization")


def test_components_are_joined_by_corners():
    rows = ["#..#.#.", "...#.#.", "##..#..", ".......", "#.#.#.#"]
    cells = torch.tensor([[cell == "#" for cell in row] for row in rows])
    labels = selectors.components(cells[None])[0]
    expected = slow_components(cells.tolist())
    assert len(expected) == 7
    assert {frozenset(map(tuple, (labels == label).nonzero().tolist())) for label in labels.unique() if label} == set(
        map(frozenset, expected)
    )
    spiral = torch.ones(9, 9, dtype=torch.bool)
    spiral[1, :8] = spiral[3:8, 1] = spiral[7, 1:8] = spiral[1:8, 7] = False
    assert len(selectors.components(spiral[None]).unique()) == len(slow_components(spiral.tolist())) + 1


@pytest.mark.parametrize("by", BY)
def test_rankings_go_where_scores_go(scores, by, tmp_path):
    heads = scores.top(3, by=by)
    assert heads.provenance["rank_by"] == by
    assert list(heads) == scores.ranked(by)[:3]
    controls = scores.controls(3, seed=0, by=by)
    assert not set(controls) & set(heads)
    scores.save(tmp_path / "scores.safetensors")
    loaded = gl.HeadScores.load(tmp_path / "scores.safetensors")
    assert loaded.ranked(by) == scores.ranked(by)
    scores.save_ranking(tmp_path / "ranking.json", by=by)
    assert list(gl.HeadSet.load(tmp_path / "ranking.json"))[:3] == list(heads)
    same = gl.compare_heads(scores, loaded, by=by, counts=[3])
    assert same.overlaps[0].shared == 3
    assert same.rank_correlation == pytest.approx(1)


def test_the_overlap_of_rankings(scores):
    by = ["score", "image", "selectivity"]
    table = gl.compare_rankings(scores, by, counts=[2, 10])
    assert list(zip(table.k, table["first"], table.second, strict=True)) == [
        (k, *pair) for k in (2, 10) for pair in [*[(by[0], by[1]), (by[0], by[2]), (by[1], by[2])], ("all", "")]
    ]
    best = {name: set(scores.top(10, by=name)) for name in by}
    row = table.query("k == 10 and first == 'score' and second == 'image'").iloc[0]
    assert row.shared == len(best["score"] & best["image"])
    assert row.jaccard == pytest.approx(row.shared / len(best["score"] | best["image"]))
    assert row.expected == pytest.approx(100 / 24)
    common = table.query("k == 10 and first == 'all'").iloc[0]
    assert common.shared == len(set.intersection(*best.values()))
    assert common.expected == pytest.approx(24 * (10 / 24) ** 3)
    assert pd.isna(common.p)


def test_what_the_overlap_refuses(scores):
    with pytest.raises(InputError, match="two or more rankings, each once"):
        gl.compare_rankings(scores, ["score", "score"])
    with pytest.raises(HeadError, match="'gaze' is not known: expected one of 'score', .* 'localization'"):
        gl.compare_rankings(scores, ["score", "gaze"])


def test_scores_without_what_a_ranking_needs_say_so(scores):
    bare = gl.HeadScores(scores.samples)
    assert bare.ranked("routing") == scores.ranked("routing")
    with pytest.raises(HeadError, match="no attention on the whole image"):
        bare.top(1, by="image")
    tiles = gl.HeadScores(scores.samples, image_mass=scores.image_mass)
    with pytest.raises(HeadError, match="several tiles"):
        tiles.top(1, by="localization")
    with pytest.raises(HeadError, match=r"image_mass of shape \(4, 4, 6, 3\) does not fit"):
        gl.HeadScores(scores.samples, image_mass=scores.image_mass[1:])
    with pytest.raises(HeadError, match="The statistic 'routing' is not known: expected one of 'score', 'contrast'"):
        scores.interval("routing")


def test_ties_and_heads_that_look_nowhere():
    samples = torch.zeros(1, 1, 3, 2, 2)
    samples[0, 0, 1] = 0.25  # looks at both panels
    samples[0, 0, 2] = torch.tensor([[0.3, 0.2], [0.2, 0.3]])
    scores = gl.HeadScores(samples, image_mass=torch.zeros(1, 1, 3, 2))
    assert scores.values("routing").tolist() == [[0, 0, 1]]
    assert scores.values("selectivity")[0].tolist() == pytest.approx([0, 0.5, 0.6])
    assert scores.ranked("image") == [], "no head of the layer looks at the image"
    with pytest.raises(HeadError, match="No head of the model is eligible for the ranking 'image'"):
        scores.top(1, by="image")


def test_heads_that_never_look_at_the_image_bend_no_elbow():
    """Layers without attention, or before the picture is read, have a mass of 0."""
    generator = torch.manual_seed(0)
    mass, maps = torch.rand(6, 4, generator=generator), torch.rand(6, 4, 5, 5, generator=generator) ** 8
    alone = selectors.localization_heads(mass, maps)
    zeros = torch.zeros(6, 4), torch.zeros(6, 4, 5, 5)
    more = selectors.localization_heads(torch.cat([mass, zeros[0]]), torch.cat([maps, zeros[1]]))
    assert alone.isfinite().any()
    torch.testing.assert_close(more[:6], alone, equal_nan=True)
    assert more[6:].isnan().all()
    assert selectors.localization_heads(torch.zeros(6, 4), maps).isnan().all()
