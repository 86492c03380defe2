"""Pictures from folders, single images and data sets: contents, order, and what is left out for which reason."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens.errors import GazeLensError, ImageError, InputError, RegionError
from gaze_lens.regions.shapes import Box

data = gl.data


def panel(colour, width=60, height=40):
    return Image.new("RGB", (width, height), colour)


def colour_in(picture, name):
    """The colour in the middle of a region."""
    box = picture.regions[name]
    return np.asarray(picture.image)[int((box.y0 + box.y1) / 2), int((box.x0 + box.x1) / 2)].astype(int)


def write_comic(folder, colours):
    folder.mkdir(parents=True)
    for index, colour in enumerate(colours):
        panel(colour).save(folder / f"p{index + 1}.png")


@pytest.fixture
def comics(tmp_path):
    write_comic(tmp_path / "b", ["red", "green", "blue"])
    write_comic(tmp_path / "a", ["white", "black"])
    return tmp_path


def cut_short(path):
    """A JPEG with a complete header and incomplete pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:2000])


# Strips: <comic>/p1.png, p2.png, ...


def test_comics_are_read_in_order_of_name_and_number(comics):
    for number in range(4, 11):  # p10 comes after p9, not after p1
        panel((number * 20, 0, 0)).save(comics / "b" / f"p{number}.png")
    strips = data.read_strips(comics)
    assert strips.names == ("a", "b")
    assert list(strips["b"].regions) == [f"panel {k}" for k in range(1, 11)]
    assert abs(colour_in(strips["b"], "panel 10")[0] - 200) <= 2


def test_files_without_panel_numbers_are_taken_in_natural_order(tmp_path):
    (tmp_path / "c").mkdir()
    for number, grey in ((10, 200), (2, 100), (1, 0)):
        panel((grey,) * 3).save(tmp_path / "c" / f"scan {number}.png")
    (strip,) = data.read_strips(tmp_path)
    assert [colour_in(strip, name)[0] for name in strip.regions] == [0, 100, 200]


def test_comics_that_cannot_be_strips_are_counted(comics):
    write_comic(comics / "one", ["red"])
    write_comic(comics / "gap", ["red", "red", "red"])
    (comics / "gap" / "p2.png").unlink()
    write_comic(comics / "twice", ["red", "red"])
    panel("red").save(comics / "twice" / "p2.jpg")
    write_comic(comics / "text", ["red", "red"])
    (comics / "text" / "p1.png").write_text("not an image")
    strips = data.read_strips(comics)
    assert strips.names == ("a", "b")
    misnumbered = "panels are not numbered 1, 2, 3, ..."
    assert strips.skipped == {misnumbered: 2, "fewer than two panels": 1, "an image cannot be read": 1}
    assert strips.left_out[misnumbered] == ("gap", "twice")
    assert repr(strips).startswith(f"2 pictures from {comics}; left out: ")
    assert "fewer than two panels (1)" in repr(strips)


def test_limit_reads_only_what_it_needs(comics):
    (comics / "b" / "p1.png").write_bytes(b"not an image")
    strips = data.read_strips(comics, limit=1)
    assert strips.names == ("a",)
    assert not strips.skipped


def test_names_that_are_no_utf8_are_left_out_and_can_be_printed(comics):
    wrong = os.fsdecode(b"caf\xe9")
    try:
        write_comic(comics / wrong, ["red", "red"])
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    panel("red").save(comics / "page.png")
    panel("red").save(comics / f"{wrong}.png")
    (comics / wrong / "1_1.png").write_bytes((comics / wrong / "p1.png").read_bytes())
    (comics / wrong / "1_2.png").write_bytes((comics / wrong / "p1.png").read_bytes())
    (comics / "a" / "1_1.png").write_bytes((comics / "a" / "p1.png").read_bytes())
    (comics / "a" / "1_2.png").write_bytes((comics / "a" / "p1.png").read_bytes())
    read = [
        data.read_strips(comics), data.read_pages(comics, 2), data.read_comics(comics, seed=0, panels=2, edge_pages=0),
    ]  # fmt: skip
    for pictures, names, left_out in zip(
        read, [("a", "b"), ("page",), ("a/1_1",)], ["caf\\xe9", "caf\\xe9", "caf\\xe9/1_1"], strict=True
    ):
        assert pictures.names == names
        assert pictures.left_out["a name is not UTF-8"] == (left_out,)
    (comics / wrong / "sub").mkdir()
    write_comic(comics / wrong / "sub" / "c", ["red", "red"])
    assert str(data.read_strips(comics / wrong / "sub")).endswith("caf\\xe9/sub")


