"""Pictures that were uploaded or drawn, under keys that cannot be guessed.

images = ImageStore(limits); key = images.add(read_upload(data, limits)); images.get(key)
"""

import secrets
from collections import OrderedDict
from io import BytesIO

from PIL import Image

from gaze_lens.errors import ImageError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import BROKEN, LARGE, read_image
from gaze_lens.serve.limits import Limits, RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def read_upload(data: bytes, limits: Limits) -> Picture:
    """An upright RGB picture from a file's bytes, scaled down to `limits.pixels`; ImageError for anything else.

    The name of the file does not matter. Its size is read from its header before its pixels are decoded.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except LARGE as error:
        raise ImageError(f"The picture is too large to be decoded ({error}); scale it down.") from error
    except BROKEN as error:
        raise ImageError(f"This file is no picture; expected {', '.join(FORMATS)}. Save it as one of these.") from error
    width, height = image.size
    if width * height > limits.source_pixels:
        raise ImageError(
            f"The picture has {width} x {height} pixels; at most {limits.source_pixels:,} in all are taken. Scale it "
            "down or crop it."
        )
    upright = read_image(image)
    shrink = (limits.pixels / (width * height)) ** 0.5
    if shrink < 1:
        width, height = (max(1, int(side * shrink)) for side in upright.size)
        upright = upright.resize((width, height), Image.Resampling.LANCZOS)
    return Picture(upright)


def to_png(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    buffer = BytesIO()
    picture.image.save(buffer, format="PNG")
    return buffer.getvalue()


class ImageStore:
    """The latest pictures. Beyond `limits.pictures`, the one that was not used for longest is forgotten."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pictures: OrderedDict[str, Picture] = OrderedDict()

    def add(self, picture: Picture) -> str:
        """Store a picture; its key."""
        key = secrets.token_urlsafe(16)
        self._pictures[key] = picture
        while len(self._pictures) > self.limits.pictures:
            self._pictures.popitem(last=False)
        return key

    def get(self, key: object) -> Picture:
        """A picture by its key; RequestError (404) where it is not, or no longer, there."""
        if not isinstance(key, str) or key not in self._pictures:
            raise RequestError("This picture is not here any more; load it again.", 404)
        self._pictures.move_to_end(key)
        return self._pictures[key]
