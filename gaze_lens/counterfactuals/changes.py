"""What a counterfactual changes: a region of the picture, the question, or the image features of a region.

changes.swap("panel 1", "panel 4")                       # pictures: functions Picture -> Picture, same size
changes.replace("panel 2", other_strip, of="panel 5")
changes.recolour("panel 2", "green", thing="red ring")
changes.ordinal("second"); changes.question("What is at the top left?")
changes.blank("panel 4"); changes.blank("panel 4", space="features")

Captions of what comes out are true of it: they move with the pixels, and one that no longer holds is left out.
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

    Regions of different sizes are resized to one another's. Raises RegionError for unknown names, regions that are no
    boxes, and boxes that overlap.
    """

    def edit(picture: Picture) -> Picture:
        boxes = box_of(picture, first), box_of(picture, second)
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = boxes
        if ax0 < bx1 and bx0 < ax1 and ay0 < by1 and by0 < ay1:
            raise RegionError(f"Regions {first!r} and {second!r} overlap; expected two that share no pixel.")
        image = picture.image.copy()
        for source, target in (boxes, boxes[::-1]):
            _paste(image, picture.image.crop(source), target)
        moved = {first: second, second: first}
        held = {name: picture.captions.get(moved.get(name, name)) for name in picture.regions}
        return _picture(picture, image, held)

    return edit


def replace(region: str, image: Any, *, of: str | None = None, caption: str | None = None) -> PictureChange:
    """`replace("panel 2", other_strip, of="panel 5")`: another picture in a region's place, resized to its box.

    image: a path, PIL image, array or `Picture`. of: the region of a Picture to cut out, with its caption.
    caption: what the region shows now; without one, and without `of`, it has none.
    Raises RegionError for unknown names and regions that are no boxes, InputError for `of` without a Picture.
    """
    if of is not None and not isinstance(image, Picture):
        raise InputError(f"of={of!r} names a region of a gl.Picture, and {type(image).__name__} was given.")
    shown = image.image if isinstance(image, Picture) else read_image(image)
    if of is not None:
        shown, caption = shown.crop(box_of(image, of)), caption or image.captions.get(of)

    def edit(picture: Picture) -> Picture:
        changed = picture.image.copy()
        _paste(changed, shown, box_of(picture, region))
        return _picture(picture, changed, {**_all_captions(picture), region: caption})

    return edit


def recolour(region: str, colour: str, *, thing: str | None = None) -> PictureChange:
    """`recolour("panel 2", "green", thing="red ring")`: one shape of a synthetic strip or scene in another colour.

    colour: one of `gaze_lens.comics.drawing.COLOURS`. thing: which, as the caption calls it, where there are two.
    Every pixel is moved by as much of the two colours' difference as the shape covers of it.
    Raises InputError for other colours, other pictures, and things that the caption does not name exactly once.
    """
    if colour not in COLOURS:
        raise InputError(f"The colour {colour!r} was given; expected one of {', '.join(COLOURS)}.")

    def edit(picture: Picture) -> Picture:
        found = thing_of(picture, region, thing)
        values, (x0, y0, x1, y1) = pixels(picture), found.box
        share, _ = coverage_of(values[y0:y1, x0:x1], found.colour)
        values[y0:y1, x0:x1] += share[..., None] * np.subtract(PALETTE[colour], PALETTE[found.colour])
        texts = list(found.texts)
        texts[found.index] = texts[found.index].replace(found.colour, colour, 1)
        return _picture(picture, image_of(values), {**_all_captions(picture), region: " above ".join(texts) + "."})

    return edit


def remove(region: str, *, thing: str | None = None) -> PictureChange:
    """`remove("object 3")`, `remove("panel 2", thing="red ring")`: a shape of a synthetic scene or strip painted over
    with its ground. Arguments and errors as for `recolour`; a region that shows nothing any more has no caption.
    """

    def edit(picture: Picture) -> Picture:
        found = thing_of(picture, region, thing)
        values, (x0, y0, x1, y1) = pixels(picture), found.box
        share, ground = coverage_of(values[y0:y1, x0:x1], found.colour)
        values[y0:y1, x0:x1][share > 0] = ground
        texts = [text for index, text in enumerate(found.texts) if index != found.index]
        return _picture(picture, image_of(values), {**_all_captions(picture), region: "".join(t + "." for t in texts)})

    return edit