def test_a_caption_that_is_a_link_out_of_the_folder_is_refused(comics, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "secret.txt").write_text("a password")
    write_comic(elsewhere / "c", ["red", "red"])
    (elsewhere / "c" / "p1.txt").write_text("a caption")
    (comics / "b" / "p2.txt").symlink_to(elsewhere / "secret.txt")
    (comics / "a" / "p2.txt").write_text("beside")
    (comics / "a" / "p1.txt").symlink_to(comics / "a" / "p2.txt")
    (comics / "c").symlink_to(elsewhere / "c")
    strips = data.read_strips(comics)
    assert strips.left_out == {"a caption is a link out of the folder": ("b",)}
    assert strips["a"].captions == {"panel 1": "beside", "panel 2": "beside"}
    assert strips["c"].captions == {"panel 1": "a caption"}  # a folder that the user linked
    (comics / "a" / "p1.txt").unlink()
    (comics / "a" / "p1.txt").symlink_to(comics / "a" / "p1.txt")
    assert data.read_strips(comics).left_out["a caption cannot be read"] == ("a",)


def test_captions_go_with_their_comic(comics):
    strips = data.read_strips(comics, captions={"a": ["light", "dark"]})
    assert strips["a"].captions == {"panel 1": "light", "panel 2": "dark"}
    assert strips["b"].captions == {}
    with pytest.raises(InputError, match="3 captions were given for 2 panels"):
        data.read_strips(comics, captions={"a": ["x"] * 3})["a"]


def test_captions_lie_beside_their_panels(comics):
    (comics / "a" / "p1.txt").write_text("\ufeffTwo\n men  talk.\n", encoding="utf-8")
    (comics / "b" / "p1.txt").write_text("  \n")
    write_comic(comics / "odd", ["red", "red"])
    (comics / "odd" / "p2.txt").write_bytes("Caf\u00e9".encode("latin-1"))
    strips = data.read_strips(comics)
    assert strips["a"].captions == {"panel 1": "Two men talk."}
    assert strips["b"].captions == {}
    assert strips.left_out == {"a caption is not UTF-8 text": ("odd",)}
    strips = data.read_strips(comics, captions={"a": ["light", "dark"]})
    assert strips["a"].captions == {"panel 1": "light", "panel 2": "dark"}


