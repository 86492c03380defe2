"""Reads images from any source as upright RGB pictures.

read_image("page.jpg"); read_image(Image.open("page.jpg")); read_image(array)
read_size("page.jpg")         # (width, height), from the header alone
"""

import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gaze_lens.errors import ImageError

# What Pillow raises on damaged data; the last two in EXIF.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError)
LARGE = (Image.DecompressionBombError, MemoryError)  # what Pillow raises on very large images
ORIENTATION = 0x0112  # the EXIF tag
TURNED, EXCHANGED = (2, 3, 4, 5, 6, 7, 8), (5, 6, 7, 8)  # values that change the image, and exchange width and height
Read = TypeVar("Read")


def read_image(source: Any) -> Image.Image:
    """An RGB image with its EXIF orientation applied, from a path, the bytes of a file, a PIL image or an array.

    Arrays are `[height, width]`, `[height, width, 1]` or `[height, width, 3]`; integers 0-255 or floats 0-1.
    Transparency is dropped; 16-bit grey is scaled to 8 bits.
    Raises ImageError for a source that cannot be read, for NaN, and for arrays of another shape or range.
    """
    if isinstance(source, Image.Image):
        try:
            return _upright(source)
        except BROKEN as error:
            raise ImageError(f"The PIL image is damaged or cut short ({error}); save its file again.") from error
    if isinstance(source, str | Path):
        return _open(source, _upright)
    if isinstance(source, bytes):
        return _open(BytesIO(source), _upright)
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source))
    raise ImageError(
        f"Cannot read an image from {type(source).__name__}; give a path, a PIL image or an array (several as a list)."
    )


def read_size(source: str | Path) -> tuple[int, int]:
    """(width, height) in pixels of the image that `read_image` returns for a file; reads only the header.

    Raises ImageError for a file that is not an image. A file that is cut short after its header is not detected.
    """
    return _open(source, _upright_size)


def is_upright(image: Image.Image) -> bool:
    """Whether an image has no EXIF orientation that is yet to be applied; values that EXIF does not know are none."""
    return image.getexif().get(ORIENTATION, 1) not in TURNED


def _open(source: str | Path | BytesIO, read: Callable[[Image.Image], Read]) -> Read:
    path = f"of {source.getbuffer().nbytes} bytes" if isinstance(source, BytesIO) else Path(source)
    if str(source).startswith(("http:", "https:", "data:")):
        raise ImageError(f"{str(source)[:80]} is a web address; download the image and give the path of the file.")
    try:
        with Image.open(source) as image:
            return read(image)
    except FileNotFoundError as error:
        raise ImageError(f"There is no image file {path}; give the path of a PNG or JPEG file.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{path} cannot be opened ({error.strerror}); give the path of a PNG or JPEG file.") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"The file {path} is not an image that Pillow can read; give a PNG or JPEG file.") from error
    except LARGE as error:
        raise ImageError(f"The image file {path} is too large to open ({error}); make it smaller.") from error
    except BROKEN as error:
        raise ImageError(f"The image file {path} is damaged or cut short ({error}); save it again.") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    _check_frames(image)
    if image.format == "PNG" and "exif" not in image.info:  # `getexif` would read all pixels to search for it
        return image.size
    exchanged = image.getexif().get(ORIENTATION, 1) in EXCHANGED
    return (image.height, image.width) if exchanged else image.size


def _check_frames(image: Image.Image) -> None:
    if 0 in image.size:
        raise ImageError(f"An image of {image.width} x {image.height} pixels was given; it needs one pixel or more.")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # an MPO is a photograph and its previews
        raise ImageError(
            f"An image file with {getattr(image, 'n_frames', 'several')} frames was given; gaze_lens takes single "
            "pictures. Choose a frame: image.seek(n), then image.convert('RGB')."
        )


def _upright(image: Image.Image) -> Image.Image:
    _check_frames(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("F", "I"):
        return _from_array(np.asarray(upright))
    if upright.mode.startswith("I;16"):  # Pillow's own conversion clips values above 255
        return _from_array(np.asarray(upright) / 65535)
    return upright.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"An image array of shape {array.shape} was given; expected [height, width], [height, width, 1] or "
            "[height, width, 3]. Move the colours to the last axis, and leave out transparency."
        )
    if array.dtype.kind not in "buif":
        raise ImageError(f"An image array of type {array.dtype} was given; expected integers 0-255 or floats 0-1.")
    if not np.isfinite(array).all():
        raise ImageError("The image array holds NaN or infinity; clean it before you give it to the model.")
    scale = 255 if array.dtype.kind in "bf" else 1
    if array.min() < 0 or array.max() * scale > 255:
        raise ImageError(
            f"The image array holds values from {array.min()} to {array.max()}; expected integers from 0 to 255 or "
            "floats from 0 to 1. Scale it, or give it another type: array.astype('uint8')."
        )
    return Image.fromarray((array * scale).round().astype(np.uint8)).convert("RGB")
