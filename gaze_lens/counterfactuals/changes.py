"""The changes of a counterfactual: of a region of the picture, of the question, or of a region's image features.

changes.swap("panel 1", "panel 4")                       # pictures: functions Picture -> Picture, same size
changes.replace("panel 2", other_strip, of="panel 5")
changes.recolour("panel 2", "green", thing="red ring")
changes.ordinal("second"); changes.question("What is at the top left?")
changes.blank("panel 4"); changes.blank("panel 4", space="features")

The captions of a changed picture describe it correctly: they move with the pixels, and a caption that is no longer
correct is removed.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from gaze_lens.comics.drawing import COLOURS, PALETTE
from gaze_lens.comics.questions import ORDINALS
from gaze_lens.counterfactuals.feature_changes import FeatureChange, averages, noises, zeros
from gaze_lens.counterfactuals.pixels import box_of, coverage_of, image_of, inside, pixels, pixels_of, thing_of
from gaze_lens.errors import InputError, RegionError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image

__all__ = [
    "Change", "FeatureChange", "PictureChange", "QuestionChange", "blank", "mean", "noise", "ordinal", "question",
    "recolour", "remove", "replace", "swap",
]  # fmt: skip

PictureChange = Callable[[Picture], Picture]
SPACES = ("pixels", "features")


@dataclass(frozen=True)
class QuestionChange:
    """A change of the question: of a prompt, or of the last text of a conversation's last message from the user.

    edit: text -> text.
    """

    edit: Callable[[str], str]


Change = PictureChange | QuestionChange | FeatureChange


def swap(first: str, second: str) -> PictureChange:
    """`swap("panel 1", "panel 4")`: the pixels and captions of two regions exchange their places.

    Regions of different sizes are resized to each other's size. Raises RegionError for unknown names, regions that are
    not boxes, and boxes that overlap.
    """

    def edit(picture: Picture) -> Picture:
        boxes = box_of(picture, first), box_of(picture, second)
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = boxes
        if ax0 < bx1 and bx0 < ax1 and ay0 < by1 and by0 < ay1:
            raise RegionError(f"Regions {first!r} and {second!r} overlap; expected two that share no pixel.")
        image = picture.image.copy()
        for source, target in (boxes, boxes[::-1]):
            _paste(image, picture.image.crop(source), target)
        sources = {first: second, second: first}
        captions = {name: picture.captions.get(sources.get(name, name)) for name in picture.regions}
        return _picture(picture, image, captions)

    return edit


def replace(region: str, image: Any, *, of: str | None = None, caption: str | None = None) -> PictureChange:
    """`replace("panel 2", other_strip, of="panel 5")`: a region shows another picture, resized to its box.

    image: a path, PIL image, array or `Picture`. of: the region of that Picture to use, with its caption.
    caption: the new caption of the region; without it, and without `of`, the region has none.
    Raises RegionError for unknown names and regions that are not boxes, InputError for `of` without a Picture.
    """
    if of is not None and not isinstance(image, Picture):
        raise InputError(f"of={of!r} names a region of a gl.Picture, and {type(image).__name__} was given.")
    source = image.image if isinstance(image, Picture) else read_image(image)
    if of is not None:
        source, caption = source.crop(box_of(image, of)), caption or image.captions.get(of)

    def edit(picture: Picture) -> Picture:
        changed = picture.image.copy()
        _paste(changed, source, box_of(picture, region))
        return _picture(picture, changed, {**_all_captions(picture), region: caption})

    return edit


def recolour(region: str, colour: str, *, thing: str | None = None) -> PictureChange:
    """`recolour("panel 2", "green", thing="red ring")`: one shape of a synthetic strip or scene in another colour.

    colour: one of `gaze_lens.comics.drawing.COLOURS`. thing: the shape's name in the caption, where there are two.
    To every pixel, the difference of the two colours is added, times the part of the pixel that the shape covers.
    Raises InputError for other colours, other pictures, and things that the caption does not name exactly once.
    """
    if colour not in COLOURS:
        raise InputError(f"The colour {colour!r} was given; expected one of {', '.join(COLOURS)}.")

    def edit(picture: Picture) -> Picture:
        target = thing_of(picture, region, thing)
        values, (x0, y0, x1, y1) = pixels(picture), target.box
        coverage, _ = coverage_of(values[y0:y1, x0:x1], target.colour)
        values[y0:y1, x0:x1] += coverage[..., None] * np.subtract(PALETTE[colour], PALETTE[target.colour])
        texts = list(target.texts)
        texts[target.index] = texts[target.index].replace(target.colour, colour, 1)
        return _picture(picture, image_of(values), {**_all_captions(picture), region: " above ".join(texts) + "."})

    return edit


def remove(region: str, *, thing: str | None = None) -> PictureChange:
    """`remove("object 3")`, `remove("panel 2", thing="red ring")`: a shape of a synthetic scene or strip is replaced
    by the background. Arguments and errors as for `recolour`; a region that is empty afterwards has no caption.
    """

    def edit(picture: Picture) -> Picture:
        target = thing_of(picture, region, thing)
        values, (x0, y0, x1, y1) = pixels(picture), target.box
        coverage, background = coverage_of(values[y0:y1, x0:x1], target.colour)
        values[y0:y1, x0:x1][coverage > 0] = background
        texts = [text for index, text in enumerate(target.texts) if index != target.index]
        return _picture(picture, image_of(values), {**_all_captions(picture), region: "".join(t + "." for t in texts)})

    return edit


def blank(region: Any, *, colour: Any = None, space: str = "pixels") -> PictureChange | FeatureChange:
    """`blank("panel 4")`: a region in one colour; `blank("panel 4", space="features")`: its image features are zero.

    region: a name, or a shape in pixels. colour: (red, green, blue), 0 to 255; by default the picture's background,
        which is the median colour of its outermost pixels.
    """
    if _in_features(space):
        if colour is not None:
            raise InputError(f"colour={colour!r} was given with space='features', where a region has no colour.")
        return FeatureChange(region, zeros)

    def fill(values: np.ndarray, _n: int) -> np.ndarray:
        edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
        return np.median(edge, axis=0) if colour is None else np.array(colour, float)

    return _filling(region, fill)


def noise(region: Any, *, seed: int = 0, space: str = "pixels") -> PictureChange | FeatureChange:
    """`noise("panel 4", seed=1)`: a region's pixels, or its image features, are replaced by normal noise.

    region: a name, or a shape in pixels. The noise has the mean and standard deviation of all pixels of the picture, by
    channel, or of all tokens of the image that cover part of it, by feature. With one seed, all pictures get the same
    pattern.
    """
    if _in_features(space):
        return FeatureChange(region, noises(seed))

    def fill(values: np.ndarray, n: int) -> np.ndarray:
        normal = np.random.default_rng(seed).standard_normal((n, 3))
        return values.mean((0, 1)) + normal * values.std((0, 1))

    return _filling(region, fill)


def mean(region: Any, *, over: Any = None, space: str = "pixels") -> PictureChange | FeatureChange:
    """`mean("panel 4")`: a region in the picture's mean colour; with space="features", each of its tokens gets the
    mean of the image's features (mean ablation).

    region: a name, or a shape in pixels. over: the source of the mean, by default the whole picture: a region's name or
        a shape; for features also other encoded inputs, `model.encode(model.prepare(...))`.
    """
    if _in_features(space):
        return FeatureChange(region, averages, over)

    def edit(picture: Picture) -> Picture:
        values = pixels(picture)
        source = values if over is None else values[pixels_of(picture, over)]
        return _filling(region, lambda _values, _n: source.reshape(-1, 3).mean(0))(picture)

    return edit


def ordinal(to: str) -> QuestionChange:
    """`ordinal("second")`: a question about another panel: its only ordinal ("first" to "eighth") is replaced.

    Raises InputError for other words, and for prompts that contain no ordinal or several.
    """
    if to not in ORDINALS:
        raise InputError(f"ordinal({to!r}) was given; expected one of {', '.join(ORDINALS)}.")
    pattern = re.compile(rf"\b({'|'.join(ORDINALS)})\b")

    def edit(text: str) -> str:
        if len(pattern.findall(text)) != 1:
            raise InputError(
                f"The prompt {text!r} holds {len(pattern.findall(text))} ordinals; expected one of "
                f"{', '.join(ORDINALS)}, once. Give the whole new prompt with changes.question(...)."
            )
        return pattern.sub(to, text)

    return QuestionChange(edit)


def question(text: str) -> QuestionChange:
    """`question("What is at the top left?")`: this text replaces the prompt's."""
    if not isinstance(text, str) or not text:
        raise InputError(f"question({text!r}) was given; expected the text of another prompt.")
    return QuestionChange(lambda _text: text)