def test_photographs_are_upright_and_other_modes_become_rgb(tmp_path):
    (tmp_path / "c").mkdir()
    turned = Image.new("RGB", (64, 32), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # 64 x 32 stored, 32 x 64 upright
    turned.save(tmp_path / "c" / "p1.jpg", exif=exif)
    Image.new("RGBA", (64, 64), (0, 0, 255, 255)).save(tmp_path / "c" / "p2.png")
    Image.new("CMYK", (64, 64), (0, 0, 0, 255)).save(tmp_path / "c" / "p3.jpg")
    (strip,) = data.read_strips(tmp_path)
    assert [box.x1 - box.x0 for box in strip.regions.values()] == [128, 256, 256]
    assert strip.image.mode == "RGB"
    assert (colour_in(strip, "panel 2") == (0, 0, 255)).all()


# The sequence


def test_pictures_are_read_on_access(comics):
    strips = data.read_strips(comics)
    (comics / "b" / "p3.png").unlink()
    assert len(strips) == 2
    assert strips[0].regions.keys() == {"panel 1", "panel 2"}
    with pytest.raises(ImageError, match="Picture 'b' of .*There is no image file"):
        strips[-1]
    with pytest.raises(InputError, match="There is no picture 'c'"):
        strips["c"]
    with pytest.raises(IndexError):
        strips[2]


def test_slices_are_lazy_and_items_have_names(comics):
    strips = data.read_strips(comics)
    assert isinstance(strips[1:], data.Pictures)
    assert strips[1:].names == ("b",)
    assert [name for name, _ in strips.items()] == ["a", "b"]
    assert strips[:1][0].image.tobytes() == strips["a"].image.tobytes()


def test_check_leaves_out_pictures_that_cannot_be_read(comics):
    cut_short(comics / "a" / "p3.jpg")
    strips = data.read_strips(comics)
    assert strips.names == ("a", "b")
    checked = strips.check()
    assert checked.names == ("b",)
    assert checked.skipped == {"an image cannot be read": 1}
    assert checked.left_out == {"an image cannot be read": ("a",)}
    with pytest.raises(InputError, match=r"There are no pictures.*an image cannot be read \(1\)"):
        strips[:1].check()


def test_scores_are_those_of_a_list_of_the_same_pictures(tmp_path, tiny_model):
    for index, strip in enumerate(gl.comics.synthetic(3, seed=7, panels=3)):
        strip.image.save(tmp_path / f"{index}.png")
    pages = data.read_pages(tmp_path, 3)
    lazy = gl.score_heads(tiny_model, pages, batch_size=2, progress=False)
    eager = gl.score_heads(tiny_model, list(pages), batch_size=2, progress=False)
    assert (lazy.samples == eager.samples).all()


# The raw COMICS layout


@pytest.fixture
def corpus(tmp_path):
    """Comics 0 to 3 of 14 pages of 8 panels, and one with short pages; the page is in red, the panel in green."""
    for comic in range(4):
        (tmp_path / str(comic)).mkdir()
        for page in range(14):
            for number in range(8):
                panel((page * 10, number * 20, 0), 32, 32).save(tmp_path / str(comic) / f"{page}_{number}.png")
    (tmp_path / "short").mkdir()
    for number in (0, 1, 2, 4, 5, 6):  # six panels, but not in a row
        panel("red").save(tmp_path / "short" / f"0_{number}.png")
    return tmp_path


def test_windows_are_consecutive_panels_of_one_inner_page(corpus):
    strips = data.read_comics(corpus, seed=1, per_comic=3)
    assert len(strips) == 12
    assert strips.skipped == {"no page with 6 consecutive panels": 1}
    assert {name.split("/")[0] for name in strips.names} == set("0123")
    assert len({name.rsplit("_", 1)[0] for name in strips.names}) == 12  # each from another page
    for name, strip in strips.items():
        page, first = map(int, name.split("/")[1].split("_"))
        assert 5 <= page <= 8
        for k, region in enumerate(strip.regions):
            assert (colour_in(strip, region) == (page * 10, (first + k) * 20, 0)).all()


def test_windows_are_the_same_for_the_same_seed(corpus):
    names = data.read_comics(corpus, seed=3).names
    assert data.read_comics(corpus, seed=3).names == names
    assert data.read_comics(corpus, seed=3, limit=2).names == names[:2]
    assert any(data.read_comics(corpus, seed=seed).names != names for seed in range(4, 8))
    (corpus / "new").mkdir()
    assert set(data.read_comics(corpus, seed=3).names) == set(names)


def test_another_window_takes_the_place_of_one_with_a_bad_panel(corpus):
    (name,) = (name for name in data.read_comics(corpus, seed=0).names if name.startswith("2/"))
    (corpus / f"{name}.png").write_text("not an image")
    strips = data.read_comics(corpus, seed=0)
    assert strips.left_out["an image cannot be read"] == (name,)
    assert sum(other.startswith("2/") for other in strips.names) == 1


def test_every_inner_page_and_window_is_drawn(corpus):
    names = {name for seed in range(40) for name in data.read_comics(corpus / ".", seed=seed, edge_pages=6).names}
    assert {name.split("/")[1] for name in names} == {f"{page}_{first}" for page in (6, 7) for first in (0, 1, 2)}


# Single images


def test_pages_are_cut_into_equal_columns_or_cells(tmp_path):
    panel("red", 600, 100).save(tmp_path / "page.png")
    strip = data.read_pages(tmp_path, 6)["page"]
    assert [box.x1 - box.x0 for box in strip.regions.values()] == [100] * 6
    assert strip.image.size == (600, 100)
    grid = data.read_page(tmp_path / "page.png", (2, 3), captions=list("abcdef"))
    assert grid.regions["panel 3"] == Box(400, 0, 600, 50)
    assert grid.regions["panel 4"] == Box(0, 50, 200, 100)
    assert grid.captions["panel 6"] == "f"


def test_borders_and_boxes_can_be_given(tmp_path):
    image = panel("red", 300, 200)
    grid = data.read_page(image, data.borders(x=[100, 250], y=[50]))
    assert grid.regions["panel 2"] == Box(100, 0, 250, 50)
    assert grid.regions["panel 6"] == Box(250, 50, 300, 200)
    boxes = data.read_page(image, [(0, 0, 100, 200), Box(100, 0, 300, 200)])
    assert list(boxes.regions.values()) == [Box(0, 0, 100, 200), Box(100, 0, 300, 200)]
    for x in ([300], [100, 100], [-1], [200, 100]):
        with pytest.raises(RegionError, match="ascending numbers"):
            data.read_page(image, data.borders(x=x))


def test_every_page_can_have_its_own_panels(tmp_path):
    for name in ("a", "b", "c"):
        panel("red", 300, 200).save(tmp_path / f"{name}.png")
    pages = data.read_pages(tmp_path, {"a": 3, "b": data.borders(x=[120])})
    assert [len(page.regions) for page in pages] == [3, 2]
    assert pages.skipped == {"no panels were given": 1}


def drawn_page(shape, *, gutter, colour, seed, margin=0):
    """A page of noisy panels of different sizes, and the middles of its gutters: (image, x, y)."""
    random = np.random.default_rng(seed)
    widths, heights = (random.integers(60, 140, size=count) for count in (shape[1], shape[0]))
    size = [int(sides.sum() + gutter * (len(sides) - 1) + 2 * margin) for sides in (heights, widths)]
    page = np.full((*size, 3), colour, np.uint8)
    tops = margin + np.concatenate([[0], np.cumsum(heights + gutter)[:-1]])
    lefts = margin + np.concatenate([[0], np.cumsum(widths + gutter)[:-1]])
    for top, height in zip(tops, heights, strict=True):
        for left, width in zip(lefts, widths, strict=True):
            page[top : top + height, left : left + width] = random.integers(40, 215, (height, width, 3))
    return Image.fromarray(page), lefts[1:] - gutter / 2, tops[1:] - gutter / 2


@pytest.mark.parametrize("colour", [255, 0])
@pytest.mark.parametrize("margin", [0, 20])
@pytest.mark.parametrize("shape", [(1, 6), (2, 3), (3, 3)])
def test_gutters_are_found_where_they_were_drawn(tmp_path, shape, colour, margin):
    image, x, y = drawn_page(shape, gutter=8, colour=colour, seed=shape[1], margin=margin)
    image.save(tmp_path / "page.jpg", quality=90)
    page = data.read_page(tmp_path / "page.jpg", data.gutters(shape))
    boxes = np.array([(box.x0, box.y0, box.x1, box.y1) for box in page.regions.values()]).reshape(*shape, 4)
    assert np.abs(boxes[:, 1:, 0] - x).max() <= 1
    assert np.abs(boxes[1:, :, 1] - y[:, None]).max(initial=0) <= 1
    assert np.abs(boxes[..., [0, 1]].min((0, 1)) - margin).max() <= 1
    assert np.abs(boxes[..., [2, 3]].max((0, 1)) - (np.array(image.size) - margin)).max() <= 1


def test_gutters_of_a_composed_strip_are_its_borders():
    noise = [np.random.default_rng(k).integers(40, 215, (64, 50 + 20 * k, 3), dtype=np.uint8) for k in range(4)]
    strip = gl.comics.strip(noise, height=64)
    assert data.read_page(strip.image, data.gutters(4)).regions == strip.regions


def test_other_numbers_of_panels_than_asked_for_are_refused(tmp_path):
    image, _, _ = drawn_page((2, 3), gutter=8, colour=255, seed=0)
    image.save(tmp_path / "page.png")
    drawn_page((1, 6), gutter=8, colour=255, seed=0)[0].save(tmp_path / "strip.png")
    assert [len(row) for row in data.find_panels(image)] == [3, 3]
    with pytest.raises(RegionError, match=r"around 6 panels \(by row: \[3, 3\]\); asked for was \(1, 6\)"):
        data.read_page(image, data.gutters((1, 6)))
    pages = data.read_pages(tmp_path, data.gutters((1, 6)))
    checked = pages.check()
    assert checked.names == ("strip",)
    assert checked.left_out == {"panels or regions do not fit the image": ("page",)}
    assert data.find_panels(panel("white")) == []


def test_gutters_may_have_the_colour_of_the_paper():
    image, _, _ = drawn_page((1, 3), gutter=8, colour=(226, 210, 170), seed=2)
    assert [len(row) for row in data.find_panels(image)] == [1]
    assert [len(row) for row in data.find_panels(image, colours=[(226, 210, 170)], tolerance=10)] == [3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: data.read_strips(path / "nowhere"), "There is no folder"),
        (lambda path: data.read_strips(path), "no pictures.*for panels in one image see read_pages"),
        (lambda path: data.read_pages(path, 6), "no pictures.*expected images of several panels"),
        (lambda path: data.read_comics(path, seed=0), "no pictures.*6 panels or more on a page"),
        (lambda path: data.read_comics(path, seed=0, panels=1), "panels=1"),
        (lambda path: data.read_comics(path, seed=0, limit=-1), "limit=-1"),
        (lambda path: data.read_strips(path, limit=0), "limit=0"),
        (lambda path: data.read_page(path / "no.png", 6), "There is no image file"),
        (lambda path: data.read_page(panel("red", 3, 3), 6), "too narrow for 1 x 6 panels"),
        (lambda path: data.read_page(panel("red"), 1), "two or more"),
        (lambda path: data.read_page(panel("red"), [(0, 0, 9, 9)]), "two or more"),
        (lambda path: data.read_page(panel("red"), [(0, 0, 9, 9), (90, 0, 99, 9)]), "lies outside the image"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, make, message):
    with pytest.raises(GazeLensError, match=message):
        make(tmp_path)


# Data sets through `datasets`


@pytest.fixture
def public(tmp_path, monkeypatch):
    """Three rows in the format of the paper's data set, in a folder with one Parquet file."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    greys = [[40 * row + 5 * k for k in range(6)] for row in range(3)]
    columns = {"comic_id": [7, 8, 8]}
    for k in range(6):
        columns[f"panel_{k + 1}"] = [panel((greys[row][k],) * 3, 64, 64) for row in range(3)]
        columns[f"caption_{k + 1}"] = [f"grey {greys[row][k]}" for row in range(3)]
    kinds = {name: datasets.Image() for name in columns if name.startswith("panel")}
    table = datasets.Dataset.from_dict(columns)
    table = table.cast(datasets.Features({**table.features, **kinds}))
    (tmp_path / "strips" / "data").mkdir(parents=True)
    table.to_parquet(tmp_path / "strips" / "data" / "train-00000-of-00001.parquet")
    return tmp_path / "strips", table


def test_a_caption_that_is_missing_is_none(public):
    _, table = public
    missing = table.to_dict() | {"caption_2": ["", None, "x"]}
    strips = data.read_dataset(type(table).from_dict(missing, features=table.features))
    assert ["panel 2" in strip.captions for strip in strips] == [False, False, True]


def test_the_public_layout_is_read_from_parquet(public):
    folder, table = public
    strips = data.read_dataset(folder)
    assert strips.names == ("7", "8", "8 (row 2)")
    assert not strips.skipped
    for row, strip in enumerate(strips):
        assert list(strip.captions.values()) == [table[row][f"caption_{k}"] for k in range(1, 7)]
        assert [colour_in(strip, name)[0] for name in strip.regions] == [40 * row + 5 * k for k in range(6)]
    assert data.read_dataset(folder, limit=1).names == ("7",)


def test_a_saved_data_set_and_one_in_memory_give_the_same(public, tmp_path):
    import datasets

    folder, table = public
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=table).save_to_disk(tmp_path / "splits")
    expected = data.read_dataset(folder)[2].image.tobytes()
    for source in (tmp_path / "saved", tmp_path / "splits", table, datasets.DatasetDict(train=table)):
        assert data.read_dataset(source)[2].image.tobytes() == expected
    shuffled = table.select([2, 0])
    assert data.read_dataset(shuffled)[0].image.tobytes() == expected
    with pytest.raises(InputError, match="no split 'test'; it has train"):
        data.read_dataset(tmp_path / "splits", split="test")


def test_columns_pages_and_captions_can_be_named(public):
    _, table = public
    pair = data.read_dataset(table, columns=["panel_6", "panel_1"], captions=["caption_6", "caption_1"])
    assert pair[0].captions == {"panel 1": "grey 25", "panel 2": "grey 0"}
    assert not data.read_dataset(table, columns=["panel_6", "panel_1"])[0].captions
    page = data.read_dataset(table, columns="panel_2", panels=(2, 2), names="caption_1")
    assert page.names[0] == "grey 0"
    assert page[0].regions["panel 4"] == Box(32, 32, 64, 64)


def test_rows_with_missing_or_damaged_images_are_left_out(tmp_path):
    import datasets

    panel("red").save(tmp_path / "whole.png")
    cut_short(tmp_path / "cut.jpg")
    whole, cut = ((tmp_path / name).read_bytes() for name in ("whole.png", "cut.jpg"))
    table = datasets.Dataset.from_dict({"panel_1": [whole, whole, cut], "panel_2": [whole, None, whole]})
    strips = data.read_dataset(table)
    assert strips.names == ("0", "2")
    assert strips.left_out == {"an image is missing": ("1",)}
    assert strips.check().skipped == {"an image is missing": 1, "an image cannot be read": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["panel_1", "panel_9"]}, "no column panel_9; it has comic_id"),
        ({"columns": "panel_1"}, "one column of whole pages and panels="),
        ({"panels": 3}, "one column of whole pages and panels="),
        ({"columns": ["comic_id", "panel_1"]}, "Column comic_id holds"),
        ({"names": "title"}, "no column title"),
    ],
)
def test_columns_that_do_not_fit_are_refused(public, options, message):
    with pytest.raises(InputError, match=message):
        data.read_dataset(public[1], **options)


OFFLINE = """
import gaze_lens as gl
try:
    gl.data.read_dataset()
except gl.GazeLensError as error:
    print(error)
"""


def test_without_a_network_the_error_has_the_command_that_downloads(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    command = "hf download baulab/openai-comic-strips --repo-type dataset --local-dir openai-comic-strips"
    assert command in done.stdout
    assert "read_dataset('openai-comic-strips')" in done.stdout
