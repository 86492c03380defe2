"""Named regions of a picture, in original pixels, and the tokens that they become in a prompt.

    picture = Picture(image, {"cat": Box(10, 20, 110, 90), "sky": Polygon([(0, 0), (200, 0), (100, 40)])})
    picture.region("cat")
    panels(6, 1200, 256)["panel 4"]

    cat = inputs.region("cat")            # a Region: token positions, bound to the layout of these inputs
    cat | inputs.region("sky"), cat.others
    inputs.span("fourth")                 # a Group: positions of any kind, image or text

A shape (`Box`, `Polygon`, `Mask`, `Union`) is in pixels of the picture and independent of tokens. A `Region` has the
positions of a shape's tokens in one batch of prompts; it is bound to that batch's `Layout`, so that it cannot be used
with another.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

from PIL import Image

from gaze_lens.errors import InputError, RegionError
from gaze_lens.html_tables import html_table
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box, Shape, as_shape, misses
from gaze_lens.utf8 import is_utf8

LARGEST, SHOWN = 1000, 600  # pixels: the longest side, and the smallest width, of a picture in a notebook
Fit = Literal["whole"] | tuple[int, int]


def panels(n: int, width: int, height: int) -> dict[str, Box]:
    """`panels(6, 1200, 256)`: n equal columns of a picture, "panel 1" to "panel n" from left to right.

    width, height: of the picture, in pixels. Raises RegionError for fewer than one panel, or more panels than pixels.
    """
    if not 1 <= n <= width or height < 1:
        raise RegionError(
            f"A picture of {width} x {height} pixels cannot be cut into {n} panels: expected at least one panel, and "
            "at least one pixel for each. Give the size of the picture and the number of panels in it."
        )
    return {f"panel {i + 1}": Box(i * width / n, 0, (i + 1) * width / n, height) for i in range(n)}


def check_fit(fit: Any) -> None:
    """InputError for what is no `fit` of a Picture."""
    pair = isinstance(fit, tuple) and len(fit) == 2 and all(isinstance(side, int) and side > 0 for side in fit)
    if fit is not None and fit != "whole" and not pair:
        raise InputError(f"fit={fit!r} was given; give 'whole', (width, height) in pixels, or None.")


def _check_text(text: Any) -> None:
    """RegionError for a name or caption that is no text, or that UTF-8 cannot hold."""
    if not isinstance(text, str) or not is_utf8(text):
        raise RegionError(
            f"{ascii(text)[:80]} was given as a region's name or caption; expected text that UTF-8 can hold."
        )


@dataclass(frozen=True, repr=False)
class Picture:
    """`Picture(image, {"cat": Box(10, 20, 110, 90)})`: an image with named regions.

    image: RGB, already upright (EXIF applied); or a path or array, as for `model.prepare`, which is read.
    regions: name -> shape, in reading order, in pixels of the image.
    captions: name -> text about the region, for some or all of the names.
    fit: how the model is to see the image: None leaves that to the model's processor, which may cut off the ends of a
        wide image; "whole" stretches the image to what the processor does not cut; (width, height) in pixels stretches
        it to that. Regions stay in pixels of the image.
    Raises RegionError where a region lies outside the image, is not a shape, a caption belongs to no region, or a name
    or caption is not text;
    ImageError for an image that cannot be read.
    """

    image: Image.Image
    regions: Mapping[str, Shape] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    fit: Fit | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.image, Image.Image):
            object.__setattr__(self, "image", read_image(self.image))
        object.__setattr__(self, "regions", {name: as_shape(shape) for name, shape in self.regions.items()})
        for text in (*self.regions, *self.captions.values()):
            _check_text(text)
        captions = {name: caption for name, caption in self.captions.items() if caption.strip()}
        object.__setattr__(self, "captions", captions)
        check_fit(self.fit)
        width, height = self.image.size
        for name, shape in self.regions.items():
            if misses(shape, width, height):
                raise RegionError(
                    f"Region '{name}' ({shape.bounds}) lies outside the image of {width} x {height} pixels: expected "
                    f"x in 0..{width} and y in 0..{height}. Give regions in the pixels of this image."
                )
        for name in self.captions:
            if name not in self.regions:
                raise RegionError(f"There is a caption for '{name}', but no such region. {self._names()}")

    def region(self, name: str) -> Shape:
        """`picture.region("panel 4")`: the shape of that name. Raises RegionError for an unknown name."""
        if name not in self.regions:
            raise RegionError(f"The picture has no region '{name}'. {self._names()}")
        return self.regions[name]

    def _names(self) -> str:
        return f"Its regions: {', '.join(map(repr, self.regions))}." if self.regions else "It has no named regions."

    def _repr_html_(self) -> str:
        rows = ([name, str(shape.bounds), self.captions.get(name, "")] for name, shape in self.regions.items())
        return _as_html(self.image) + html_table(repr(self), ["region", "bounds", "caption"], rows)

    def __repr__(self) -> str:
        width, height = self.image.size
        return f"Picture of {width} x {height} pixels, {len(self.regions)} regions: {', '.join(self.regions) or 'none'}"


def _as_html(image: Image.Image) -> str:
    """The image for a notebook: small ones enlarged, large ones made small enough to be kept in it."""
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    file = BytesIO()
    small.save(file, format="PNG")
    data = b64encode(file.getvalue()).decode()
    width = max(small.width, SHOWN) if small.height * SHOWN <= small.width * LARGEST else small.width
    return f'<img alt="the picture" width="{width}" src="data:image/png;base64,{data}" style="image-rendering: auto">'
