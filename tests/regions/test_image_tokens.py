"""ImageTokens: boxes tile the image, and conversions between boxes, positions and pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from gaze_lens.errors import InputError, RegionError
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.shapes import Box, Mask, Polygon, Union

quick = settings(max_examples=40, deadline=None)


def grid(width: int, height: int, rows: int, columns: int, *, start: int = 5, dtype=torch.float64) -> ImageTokens:
    """An image stretched to a grid of tokens in raster order, the first at position `start`."""
    r, c = (axis.flatten() for axis in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    # Two different sums on purpose: the tokens at a border may compute its position differently.
    x0, y0 = c * width / columns, r * height / rows
    x1, y1 = (c + 1) * width / columns, (r + 1) * height / rows
    boxes = torch.stack([x0, y0, x1, y1], 1).to(dtype)
    n = rows * columns
    cells, view = torch.stack([r, c], 1), torch.zeros(n, dtype=torch.long)
    return ImageTokens(torch.arange(start, start + n), boxes, cells, (width, height), 0, 0, view)


def join(*parts: ImageTokens) -> ImageTokens:
    """Several views of one image, one after another."""
    n = [len(part) for part in parts]
    return ImageTokens(
        torch.arange(sum(n)),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.cells for part in parts]),
        parts[0].size,
        0,
        0,
        torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(n)),
    )


@st.composite
def grids(draw: st.DrawFn) -> ImageTokens:
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return grid(width, height, draw(st.integers(1, 13)), draw(st.integers(1, 13)), dtype=dtype)


@quick
@given(grids())
def test_boxes_tile_the_image(tokens):
    width, height = tokens.size
    boxes = tokens.boxes.double()
    assert ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum() == pytest.approx(width * height, rel=1e-5)
    rows, columns = tokens.grid
    assert rows * columns == len(tokens)
    for i in range(0, len(tokens), 5):
        shared = Box(*boxes[i].tolist()).overlap(boxes.numpy())
        assert shared[i] == pytest.approx(shared.sum(), rel=1e-4)  # with no token but itself
    assert (
        tokens.heatmap(torch.ones(len(tokens))) == 1
    ).all()  # every pixel is covered; two tokens on a pixel would raise


@quick
@given(grids(), st.data())
def test_a_point_lies_in_exactly_one_token(tokens, data):
    width, height = tokens.size
    x = data.draw(st.floats(0, width, exclude_max=True, width=32))
    y = data.draw(st.floats(0, height, exclude_max=True, width=32))
    positions = tokens.at(x, y)
    assert len(positions) == 1
    assert tokens.select((x, y)).tolist() == positions.tolist()
    assert tokens.bounds(positions).contains(x, y)


@quick
@given(grids(), st.data())
def test_round_trip_from_cells_to_box_to_positions(tokens, data):
    rows, columns = tokens.grid
    r0, c0 = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    r1, c1 = data.draw(st.integers(r0, rows - 1)), data.draw(st.integers(c0, columns - 1))
    inside = (tokens.cells >= torch.tensor([r0, c0])).all(1) & (tokens.cells <= torch.tensor([r1, c1])).all(1)
    positions = tokens.positions[inside]
    box = tokens.bounds(positions)
    for rule in ("centre", "overlap"):
        assert tokens.select(box, rule=rule).tolist() == positions.tolist()
        assert tokens.select((box.x0, box.y0, box.x1, box.y1), rule=rule).tolist() == positions.tolist()
    corners = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)]
    assert tokens.select(Polygon(corners)).tolist() == positions.tolist()
    assert tokens.bounds(tokens.select(box)) == box


@quick
@given(grids(), st.data())
def test_heatmap_of_one_token_is_the_pixels_it_covers(tokens, data):
    i = data.draw(st.integers(0, len(tokens) - 1))
    one = torch.zeros(len(tokens), dtype=torch.float64)
    one[i] = 1
    heat = tokens.heatmap(one)
    width, height = tokens.size
    assert heat.shape == (height, width)
    assert heat.dtype == torch.float64
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x0, y0, x1, y1 = (
        tokens.boxes[i].double() - 0.004
    ).tolist()  # borders that differ by less than 0.01 pixel are equal
    sure = Box(x0, y0, x1, y1).contains(x, y)
    assert (heat.numpy() == sure).all()
    assert (tokens.mask(tokens.positions[i : i + 1]).numpy() == sure).all()


@quick
@given(grids(), st.integers(0, 1000))
def test_heatmap_has_the_value_of_each_pixels_token(tokens, seed):
    values = torch.rand(len(tokens), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    heat = tokens.heatmap(values)
    width, height = tokens.size
    rng = np.random.default_rng(seed)
    for _ in range(5):  # an independent look-up, away from the borders
        column, row = int(rng.integers(width)), int(rng.integers(height))
        near = (tokens.boxes[:, [0, 2]] - column - 0.5).abs().min() < 0.02
        if near or (tokens.boxes[:, [1, 3]] - row - 0.5).abs().min() < 0.02:
            continue
        position = tokens.at(column + 0.5, row + 0.5)
        assert heat[row, column] == values[tokens.positions == position].item()
    assert tokens.heatmap(torch.ones(len(tokens))).sum() == width * height


@quick
@given(grids(), st.integers(0, 10_000))
def test_selection_by_mask_against_counting_pixels(tokens, seed):
    width, height = tokens.size
    array = np.random.default_rng(seed).random((height, width)) < 0.2
    array[0, 0] = True
    boxes = tokens.boxes.double().numpy()
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    expected = [int(p) for p, (x, y) in zip(tokens.positions, middle, strict=True) if array[int(y), int(x)]]
    if expected:
        assert tokens.select(array).tolist() == expected
    overlapping = tokens.select(Mask(array), rule="overlap").tolist()
    assert set(expected) <= set(overlapping)
    assert int(tokens.positions[0]) in overlapping


def test_views_that_overlap_are_averaged():
    whole = grid(8, 4, 1, 1)
    both = join(whole, grid(8, 4, 2, 4))
    heat = both.heatmap(torch.tensor([1.0, *range(8)]))
    expected = (1 + torch.arange(8.0).reshape(2, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)) / 2
    assert torch.equal(heat, expected)
    assert both.at(0.5, 0.5).tolist() == [0, 1]
    assert both.select(Box(0, 0, 8, 4)).tolist() == list(range(9))
    with pytest.raises(InputError, match=r"has 2 views.*\.view"):
        _ = both.grid
    assert "9 tokens at 0 to 8 in 2 views" in repr(both)


def separators() -> ImageTokens:
    """Two by two tokens over the left half of an image of 8 x 4, a separator after each row."""
    boxes = torch.tensor([[0, 0, 2, 2], [2, 0, 4, 2], [9] * 4, [0, 2, 2, 4], [2, 2, 4, 4], [9] * 4]).float()
    boxes[[2, 5]] = math.nan
    cells = torch.tensor([[0, 0], [0, 1], [-1, -1], [1, 0], [1, 1], [-1, -1]])
    return ImageTokens(torch.arange(3, 9), boxes, cells, (8, 4), 0, 0, torch.zeros(6, dtype=torch.long))


def test_tokens_without_a_box_are_left_out():
    tokens = separators()
    assert tokens.grid == (2, 2)
    assert tokens.token_size == (2, 2)
    for rule in ("centre", "overlap"):
        assert tokens.select(Box(0, 0, 8, 4), rule=rule).tolist() == [3, 4, 6, 7]
    values = torch.tensor([1.0, 2, math.nan, 3, 4, math.nan])  # values of separators do not matter
    assert tokens.heatmap(values)[:, ::2].tolist() == [[1, 2, 0, 0]] * 2 + [[3, 4, 0, 0]] * 2
    assert tokens.bounds([3, 5]) == Box(0, 0, 2, 2)
    with pytest.raises(RegionError, match="None of the 1 tokens covers"):
        tokens.bounds([5])
    with pytest.raises(RegionError, match=r"point \(6, 1\) holds no image token"):
        tokens.at(6, 1)


def test_selection_errors_say_the_sizes():
    tokens = grid(60, 20, 2, 6)
    for far in (Box(60, 0, 80, 20), (0, 20, 5, 30), (-1, 3), (60, 3), (3, 20)):
        with pytest.raises(RegionError, match=r"outside the image: the image is 60 x 20 pixels, .* 10 x 10 pixels"):
            tokens.select(far)
    with pytest.raises(RegionError, match="holds no image token.*rule='overlap'"):
        tokens.select(Box(0, 0, 2, 2))
    assert tokens.select(Box(0, 0, 2, 2), rule="overlap").tolist() == [5]
    assert tokens.select(Union([Box(0, 0, 10, 10), Box(50, 10, 90, 90)])).tolist() == [5, 16]
    with pytest.raises(RegionError, match=r"mask has shape \(60, 20\).*\(20, 60\)"):
        tokens.select(np.ones((60, 20), bool))
    with pytest.raises(RegionError, match="rule 'center' is not known"):
        tokens.select(Box(0, 0, 60, 20), rule="center")
    with pytest.raises(RegionError, match=r"Positions \[4, 17\] are not tokens.*5 to 16"):
        tokens.bounds([4, 5, 17])


def test_heatmap_types_and_gradients():
    tokens = grid(7, 5, 2, 3)
    assert tokens.heatmap(torch.ones(6, dtype=torch.bfloat16)).dtype == torch.float32
    values = torch.ones(6, requires_grad=True)
    tokens.heatmap(values).sum().backward()
    assert values.grad.sum() == 35
    with pytest.raises((InputError, TypeCheckError)):
        tokens.heatmap(torch.ones(5, 1))
    with pytest.raises(InputError, match="one value for each of the 6 tokens"):
        tokens.heatmap(torch.ones(5))


def test_a_large_picture_is_quick():
    tokens = grid(3001, 1999, 64, 96, dtype=torch.float32)
    heat = tokens.heatmap(torch.arange(64 * 96).float())
    assert heat[0, 0] == 0
    assert heat[-1, -1] == 64 * 96 - 1
    assert heat.shape == (1999, 3001)


def test_parts_must_agree():
    tokens = grid(8, 4, 1, 2)
    fields = {name: getattr(tokens, name) for name in ("positions", "boxes", "cells", "size", "image", "row", "view")}
    for name in ("boxes", "cells", "view"):
        with pytest.raises((InputError, TypeCheckError)):
            ImageTokens(**{**fields, name: fields[name][:1]})
    reversed_box = torch.tensor([[0.0, 0, 4, 4], [8, 0, 4, 4]])
    with pytest.raises(InputError, match="Token 1 of image 0 has the box"):
        ImageTokens(**{**fields, "boxes": reversed_box})
    half = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, math.nan]])
    with pytest.raises(InputError, match="four NaN"):
        ImageTokens(**{**fields, "boxes": half})
    twice = ImageTokens(**{**fields, "boxes": torch.tensor([[0.0, 0, 8, 4], [4, 0, 8, 4]])})
    with pytest.raises(InputError, match="overlap: expected boxes that share no pixel"):
        twice.heatmap(torch.ones(2))
