"""Pixels of regions, and detection of the coloured shapes in regions of synthetic pictures.

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
LIGHT = 200, 255  # every channel of a synthetic background lies between; gaps are 255, colours have a darker channel
NEAR = 30.0  # levels of 0-255: the largest distance of a synthetic shape's tint from its colour
FAINT = 0.04  # part of a pixel: a smaller coverage is noise of the background


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
    """The pixels whose centre lies in a region, as a boolean mask."""
    width, height = picture.image.size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return shape_of(picture, region).contains(x, y)


def pixels_of(picture: Picture, region: Any) -> Bool[np.ndarray, "height width"]:
    """As `inside`; RegionError where there is no such pixel."""
    mask = inside(picture, region)
    if not mask.any():
        width, height = picture.image.size
        raise RegionError(
            f"{region!r} holds no pixel of a picture of {width} x {height} pixels. Give a larger region, in the "
            "picture's own pixels."
        )
    return mask


def box_of(picture: Picture, name: str) -> Bounds:
    """A region's box in whole pixels, clipped to the picture; RegionError for other shapes."""
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
    """A shape of a synthetic picture.

    colour: the colour's name. index: of the shape in `texts`, the names of all shapes in its region. box: whole pixels
    that contain this shape and no other.
    """

    colour: str
    index: int
    texts: tuple[str, ...]
    box: Bounds


def thing_of(picture: Picture, region: str, text: str | None) -> Thing:
    """The shape that a synthetic picture's caption calls `text`; for None, the only one.

    Raises InputError for captions of other pictures, and where the caption has several such names, or none.
    """
    caption = picture.captions.get(region)
    texts = tuple(caption.removesuffix(".").split(" above ")) if caption else ()
    words = [words.split() for words in texts]
    synthetic = all(len(pair) == 2 and pair[0] in COLOURS and pair[1] in SHAPES for pair in words)
    if not texts or len(texts) > 2 or not synthetic:
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
    middle = (y0 + y1) // 2  # no shape of a panel crosses it
    box = (x0, y0, x1, y1) if len(texts) == 1 else ((x0, y0, x1, middle), (x0, middle, x1, y1))[index]
    return Thing(words[index][0], index, texts, box)


def coverage_of(part: Pixels, colour: str) -> tuple[Float[np.ndarray, "height width"], Float[np.ndarray, " 3"]]:
    """The part of each pixel that a shape of that colour covers, 0 to 1, and the colour of the background.

    A pixel is a mixture of the two colours. Raises InputError where no pixel has that colour, or that of a background.
    """
    pure = part[np.linalg.norm(part - np.array(PALETTE[colour], float), axis=-1) < NEAR]
    ground = part[(part.min(-1) > LIGHT[0]) & (part.min(-1) < LIGHT[1])]
    if not len(pure) or not len(ground):
        raise InputError(
            f"No {colour} pixels on a light ground were found where the caption says so; expected a picture of "
            "gl.comics.synthetic or scenes as it was drawn."
        )
    shape, background = np.median(pure, axis=0), np.median(ground, axis=0)
    difference = shape - background
    coverage = np.clip((part - background) @ difference / (difference @ difference), 0, 1)
    return np.where(coverage < FAINT, 0.0, coverage), background
