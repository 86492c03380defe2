"""Regions of a picture as pictures of their own."""

import math

from PIL import Image

from gaze_lens.regions.picture import Picture


def crop(picture: Picture, name: str) -> Image.Image:
    """The part of the picture inside the region's bounds, rounded outwards to whole pixels."""
    box = picture.region(name).bounds
    width, height = picture.image.size
    left, upper = max(0, math.floor(box.x0)), max(0, math.floor(box.y0))
    return picture.image.crop((left, upper, min(width, math.ceil(box.x1)), min(height, math.ceil(box.y1))))
