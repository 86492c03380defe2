"""COCO's instances_*.json: which objects become regions, with which shapes, and what is left out."""

import json

import numpy as np
import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens.data.coco_objects import decode_mask
from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.regions.shapes import Box, Mask, Polygon, Union

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "bench"}, {"id": 5, "name": "cat"}]
SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


class Coco:
    """A data set in a folder, to which images and objects are added."""

    def __init__(self, folder):
        self.folder, self.images, self.annotations = folder, [], []
        (folder / "images").mkdir()

    def image(self, name="a.jpg", size=(100, 80), **options):
        Image.new("RGB", size, "red").save(self.folder / "images" / name, **options)
        self.images.append({"id": len(self.images) + 1, "file_name": name, "width": size[0], "height": size[1]})

    def object(self, category=1, bbox=(10, 10, 20, 20), image=None, **more):
        record = {
            "id": len(self.annotations) + 1, "image_id": image or len(self.images), "category_id": category,
            "bbox": bbox, "area": None, "segmentation": SQUARE, "iscrowd": 0,
        }  # fmt: skip
        if isinstance(bbox, tuple):
            record |= {"bbox": list(bbox), "area": float(np.prod(bbox[2:]))}
        self.annotations.append(record | more)

    def read(self, **options):
        content = {"images": self.images, "annotations": self.annotations, "categories": CATEGORIES}
        path = self.folder / "instances.json"
        path.write_text(json.dumps(content))
        return gl.data.read_coco(path, self.folder / "images", **options)


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path)


def test_objects_are_named_by_category_and_numbered(coco):
    coco.image("000001.jpg")
    for category in (1, 2, 1, 1):
        coco.object(category, bbox=(10 * category, 0, 20, 30))
    coco.image("empty.jpg")
    photos = coco.read()
    assert photos.names == ("000001",)
    assert list(photos[0].regions) == ["dog", "bench", "dog 2", "dog 3"]
    assert photos[0].regions["bench"] == Box(20, 0, 40, 30)
    assert photos[0].captions == {"dog": "dog", "bench": "bench", "dog 2": "dog", "dog 3": "dog"}
    assert photos.skipped == {"an image has fewer or more objects than asked for": 1}


def test_boxes_are_clipped_to_the_image_and_useless_ones_are_counted(coco):
    coco.image()
    coco.object(1, bbox=(90, -5, 30, 20))
    coco.object(1, bbox=(10, 10, 0, 20))
    coco.object(1, bbox=(10, 10, 5, -1))
    coco.object(1, bbox=(100, 10, 5, 5))
    coco.object(99)
    coco.object(2, image=77)
    coco.object(2, bbox=None)
    photos = coco.read()
    assert photos[0].regions == {"dog": Box(90, 0, 100, 15)}
    assert photos.skipped == {
        "an object belongs to no image": 1,
        "an object has no area": 3,
        "an object lies outside of its image": 1,
        "an object has no known category": 1,
    }
    assert photos.left_out["an object lies outside of its image"] == ("a: annotation 4",)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"both": ["dog", "bench", "bench 2"], "one": ["cat"]}),
        ({"crowds": True}, {"both": ["dog", "bench", "bench 2"], "one": ["cat", "dog"]}),
        ({"unique": True}, {"both": ["dog"], "one": ["cat"]}),
        ({"min_area": 900}, {"both": ["dog", "bench"], "one": ["cat"]}),
        ({"min_area": 1000, "unique": True}, {"both": ["dog"]}),  # the small bench counts as a second one
        ({"n_objects": (2, 3)}, {"both": ["dog", "bench", "bench 2"]}),
        ({"n_objects": (1, 2)}, {"one": ["cat"]}),
        ({"categories": ["cat", "bench"]}, {"both": ["bench", "bench 2"], "one": ["cat"]}),
        ({"limit": 1}, {"both": ["dog", "bench", "bench 2"]}),
    ],
)
def test_objects_can_be_chosen(coco, options, expected):
    coco.image("both.jpg")
    coco.object(1, bbox=(0, 0, 50, 50))
    coco.object(2, bbox=(0, 0, 40, 40))
    coco.object(2, bbox=(50, 50, 2, 2))
    coco.image("one.jpg")
    coco.object(5, bbox=(0, 0, 30, 30))
    coco.object(1, bbox=(0, 0, 30, 30), iscrowd=1)
    assert {name: list(photo.regions) for name, photo in coco.read(**options).items()} == expected