def _in_features(space: str) -> bool:
    if space not in SPACES:
        raise InputError(f"space={space!r} was given; expected 'pixels' or 'features'.")
    return space == "features"


def _filling(region: Any, fill: Callable[[np.ndarray, int], np.ndarray]) -> PictureChange:
    """Replace a region's pixels by `fill` of the picture's pixels [height, width, 3]: one colour, or [pixel, 3]."""

    def edit(picture: Picture) -> Picture:
        values, mask = pixels(picture), pixels_of(picture, region)
        values[mask] = fill(values, int(mask.sum()))
        masks = {name: inside(picture, name) for name in picture.captions}
        covered = [name for name, own in masks.items() if 2 * (mask & own).sum() > own.sum()]
        return _picture(picture, image_of(values), {**_all_captions(picture), **dict.fromkeys(covered)})

    return edit


def _paste(image: Image.Image, piece: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Paste a piece into a box of an image, resized to the box."""
    size = box[2] - box[0], box[3] - box[1]
    image.paste(piece if piece.size == size else piece.resize(size, Image.Resampling.LANCZOS), box)


def _all_captions(picture: Picture) -> Mapping[str, str | None]:
    """The captions, in the order of the regions; None for a region without one."""
    return {name: picture.captions.get(name) for name in picture.regions}


def _picture(picture: Picture, image: Image.Image, captions: Mapping[str, str | None]) -> Picture:
    """The picture with other pixels and captions; None stands for no caption."""
    return dataclasses.replace(picture, image=image, captions={name: text for name, text in captions.items() if text})
