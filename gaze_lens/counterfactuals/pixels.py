"""Pixels of regions, and the coloured shapes of the synthetic pictures found again in them.

box = box_of(picture, "panel 4")             # (96, 0, 128, 32), for picture.image.crop(box)
mask = inside(picture, "panel 4")            # boolean [height, width]
thing = thing_of(picture, "panel 4", "red ring")
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from gaze_lens.comics.drawing import COLOURS, PALETTE, SHAPES
from gaze_lens.errors import InputError, RegionError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box, Shape, as_shape

Bounds = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels, ends excluded
Pixels = Float[np.ndarray, "height width 3"]
LIGHT = 200, 255  # what every channel of a synthetic ground lies between; gaps are 255, colours have a darker channel
NEAR = 30.0  # levels: how far the tint of a synthetic shape may be from its colour
FAINT = 0.04  # of a pixel: less of it covered by a shape is the grain of the ground


def pixels(picture: Picture) -> Pixels:
    """The picture's pixels, as numbers from 0 to 255."""
    return np.asarray(picture.image, dtype=np.float64)


def image_of(values: Pixels) -> Image.Image:
    """Numbers from 0 to 255, rounded, as an image."""
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def shape_of(picture: Picture, region: Any) -> Shape:
    """A region's name or a shape, as a shape."""
    return picture.region(region) if isinstance(region, str) else as_shape(region)


def inside(picture: Picture, region: Any) -> Bool[np.ndarray, "height width"]:
    """The pixels whose centre lies in a region."""
    width, height = picture.image.size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return shape_of(picture, region).contains(x, y)


def pixels_of(picture: Picture, region: Any) -> Bool[np.ndarray, "height width"]:
    """As `inside`; RegionError where there is none."""
    mask = inside(picture, region)
    if not mask.any():
        width, height = picture.image.size
        raise RegionError(
            f"{region!r} holds no pixel of a picture of {width} x {height} pixels. Give a larger region, in the "
            "picture's own pixels."
        )
    return mask


def box_of(picture: Picture, name: str) -> Bounds:
    """A region's box in whole pixels, cut to the picture; RegionError for another shape than a box."""
    shape = shape_of(picture, name)
    if not isinstance(shape, Box):
        raise RegionError(
            f"Region {name!r} is a {type(shape).__name__}, which cannot be cut out and put elsewhere; expected a Box."
        )
    width, height = picture.image.size
    x0, y0, x1, y1 = (round(side) for side in (shape.x0, shape.y0, shape.x1, shape.y1))
    bounds = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if bounds[0] >= bounds[2] or bounds[1] >= bounds[3]:
        raise RegionError(f"Region {name!r} is less than a pixel wide or high. Give a larger box.")
    return bounds


@dataclass(frozen=True)
class Thing:
    """A shape of a synthetic picture. colour: its name. index, captions: which of its region's things it is, and what
    they are called. box: whole pixels that hold it and no other shape."""

    colour: str
    index: int
    texts: tuple[str, ...]
    box: Bounds


def thing_of(picture: Picture, region: str, text: str | None) -> Thing:
    """The thing that a synthetic picture's caption calls `text`, or the only one where that is None.

    Raises InputError for captions of another kind, and where the caption names several such things, or none.
    """
    caption = picture.captions.get(region)
    texts = tuple(caption.removesuffix(".").split(" above ")) if caption else ()
    words = [words.split() for words in texts]
    known = all(len(pair) == 2 and pair[0] in COLOURS and pair[1] in SHAPES for pair in words)
    if not texts or len(texts) > 2 or not known:
        raise InputError(
            f"Region {region!r} has the caption {caption!r}; expected that of a synthetic strip or scene "
            "('red ring above blue bar.'), whose shapes can be found by colour. Edit other pictures with a function."
        )
    if (text is None and len(texts) > 1) or (text is not None and texts.count(text) != 1):
        raise InputError(
            f"thing={text!r} was given, and region {region!r} shows {caption!r}; name exactly one of its things, such "
            f"as thing={texts[0]!r} (two that are called the same cannot be told apart)."
        )
    index = 0 if text is None else texts.index(text)
    x0, y0, x1, y1 = box_of(picture, region)
    middle = (y0 + y1) // 2  # upper and lower shapes of a panel never cross it
    box = (x0, y0, x1, y1) if len(texts) == 1 else ((x0, y0, x1, middle), (x0, middle, x1, y1))[index]
    return Thing(words[index][0], index, texts, box)


def coverage_of(part: Pixels, colour: str) -> tuple[Float[np.ndarray, "height width"], Float[np.ndarray, " 3"]]:
    """How much of each pixel a shape of that colour covers, 0 to 1, and the colour of the ground behind it.

    A pixel is taken for a mixture of the two. Raises InputError where there is no pixel of that colour, or no ground.
    """
    named = np.array(PALETTE[colour], float)
    pure = part[np.linalg.norm(part - named, axis=-1) < NEAR]
    ground = part[(part.min(-1) > LIGHT[0]) & (part.min(-1) < LIGHT[1])]
    if not len(pure) or not len(ground):
        raise InputError(
            f"No {colour} pixels on a light ground were found where the caption says so; expected a picture of "
            "gl.comics.synthetic or scenes as it was drawn."
        )
    drawn, behind = np.median(pure, axis=0), np.median(ground, axis=0)
    along = drawn - behind
    share = np.clip((part - behind) @ along / (along @ along), 0, 1)
    return np.where(share < FAINT, 0.0, share), behind
