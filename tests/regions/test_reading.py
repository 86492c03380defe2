"""Reading images: an upright RGB picture from every source, and errors that explain what is wrong with a file."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from gaze_lens.errors import ImageError
from gaze_lens.regions.reading import is_upright, read_image, read_size

ORIENTED = {  # EXIF orientation -> what makes the stored pixels upright (EXIF 2.3, section 4.6.4, tag 274)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved_sideways(path, orientation, pixels):
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation_is_applied_once_to_paths_and_pil_images(tmp_path, orientation):
    pixels = noise(7, 5)
    path = saved_sideways(tmp_path / "page.png", orientation, pixels)
    expected = ORIENTED[orientation](pixels)
    from_path, from_pil = read_image(str(path)), read_image(Image.open(path))
    assert np.array_equal(np.asarray(from_path), expected)
    assert np.array_equal(np.asarray(from_pil), expected)
    assert np.array_equal(np.asarray(read_image(from_path)), expected)  # reading an image again does not change it


def test_every_source_gives_the_same_pixels(tmp_path):
    pixels = noise(9, 6)
    path = tmp_path / "page.png"
    Image.fromarray(pixels).save(path)
    for source in (path, str(path), Image.open(path), pixels, torch.from_numpy(pixels), pixels / 255,
                   torch.from_numpy(pixels).double() / 255, pixels.astype(np.int64)):  # fmt: skip
        assert np.array_equal(np.asarray(read_image(source)), pixels)


def test_grey_becomes_rgb_and_sixteen_bits_become_eight(tmp_path):
    grey = noise(9, 6)[:, :, 0]
    deep = grey.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for source in (grey, grey[:, :, None], Image.fromarray(grey), tmp_path / "deep.png"):
        assert np.array_equal(np.asarray(read_image(source)), np.repeat(grey[:, :, None], 3, 2))
    assert np.array_equal(np.asarray(read_image(grey > 127))[:, :, 1], np.where(grey > 127, 255, 0))


def test_palettes_and_transparency_become_rgb():
    pixels = noise(9, 6)
    transparent = Image.fromarray(np.dstack([pixels, np.full((6, 9), 77, np.uint8)]), "RGBA")
    assert np.array_equal(np.asarray(read_image(transparent)), pixels)
    palette = Image.fromarray(pixels // 128 * 255).quantize(8)
    assert read_image(palette).mode == "RGB"


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_truncated_file_names_itself(tmp_path, ending, share):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    Image.fromarray(noise(80, 60)).save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"cut\.{ending} is (damaged or cut short .*save it again|not an image)"):
        read_image(cut)


def test_a_truncated_image_that_is_already_open(tmp_path):
    Image.fromarray(noise(80, 60)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="The PIL image is damaged or cut short.*save its file again"):
        read_image(Image.open(tmp_path / "a.png"))


def test_files_that_are_not_images(tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("notes.png", "empty.png"):
        with pytest.raises(ImageError, match=f"{name} is not an image that Pillow can read; give a PNG or JPEG"):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"There is no image file .*gone\.png"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="cannot be opened.*[Dd]irectory.*give the path of a PNG"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"https://example\.org/a\.png is a web address; download"):
        read_image("https://example.org/a.png")


def test_an_image_too_large_to_open(tmp_path, monkeypatch):
    Image.fromarray(noise(80, 60)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    with pytest.raises(ImageError, match=r"a\.png is too large to open.*make it smaller"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), np.nan), "NaN or infinity; clean it"),
        (np.full((4, 4), np.inf), "NaN or infinity"),
        (np.full((4, 4, 3), -1), "values from -1 to -1; expected integers from 0 to 255"),
        (np.full((4, 4, 3), 256), "values from 256 to 256"),
        (np.full((4, 4, 3), 200.0), "values from 200.0 to 200.0.*floats from 0 to 1.*uint8"),
        (np.zeros((3, 8, 8)), r"shape \(3, 8, 8\) was given; expected \[height, width\].*last axis"),
        (np.zeros((8, 8, 4)), r"shape \(8, 8, 4\).*transparency"),
        (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
        (np.zeros((4, 4), complex), "type complex128 was given"),
        (np.array([["a", "b"]]), "type <U1 was given"),
        (torch.full((4, 4, 3), torch.nan), "NaN or infinity"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), "NaN or infinity"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels was given; it needs one pixel or more"),
        (7, "Cannot read an image from int; give a path, a PIL image or an array"),
        (None, "Cannot read an image from NoneType"),
    ],
)
def test_arrays_and_objects_that_are_not_images(array, message):
    with pytest.raises(ImageError, match=message):
        read_image(array)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", [None, *range(10), 99, 65535])
def test_the_size_from_the_header_is_that_of_the_picture(tmp_path, ending, orientation):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise(80, 60)).save(path, exif=exif)
    assert read_size(path) == read_image(path).size == (80, 60)[:: -1 if orientation in (5, 6, 7, 8) else 1]
    assert is_upright(read_image(path))


def test_damaged_exif_is_an_image_error_or_read():
    """Bytes changed at random in the header: Pillow raises many kinds of error for it."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x829A] = 6, "hello", (1, 2)
    buffer = BytesIO()
    Image.fromarray(noise(24, 32)).save(buffer, format="JPEG", exif=exif)
    random, refused = np.random.default_rng(0), 0
    for _ in range(1500):
        data = bytearray(buffer.getvalue())
        data[random.integers(2, 160)] = random.integers(256)
        data[random.integers(2, 160)] = random.integers(256)
        try:
            read_image(bytes(data))
        except ImageError:
            refused += 1
    assert refused > 50


def test_the_size_is_read_from_the_header_alone(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(80, 60)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert read_size(path) == (80, 60)
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_image(path)
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"notes\.png is not an image"):
        read_size(tmp_path / "notes.png")


def test_the_bytes_of_a_file_are_read_as_the_file_is(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(80, 60)).save(path)
    assert read_image(path.read_bytes()).tobytes() == read_image(path).tobytes()
    with pytest.raises(ImageError, match="of 3 bytes is not an image"):
        read_image(b"abc")
