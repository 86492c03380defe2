"""Strips, pages, synthetic pictures, and the questions about them."""

import numpy as np
import pytest
from PIL import Image

from gaze_lens import comics
from gaze_lens.comics.drawing import COLOURS, SHAPES, SIDE, coverage, draw_cells, draw_content, render_panels
from gaze_lens.errors import GazeLensError, ImageError, InputError
from gaze_lens.regions.shapes import Box


def pixels(picture):
    return np.asarray(picture.image)


def test_a_strip_has_common_height_rounded_widths_and_white_gaps():
    panels = [Image.new("RGB", size, colour) for size, colour in (((100, 200), "red"), ((300, 150), "blue"))]
    strip = comics.strip(panels, captions=["one", "two"])
    assert strip.image.size == (128 + 512, 256)
    assert strip.regions == {"panel 1": Box(0, 0, 128, 256), "panel 2": Box(128, 0, 640, 256)}
    assert strip.captions == {"panel 1": "one", "panel 2": "two"}
    assert (pixels(strip)[:, 125:131] == 255).all()
    assert (pixels(strip)[:, 124] == (255, 0, 0)).all()
    assert (pixels(strip)[:, 131] == (0, 0, 255)).all()


def test_a_strip_is_cut_to_the_sizes_of_the_published_scripts_where_asked():
    """They round a width down to whole pixels, then to the nearest multiple of 32, at least one."""
    rng, different = np.random.default_rng(0), 0
    for width, height in rng.integers(20, 700, (400, 2)).tolist():
        panel = Image.new("1", (width, height))
        if width / height > 20:
            continue
        (published,) = comics.strip([panel], as_published=True, gap=0).regions.values()
        assert published.x1 == max(32, 32 * round(int(width * 256 / height) / 32))
        different += comics.strip([panel], gap=0).image.width != published.x1
    assert 0 < different < 40
    assert comics.strip([Image.new("1", (64, 64))], height=250, as_published=True).image.size == (256, 256)


def test_a_strip_takes_paths_arrays_and_turned_photographs(tmp_path):
    Image.new("L", (64, 32)).save(tmp_path / "grey.png")
    turned = Image.new("RGB", (64, 32))
    exif = turned.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees: 64 x 32 stored, 32 x 64 upright
    turned.save(tmp_path / "turned.jpg", exif=exif)
    strip = comics.strip([tmp_path / "grey.png", str(tmp_path / "turned.jpg"), np.zeros((10, 10))], height=64, gap=0)
    assert [box.x1 - box.x0 for box in strip.regions.values()] == [128, 32, 64]
    assert not strip.captions


def test_a_grid_has_equal_cells_in_reading_order():
    sizes = [(80, 40), (40, 80), (40, 40)] * 2
    panels = [Image.new("RGB", size, (40 * k, 0, 0)) for k, size in enumerate(sizes)]
    page = comics.grid(panels, (2, 3), cell=(64, 96), gap=4, captions=list("abcdef"))
    assert page.image.size == (192, 192)
    assert page.regions["panel 5"] == Box(64, 96, 128, 192)
    assert page.captions["panel 5"] == "e"
    for k in range(6):
        row, column = divmod(k, 3)
        assert (pixels(page)[96 * row + 48, 64 * column + 32] == (40 * k, 0, 0)).all()
    red = (pixels(page)[:96, 64:128] == (40, 0, 0)).all(-1)
    assert red.sum() == 48 * (96 - 2)  # 40 x 80 as 48 x 96, and the gap is painted over the last two rows
    for line in (pixels(page)[:, 62:66], pixels(page)[:, 126:130], pixels(page)[94:98]):
        assert (line == 255).all()


def test_grids_of_other_numbers_are_refused():
    for shape, cell in (((2, 2), (64, 64)), ((1, 3), (0, 64)), ((0, 3), (64, 64))):
        with pytest.raises(InputError, match="3 panels were given for a grid"):
            comics.grid([np.zeros((8, 8))] * 3, shape, cell=cell)
    with pytest.raises(InputError, match="1 captions were given for 3 panels"):
        comics.grid([np.zeros((8, 8))] * 3, (1, 3), captions=["one"])