def test_objects_that_were_left_out_are_counted(coco):
    coco.image()
    coco.object(1)
    coco.object(2, bbox=(0, 0, 2, 2))
    coco.object(2, iscrowd=1)
    coco.object(5)
    coco.object(5)
    photos = coco.read(unique=True, min_area=10)
    assert photos.skipped == {"an object is not the only one of its category": 3, "an object is a crowd": 1}
    assert coco.read(min_area=10).skipped == {"an object is smaller than min_area": 1, "an object is a crowd": 1}
    assert "an object is a crowd (1)" in repr(photos)


def test_area_is_the_annotations_own(coco):
    coco.image()
    coco.object(1, bbox=(0, 0, 20, 20), area=10.0)
    coco.object(2, bbox=(0, 0, 20, 20))
    assert list(coco.read(min_area=50)[0].regions) == ["bench"]


def test_boxes_have_a_smallest_area_of_their_own(coco):
    coco.image()
    coco.object(1, bbox=(0, 0, 20, 20), area=10.0)
    coco.object(2, bbox=(0, 0, 10, 20), area=150.0)
    photos = coco.read(min_box=400)
    assert list(photos[0].regions) == ["dog"]
    assert photos.skipped == {"an object has a box smaller than min_box": 1}


def test_without_an_area_that_of_the_box_counts_and_files_of_one_stem_get_different_names(coco):
    for name in ("a.png", "a.jpg"):
        coco.image(name)
        coco.object(1, bbox=(0, 0, 5, 5), area=None)
        coco.object(2, bbox=(0, 0, 20, 20), area=None)
    photos = coco.read(min_area=50)
    assert photos.names == ("a", "a (2)")
    assert all(list(photo.regions) == ["bench"] for photo in photos)


def test_seeds_shuffle_images_and_a_smaller_limit_gives_the_first_of_them(coco):
    for index in range(12):
        coco.image(f"{index}.png")
        coco.object()
    names = [f"{index}" for index in range(12)]
    assert list(coco.read().names) == names
    drawn = coco.read(seed=4).names
    assert sorted(drawn) == sorted(names)
    assert drawn != tuple(names)
    assert coco.read(seed=4, limit=5).names == drawn[:5]
    assert coco.read(seed=5).names != drawn


def test_images_that_do_not_fit_are_counted(coco):
    for name in ("good.jpg", "gone.jpg", "text.jpg", "other.jpg"):
        coco.image(name)
        coco.object()
    coco.images[3]["width"] = 99
    (coco.folder / "images" / "gone.jpg").unlink()
    (coco.folder / "images" / "text.jpg").write_text("not an image")
    photos = coco.read()
    assert photos.names == ("good",)
    assert photos.skipped == {
        "an image is missing": 1,
        "an image cannot be read": 1,
        "an image is not as large as the annotations say": 1,
    }


def test_a_rotated_photograph_is_upright(coco):
    exif = Image.Exif()
    exif[0x0112] = 6  # 100 x 80 stored, 80 x 100 upright
    coco.image("stored.jpg", exif=exif)
    coco.object(1)
    coco.image("seen.jpg", exif=exif)
    coco.images[1] |= {"width": 80, "height": 100}
    coco.object(1, bbox=(0, 90, 10, 10))
    photos = coco.read()
    assert photos.left_out == {"an image is not as large as the annotations say": ("stored",)}
    assert photos["seen"].image.size == (80, 100)


def test_an_image_that_changed_since_is_refused_when_it_is_read(coco):
    coco.image("a.png")
    coco.object()
    photos = coco.read()
    Image.new("L", (50, 50)).save(coco.folder / "images" / "a.png")
    with pytest.raises(ImageError, match=r"has \(50, 50\) pixels; the annotations are for \(100, 80\)"):
        photos[0]


# Masks


