"""Shapes against pixel counting, panels, pictures, and regions bound to a layout."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gaze_lens.errors import RegionError
from gaze_lens.regions.layout import Group, Layout, Region
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.shapes import Box, Mask, Polygon, Union, as_shape

quick = settings(max_examples=40, deadline=None)
side = st.floats(0, 40, allow_nan=False).map(lambda value: round(value, 2))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(side), draw(side)
    return Box(x0, y0, x0 + 0.25 + draw(side), y0 + 0.25 + draw(side))


def corners(*given: Box) -> np.ndarray:
    return np.array([(b.x0, b.y0, b.x1, b.y1) for b in given])


def outline(box: Box) -> Polygon:
    return Polygon([(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1)])


def centres(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(n) + 0.5, np.arange(n) + 0.5)
    return x.ravel(), y.ravel()


def test_box_area_and_ends():
    box = Box(1, 2, 4, 8)
    assert box.area == 18
    assert Box.from_xywh(1, 2, 3, 6) == box
    assert box.contains(np.array([1, 3.9, 4, 2]), np.array([2, 7.9, 3, 8])).tolist() == [True, True, False, False]
    assert box.contains(1, 2)
    assert not box.contains(4, 8)


@pytest.mark.parametrize(
    "sides", [(0, 0, 0, 5), (5, 0, 1, 5), (0, 5, 5, 5), (math.nan, 0, 1, 1), (0, 0, math.inf, 1), (0, 9, 1, 3)]
)
def test_box_refuses_what_holds_no_pixel(sides):
    with pytest.raises(RegionError, match="x0 < x1.*from_xywh"):
        Box(*sides)


@quick
@given(boxes(), boxes(), boxes())
def test_every_shape_measures_a_box_equally(first, second, probe):
    """Overlap of box, polygon, mask and union with a probe, against the closed form for rectangles."""
    expected = first.overlap(corners(probe))
    assert outline(first).overlap(corners(probe)) == pytest.approx(expected, abs=1e-6)
    assert Union([first]).overlap(corners(probe)) == pytest.approx(expected, abs=1e-6)
    assert Union([first, first]).overlap(corners(probe)) == pytest.approx(expected, abs=1e-6)
    both = Union([first, second]).overlap(corners(probe))
    shared = 0.0
    if max(first.x0, second.x0) < min(first.x1, second.x1) and max(first.y0, second.y0) < min(first.y1, second.y1):
        common = Box(
            max(first.x0, second.x0), max(first.y0, second.y0), min(first.x1, second.x1), min(first.y1, second.y1)
        )
        shared = common.overlap(corners(probe))
    assert both == pytest.approx(expected + second.overlap(corners(probe)) - shared, abs=1e-6)
    x, y = centres(80)
    assert (outline(first).contains(x, y) == first.contains(x, y)).all()
    assert (Union([first, second]).contains(x, y) == (first.contains(x, y) | second.contains(x, y))).all()


@quick
@given(st.integers(0, 10_000), boxes())
def test_mask_is_the_sum_of_its_pixels(seed, probe):
    array = np.random.default_rng(seed).random((17, 23)) < 0.3
    array[3, 4] = True
    mask = Mask(array)
    rows, columns = np.nonzero(array)
    pixels = [Box(c, r, c + 1, r + 1).overlap(corners(probe))[0] for r, c in zip(rows, columns, strict=True)]
    assert mask.overlap(corners(probe))[0] == pytest.approx(sum(pixels), abs=1e-9)
    assert mask.bounds == Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    x, y = centres(30)
    assert mask.contains(x, y).reshape(30, 30)[:17, :23].tolist() == array.tolist()
    assert mask.contains(x, y).sum() == array.sum()  # nothing outside, and negative indices do not wrap
    assert not mask.contains(np.array([-0.5, -3.0]), np.array([-0.5, 2.0])).any()


@quick
@given(st.lists(st.tuples(side, side), min_size=3, max_size=9))
def test_polygon_raster_agrees_with_its_points(points):
    if np.linalg.matrix_rank(np.subtract(points[1:], points[0])) < 2:
        with pytest.raises(RegionError, match="on one line"):
            Polygon(points)
        return
    polygon = Polygon(points)
    x, y = np.arange(0, 41, 0.37), np.arange(0, 41, 0.53)
    assert (polygon._cover(x, y) == polygon.contains(*np.meshgrid(x, y))).all()
    area = polygon.overlap(corners(Box(-1, -1, 50, 50), Box(-1, -1, 20, 50), Box(20, -1, 50, 50)))
    assert area[0] == pytest.approx(area[1] + area[2], abs=1e-6)


def test_polygon_area_of_a_triangle_and_of_a_tiny_one():
    everywhere = np.array([[-10.0, -10, 100, 100]])
    assert Polygon([(0, 0), (30, 0), (0, 40)]).overlap(everywhere)[0] == pytest.approx(600, rel=0.01)
    assert Polygon([(0, 0), (0.3, 0), (0, 0.4)]).overlap(everywhere)[0] == pytest.approx(0.06, rel=0.05)
    assert Polygon([(0, 0), (30, 0), (0, 40)]).overlap(np.full((1, 4), np.nan))[0] == 0
    assert Box(0, 0, 5, 5).overlap(np.full((1, 4), np.nan))[0] == 0


def test_polygon_of_many_corners_is_quick_and_right():
    turn = np.linspace(0, 2 * np.pi, 2001)[:-1]
    disc = Polygon(np.stack([1000 + 900 * np.cos(turn), 1000 + 900 * np.sin(turn)], 1))
    grid = np.array([(x, y, x + 28, y + 28) for y in range(0, 2000, 28) for x in range(0, 2000, 28)], float)
    assert disc.overlap(grid).sum() == pytest.approx(np.pi * 900**2, rel=1e-3)


def test_shapes_refuse_nothing():
    with pytest.raises(RegionError, match="at least three"):
        Polygon([(0, 0), (1, 1)])
    with pytest.raises(RegionError, match="finite"):
        Polygon([(0, 0), (1, 1), (math.nan, 2)])
    with pytest.raises(RegionError, match="0 pixels set"):
        Mask(np.zeros((4, 5), bool))
    with pytest.raises(RegionError, match="one or more of Box"):
        Union([])
    with pytest.raises(RegionError, match=r"Wrap four numbers"):
        Union([(0, 0, 1, 1)])


def test_as_shape_reads_what_users_have():
    import torch

    assert as_shape((0, 1, 2, 3)) == as_shape(np.array([0, 1, 2, 3])) == Box(0, 1, 2, 3)
    array = np.zeros((3, 4), bool)
    array[1, 2] = True
    assert as_shape(array).bounds == as_shape(torch.from_numpy(array)).bounds == Box(2, 1, 3, 2)
    for wrong in ("panel 1", (1, 2, 3), [[1, 2], [3]], np.zeros((3, 4)), None):
        with pytest.raises(RegionError, match="is not a region"):
            as_shape(wrong)


@quick
@given(st.integers(1, 12), st.integers(12, 3000), st.integers(1, 500))
def test_panels_divide_the_picture(n, width, height):
    named = panels(n, width, height)
    assert list(named) == [f"panel {i}" for i in range(1, n + 1)]
    x, y = np.arange(width) + 0.5, np.full(width, height / 2)
    assert (sum(box.contains(x, y).astype(int) for box in named.values()) == 1).all()
    assert sum(box.area for box in named.values()) == pytest.approx(width * height)


def test_panels_refuse_none():
    for n in (0, 21):
        with pytest.raises(RegionError, match="20 x 5 pixels cannot be cut"):
            panels(n, 20, 5)


def test_picture():
    image = Image.new("RGB", (60, 20))
    picture = Picture(image, panels(3, 60, 20), {"panel 2": "a cat"})
    assert picture.region("panel 2") == Box(20, 0, 40, 20)
    assert "3 regions: panel 1, panel 2, panel 3" in repr(picture)
    assert repr(Picture(image)) == "Picture of 60 x 20 pixels, 0 regions: none"
    with pytest.raises(RegionError, match="no region 'panel 9'. Its regions: 'panel 1', 'panel 2', 'panel 3'"):
        picture.region("panel 9")
    with pytest.raises(RegionError, match="lies outside the image of 60 x 20"):
        Picture(image, {"far": Box(60, 0, 80, 20)})
    with pytest.raises(RegionError, match="caption for 'cat'"):
        Picture(image, {}, {"cat": "a cat"})


def layout(length: int = 12) -> Layout:
    return Layout(length, ((2, 3, 4, 5), (6, 7, 8, 9)), ((0, 1, 6), (5, 10)), (((8, 8),), ((8, 8),)))


def region(name: str, *rows: tuple[int, ...], of: Layout | None = None) -> Region:
    return Region(name, rows, of or layout())


def test_region_operations():
    left, right = region("left", (3, 2), (6, 7)), region("right", (3, 4), (7,))
    assert left.positions == ((2, 3), (6, 7))
    assert (left | right).positions == ((2, 3, 4), (6, 7))
    assert (left & right).positions == ((3,), (7,))
    assert (left - right).positions == ((2,), (6,))
    assert (left | right).name == "left | right"
    assert left.others == ((4, 5), (8, 9))
    assert len(left) == 4
    assert repr(left) == "Region 'left': 4 of 8 image tokens in 2 rows"
    single = Layout(4, ((1, 2, 3),), ((0,),), (((9, 9),),))
    assert repr(Region("panel 4", ((2,),), single)) == "Region 'panel 4': 1 of 3 image tokens"
    with pytest.raises(RegionError, match="holds no image token in batch row 1"):
        right - left | right - left
    with pytest.raises(TypeError):
        left | {1}


def test_region_is_bound_to_its_layout():
    part = region("part", (2,), (6,))
    part.check(layout())  # equal by value
    with pytest.raises(RegionError, match=r"2 rows x 12 positions.*2 rows x 13 positions.*call inputs.region"):
        part.check(layout(13))
    with pytest.raises(RegionError, match="made for"):
        part | region("part", (2,), (6,), of=layout(13))


def test_region_refuses_bad_positions():
    with pytest.raises(RegionError, match="no image token in batch row 1.*rule='overlap'"):
        region("part", (2,), ())
    with pytest.raises(RegionError, match="positions for 1 rows"):
        region("part", (2,))
    with pytest.raises(RegionError, match="positions 0, 1 in batch row 0"):
        region("part", (0, 1, 2), (6,))


def test_layout_refuses_disagreement():
    with pytest.raises(RegionError, match="images for 1 rows, text for 2"):
        Layout(5, ((1,),), ((0,), (0,)), (((1, 1),),))
    with pytest.raises(RegionError, match="Positions 5 lie outside a prompt of 5 columns"):
        Layout(5, ((1, 5),), ((0,),), (((1, 1),),))


def test_old_names_of_layouts_and_groups_work_and_warn():
    layout = Layout(4, ((0, 1),), ((0, 1),), (((9, 9),),), cross_attention=True, placeholders=((1,),))
    with pytest.warns(DeprecationWarning, match=r"Layout\(crossed=\) is now called cross_attention="):
        assert Layout(4, ((0, 1),), ((0, 1),), (((9, 9),),), crossed=True, placeholders=((1,),)) == layout
    for owner in (layout, Group("image", ((0,),), layout, cross_attention=True)):
        with pytest.warns(DeprecationWarning, match=rf"{type(owner).__name__}.crossed is now called cross_attention"):
            assert owner.crossed is True
    with pytest.warns(DeprecationWarning, match="Layout.behind_images is now called after_images"):
        assert layout.behind_images == layout.after_images == (2,)