@pytest.mark.parametrize(
    ("panels", "options", "words"),
    [
        ([], {}, "list of at least one panel"),
        ("panels", {}, "'panels' was given; a strip needs a list"),
        ([np.zeros((8, 8))], {"captions": ["a", "b"]}, "2 captions"),
        ([np.zeros((8, 8))], {"height": 0}, "height=0"),
        (["nowhere.png"], {}, "nowhere.png"),
        ([np.full((8, 8), np.nan)], {}, "NaN"),
        ([np.zeros((2, 4000))], {}, "too wide"),
    ],
)
def test_bad_strips_say_what_is_wrong(panels, options, words):
    with pytest.raises(GazeLensError, match=words):
        comics.strip(panels, **options)


def test_a_panel_that_is_not_an_image_is_an_image_error(tmp_path):
    (tmp_path / "p1.png").write_text("no image")
    with pytest.raises(ImageError):
        comics.strip([tmp_path / "p1.png"])


def test_synthetic_strips_are_determined_by_their_seed():
    first, again, other = (comics.synthetic(n, seed=seed) for n, seed in ((3, 7), (2, 7), (2, 8)))
    for a, b in zip(first, again, strict=False):
        assert (pixels(a) == pixels(b)).all()
        assert a.captions == b.captions
    assert (pixels(first[0]) != pixels(other[0])).any()
    assert first[0].captions != first[1].captions


@pytest.mark.parametrize(("panels", "width"), [(1, 32), (6, 32), (8, 48)])
def test_synthetic_panels_lie_on_the_token_grid(panels, width):
    strip = comics.synthetic(1, seed=0, panels=panels, width=width)[0]
    assert strip.image.size == (panels * width, SIDE)
    assert list(strip.regions) == list(strip.captions) == [f"panel {k + 1}" for k in range(panels)]
    assert [(box.x0, box.x1) for box in strip.regions.values()] == [(k * width, (k + 1) * width) for k in range(panels)]
    assert len(set(strip.captions.values())) == panels


def test_captions_name_what_is_drawn():
    content = np.array([[COLOURS.index("red"), SHAPES.index("ring"), COLOURS.index("blue"), SHAPES.index("bar")]])
    panel = render_panels(np.random.default_rng(0), content)[0].astype(int)
    assert comics.caption(content[0]) == "red ring above blue bar."
    red, blue = panel[..., 0] - panel[..., 2] > 100, panel[..., 2] - panel[..., 0] > 100
    assert red[:16].sum() > 30
    assert blue[16:].sum() > 30
    assert not red[18:].any()
    assert not blue[:14].any()


def test_shapes_differ_and_fill_their_squares():
    bank = coverage((13,))[:, 0]
    assert bank.shape == (len(SHAPES), 13, 13)
    assert (bank.mean((1, 2)) > 0.15).all()
    apart = np.abs(bank[:, None] - bank[None]).mean((2, 3))
    assert (apart[~np.eye(len(SHAPES), dtype=bool)] > 0.1).all()


def test_scenes_name_every_object_and_its_cell():
    scene = comics.scenes(1, seed=3)[0]
    assert scene.image.size == (96, 96)
    assert 2 <= len(scene.regions) <= 7
    assert len(set(scene.captions.values())) == len(scene.regions)
    for name, box in scene.regions.items():
        x0, y0, x1, y1 = (int(end) for end in (box.x0, box.y0, box.x1, box.y1))
        inside = pixels(scene)[y0:y1, x0:x1].astype(int)
        assert np.abs(inside - pixels(scene)[:, :3].mean((0, 1))).max() > 60, name
    assert comics.scenes(1, seed=3)[0].captions == scene.captions


def test_contents_are_all_different():
    assert len({tuple(row) for row in draw_content(np.random.default_rng(0), 500)}) == 500
    cells = draw_cells(np.random.default_rng(0), 20, (2, 3))
    assert ((cells[..., 0] >= 0).sum((1, 2)) >= 2).all()


@pytest.mark.parametrize("options", [{"panels": 0}, {"width": 40}, {"width": 16}])
def test_impossible_synthetic_strips_are_refused(options):
    with pytest.raises(InputError):
        comics.synthetic(1, seed=0, **options)


def test_questions_count_from_one_in_words():
    assert comics.ask(0) == "What happens in the first panel from the left?"
    assert "eighth" in comics.ask(7)
    with pytest.raises(InputError, match="0 to 7"):
        comics.ask(8)
    assert comics.place(0, 2, (3, 3)) == "top right"
    assert comics.place(1, 0, (2, 2)) == "bottom left"