def blank(region: Any, *, colour: Any = None, space: str = "pixels") -> PictureChange | FeatureChange:
    """`blank("panel 4")`: a region in one colour; `blank("panel 4", space="features")`: its image features zero.

    region: a name, or a shape in pixels. colour: (red, green, blue), 0 to 255; unless given, the picture's background,
        the median colour of its outermost pixels.
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
    """`noise("panel 4", seed=1)`: a region's pixels, or its image features, drawn anew from a normal distribution.

    region: a name, or a shape in pixels. It has the mean and standard deviation, channel by channel or feature by
    feature, of all pixels of the picture, or all tokens of the image that cover any of it. One seed gives all pictures
    the same pattern.
    """
    if _in_features(space):
        return FeatureChange(region, noises(seed))

    def fill(values: np.ndarray, n: int) -> np.ndarray:
        drawn = np.random.default_rng(seed).standard_normal((n, 3))
        return values.mean((0, 1)) + drawn * values.std((0, 1))

    return _filling(region, fill)


def mean(region: Any, *, over: Any = None, space: str = "pixels") -> PictureChange | FeatureChange:
    """`mean("panel 4")`: a region in the picture's mean colour; with space="features", every one of its tokens has the
    mean of the image's features (mean ablation).

    region: a name, or a shape in pixels. over: what the mean is taken over, where it is not the whole picture: a
        region's name or a shape; in features also other encoded inputs, `model.encode(model.prepare(...))`.
    """
    if _in_features(space):
        return FeatureChange(region, averages, over)

    def edit(picture: Picture) -> Picture:
        values = pixels(picture)
        seen = values if over is None else values[pixels_of(picture, over)]
        return _filling(region, lambda _values, _n: seen.reshape(-1, 3).mean(0))(picture)

    return edit


def ordinal(to: str) -> QuestionChange:
    """`ordinal("second")`: the question asks about another panel: its only ordinal ("first" to "eighth") becomes this.

    Raises InputError for no such word, and for prompts that hold none or several.
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
    """`question("What is at the top left?")`: this text in place of the prompt's."""
    if not isinstance(text, str) or not text:
        raise InputError(f"question({text!r}) was given; expected the text of another prompt.")
    return QuestionChange(lambda _text: text)


def _in_features(space: str) -> bool:
    if space not in SPACES:
        raise InputError(f"space={space!r} was given; expected 'pixels' or 'features'.")
    return space == "features"


def _filling(region: Any, fill: Callable[[np.ndarray, int], np.ndarray]) -> PictureChange:
    """A region's pixels as `fill` makes them of the picture's [height, width, 3]: one colour, or [pixel, 3]."""

    def edit(picture: Picture) -> Picture:
        values, mask = pixels(picture), pixels_of(picture, region)
        values[mask] = fill(values, int(mask.sum()))
        named = {name: inside(picture, name) for name in picture.captions}
        covered = [name for name, there in named.items() if 2 * (mask & there).sum() > there.sum()]
        return _picture(picture, image_of(values), {**_all_captions(picture), **dict.fromkeys(covered)})

    return edit


def _paste(image: Image.Image, piece: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Put a piece into a box of an image, resized where it has another size."""
    size = box[2] - box[0], box[3] - box[1]
    image.paste(piece if piece.size == size else piece.resize(size, Image.Resampling.LANCZOS), box)


def _all_captions(picture: Picture) -> Mapping[str, str | None]:
    """The captions, in the order of the regions; None for a region without one."""
    return {name: picture.captions.get(name) for name in picture.regions}


def _picture(picture: Picture, image: Image.Image, captions: Mapping[str, str | None]) -> Picture:
    """The picture with other pixels, and those of the captions that there are."""
    return dataclasses.replace(picture, image=image, captions={name: text for name, text in captions.items() if text})