def test_polygons_become_polygons_and_several_parts_a_union(coco):
    coco.image()
    coco.object(1)
    coco.object(2, segmentation=[*SQUARE, [50, 50, 60, 50, 60, 60]])
    coco.object(5, segmentation=[[1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [0, 0, 9, 0, 9, 9, 0]])
    photos = coco.read(masks=True)
    dog, bench = photos[0].regions.values()
    assert dog == Polygon([(10, 10), (30, 10), (30, 30), (10, 30)])
    assert bench == Union([dog, Polygon([(50, 50), (60, 50), (60, 60)])])
    assert photos.skipped == {"an object has no outline": 1}


def draw(size, seed):
    """A mask with a few blocks, one of which touches the first pixel where `seed` is even."""
    random = np.random.default_rng(seed)
    mask = np.zeros(size, bool)
    for top, left in random.integers(0, min(size) - 3, (4, 2)):
        mask[top : top + 5, left : left + 3] = True
    mask[0, 0] = seed % 2 == 0
    return mask


def runs(mask):
    """COCO's uncompressed counts, computed pixel by pixel, column by column."""
    counts, value = [0], False
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != value:
                counts.append(0)
                value = not value
            counts[-1] += 1
    return counts


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_decoded_as_pycocotools_does(seed):
    pycocotools = pytest.importorskip("pycocotools.mask")
    mask = draw((17, 23), seed)
    plain = {"size": [17, 23], "counts": runs(mask)}
    packed = pycocotools.frPyObjects(plain, 17, 23)
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    for encoded in (plain, packed, text):
        assert (decode_mask(encoded) == mask).all()


def test_run_length_masks_become_masks(coco):
    pycocotools = pytest.importorskip("pycocotools.mask")
    coco.image()
    mask = draw((80, 100), 0)
    packed = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
    coco.object(1, segmentation={"size": [80, 100], "counts": runs(mask)}, iscrowd=1)
    coco.object(2, segmentation={"size": [80, 100], "counts": packed["counts"].decode()})
    coco.object(5, segmentation={"size": [100, 80], "counts": runs(mask)})
    photos = coco.read(masks=True, crowds=True)
    for name in ("dog", "bench"):
        assert isinstance(photos[0].regions[name], Mask)
        assert (photos[0].regions[name].array == mask).all()
    assert photos.skipped == {"an object has no mask of its image's size": 1}


DAMAGED = {  # counts of a mask of 80 x 100 pixels
    "too long": [10, 10, 7981],
    "overflow": [2**62] * 4 + [8000],
    "negative": [-10, 10, 8000],
    "fractions": [10.5, 7989.5],
    "true": [True, 7999],
    "text": ["10", 7990],
    "nested": [[10], 7990],
    "a number": 8000,
    "an object": {"10": 7990},
    "too short text": "abc",
    "unfinished text": "abcn",
    "other characters": "a b\u20ac",
    "endless number": "o" * 1000,
    "nothing": None,
}


@pytest.mark.parametrize("counts", DAMAGED.values(), ids=DAMAGED)
def test_damaged_masks_are_left_out_and_the_others_read(coco, counts):
    coco.image("a.png")
    coco.object(1, segmentation={"size": [80, 100], "counts": counts})
    coco.object(2, segmentation={"size": [80, 100], "counts": [10, 10, 7980]})
    coco.object(5, segmentation={"size": [80, 100], "counts": [8000]})
    photos = coco.read(masks=True)
    assert list(photos[0].regions) == ["bench"]
    assert photos[0].regions["bench"].array.sum() == 10
    assert photos.skipped == {"an object has a damaged mask": 1, "an object has a mask without pixels": 1}
    with pytest.raises(RegionError, match="expected 80 x 100. The annotation is damaged"):
        decode_mask({"size": [80, 100], "counts": counts})


def test_random_text_as_a_mask_is_read_as_pycocotools_would_or_refused():
    """pycocotools itself may end the process on such text, so it decodes only what was found to be sound."""
    pycocotools = pytest.importorskip("pycocotools.mask")
    random, sound = np.random.default_rng(0), 0
    for _ in range(20_000):
        text = "".join(map(chr, random.integers(48, 60, random.integers(1, 5))))
        try:
            mask = decode_mask({"size": [3, 4], "counts": text})
        except RegionError:
            continue
        sound += 1
        assert (pycocotools.decode({"size": [3, 4], "counts": text}) == mask).all(), text
    assert sound > 50


# Records of other types

WRONG_OBJECTS = {
    "id": [{"id": value} for value in ([1], None, {"a": 1}, 1.5, True)],
    "image_id": [{"image_id": value} for value in ([1], None, {}, 1.0, True, "1")],
    "category_id": [{"category_id": value} for value in ([1], {}, None, 1.0, True, "1", 77)],
    "box": [{"bbox": value} for value in (7, "0123", {}, [1, 2, 3], ["1", 2, 3, 4], [1, 2, [3], 4], [1, 2, None, 4],
            [1, 2, 10**400, 4], [float("nan"), 1, 2, 3], [1, 2, float("inf"), 4], [True, 0, 9, 9], None, [])],
    "area": [{"area": value} for value in ("big", [1], {}, float("nan"), 10**400, True)],
    "iscrowd": [{"iscrowd": value} for value in ("0", [0], 2, {})],
    "segmentation": [{"segmentation": value} for value in (
                     7, "x", [7], ["0 0 9 0 9 9"], [["0", "0", "9", "0", "9", "9"]],
                     [[0, 0, 9, 0, 9, None]], [[0, 0, 10**400, 0, 9, 9]], [[0, 0, 1e308, 0, 9, -1e308]],
                     [[[0, 0], [9, 0]]],
                     None, {}, {"size": "ab", "counts": [8000]}, {"size": [80], "counts": [8000]},
                     [[200, 200, 300, 200, 300, 300]])],
}  # fmt: skip


@pytest.mark.parametrize(
    "change", [change for of_key in WRONG_OBJECTS.values() for change in of_key], ids=lambda change: repr(change)[:50]
)
def test_one_bad_annotation_is_left_out_and_counted(coco, change):
    coco.image("a.png")
    coco.object(1, **change)
    coco.object(2)
    photos = coco.read(masks=True)
    assert list(photos[0].regions) == ["bench"]
    assert sum(photos.skipped.values()) == 1


def test_annotations_that_are_no_objects_are_left_out(coco):
    coco.image("a.png")
    coco.object(2)
    coco.annotations += [7, None, [1], "x", {}, {"id": 3}]
    assert coco.read().skipped == {"an object has no id": 5, "an object has a damaged image_id or category_id": 1}


WRONG_IMAGES = [
    *({"id": value} for value in ([1], None, 1.5, True)),
    *({"file_name": value} for value in (7, None, "", ".", "..", "a\0.png", "\ud800.png", "x" * 5000 + ".png")),
    *({"file_name": value} for value in ("../outside.png", "sub/../../outside.png", "{folder}/outside.png")),
    *({"width": value} for value in ("100", None, 0, -1, float("nan"), [100], 10**400, True)),
]


@pytest.mark.parametrize("change", WRONG_IMAGES, ids=lambda change: repr(change)[:40])
def test_one_bad_image_is_left_out_and_counted(coco, change):
    Image.new("RGB", (100, 80)).save(coco.folder / "outside.png")
    for name in ("a.png", "b.png"):
        coco.image(name)
        coco.object(1)
    change = {key: value.format(folder=coco.folder) if key == "file_name" and isinstance(value, str) else value
              for key, value in change.items()}  # fmt: skip
    coco.images[0] |= change
    photos = coco.read()
    assert photos.names == ("b",)
    assert any(reason.startswith("an image ") for reason in photos.skipped)
    assert sum(count for reason, count in photos.skipped.items() if reason.startswith("an image ")) == 1


def test_ids_that_mean_two_things_are_left_out(coco):
    for name in ("a.png", "b.png", "c.png"):
        coco.image(name)
        coco.object(1)
    coco.object(2)
    coco.images[1]["id"] = 1
    path = coco.folder / "instances.json"
    categories = [*CATEGORIES, {"id": 1, "name": "dog"}, {"id": 2, "name": "table"}, {"id": [5], "name": "x"}]
    path.write_text(json.dumps({"images": coco.images, "annotations": coco.annotations, "categories": categories}))
    photos = gl.data.read_coco(path, coco.folder / "images")
    assert {name: list(photo.regions) for name, photo in photos.items()} == {"c": ["dog"]}
    assert photos.left_out == {
        "a category's id or name is damaged": ("category [5]",),
        "a category has two names": ("category 2",),
        "an image has the id of another": ("image 1", "image 1"),
        "an object belongs to no image": ("annotation 1", "annotation 2"),
        "an object has no known category": ("c: annotation 4",),
    }


# Use, and errors


def test_a_model_takes_the_regions(coco, tiny_model):
    coco.image(size=(192, 96))
    coco.object(1, bbox=(0, 0, 64, 64))
    coco.object(2, bbox=(96, 0, 64, 96))
    (photo,) = coco.read()
    inputs = tiny_model.prepare(photo, gl.comics.OPEN)
    assert not set(inputs.region("dog").positions[0]) & set(inputs.region("bench").positions[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file"),
        ("not json", "is not JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [1]}', "has no list 'images'"),
        ('{"images": [{"id": 1}], "categories": [], "annotations": []}', "'images' whose members all have id, file"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ("[" * 200_000, r"cannot be read \(its lists are nested too deep\)"),
        ('{"images": ' + "1" * 5000 + "}", "is not JSON"),
        ('{"images": [], "categories": [], "annotations": []}', "There are no pictures in"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "instances.json").write_text(content)
    with pytest.raises(InputError, match=message):
        gl.data.read_coco(tmp_path / "instances.json", tmp_path)


def test_unknown_categories_and_folders_are_refused(coco):
    coco.image()
    coco.object()
    with pytest.raises(InputError, match="no category 'dogs'; it has 3, such as dog"):
        coco.read(categories=["dogs"])
    with pytest.raises(InputError, match=r"give a list: \['dog'\]"):
        coco.read(categories="dog")
    with pytest.raises(InputError, match="There is no folder"):
        gl.data.read_coco(coco.folder / "instances.json", coco.folder / "nowhere")
    with pytest.raises(InputError, match=r"no pictures in .*; left out: an object is smaller than min_area \(1\)"):
        coco.read(min_area=10_000)
