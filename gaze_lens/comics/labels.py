"""Strips with a letter on every panel, whose answer is one token (Gandikota and Bau 2026, section 4).

picture = labelled(strip, seed=0)
picture.captions                              # {"panel 1": "K", "panel 2": "B", ...}
letter(3); letter_reversed(3)                 # the questions about the fourth panel; the answer is its letter
"""

from collections.abc import Sequence
from string import ascii_uppercase

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gaze_lens.comics.questions import ORDINALS
from gaze_lens.errors import InputError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box, as_shape


def labelled(picture: Picture, *, seed: int, labels: Sequence[str] = ascii_uppercase, size: float = 0.25) -> Picture:
    """`labelled(strip, seed=0)`: the picture with a random label drawn on each region, none of them twice.

    labels: what is drawn from, by default the letters A to Z. size: the height of a label, as a share of its region's.
    The captions of the result are the labels. Black on white, in the upper left corner of the region.
    Raises InputError for fewer different labels than regions, for empty ones, and for labels that do not fit.
    """
    if len(set(labels)) < max(len(labels), len(picture.regions)) or not all(labels) or not 0 < size <= 1:
        raise InputError(
            f"{len(labels)} labels of size {size} were given for {len(picture.regions)} regions; give at least as many "
            "different texts, and a size of up to 1."
        )
    drawn = np.random.default_rng(seed).permutation(len(labels))[: len(picture.regions)]
    image, captions = picture.image.copy(), {}
    for index, (name, region) in zip(drawn, picture.regions.items(), strict=True):
        captions[name] = labels[index]
        _draw(image, as_shape(region).bounds, labels[index], size)
    return Picture(image, picture.regions, captions, picture.fit)


def _draw(image: Image.Image, bounds: Box, text: str, size: float) -> None:
    """Draw a text on a white box in the upper left corner of a region."""
    x, y, right, bottom = (float(end) for end in (bounds.x0, bounds.y0, bounds.x1, bounds.y1))
    font = ImageFont.load_default(max(6.0, size * (bottom - y)))
    margin = max(1, round(0.1 * font.size)) if isinstance(font, ImageFont.FreeTypeFont) else 1
    draw = ImageDraw.Draw(image)
    left, top, end, base = draw.textbbox((0, 0), text, font=font)
    box = (x + margin, y + margin, x + 3 * margin + end - left, y + 3 * margin + base - top)
    if box[2] > right or box[3] > bottom:
        raise InputError(
            f"The label {text!r} does not fit on a region of {right - x:g} x {bottom - y:g} pixels; give shorter "
            "labels, a smaller size=, or a larger picture."
        )
    draw.rectangle(box, fill="white")
    draw.text((box[0] + margin - left, box[1] + margin - top), text, fill="black", font=font)


WORDINGS = (
    "A {label} is drawn on every panel. Which {label} is on the {ordinal} panel? {Label}:",
    "Every panel of this comic is marked with a {label}. Name the {label} of the {ordinal} panel. {Label}:",
    "Look at the {ordinal} panel of this comic. The {label} that is drawn on it:",
)  # each ends in a colon, and the answer is one token
NARRATE_LABELS = "Describe what happens in this comic, panel by panel. Begin each panel with the letter drawn on it."


def letter(index: int, *, label: str = "letter", wording: str = WORDINGS[0]) -> str:
    """The question for the letter on a panel, by its 0-based index from the left; it ends in a colon.

    label: what is drawn, in a word: "digit" for `labelled(strip, labels="0123456789")`. wording: the question, with
    {label}, {Label} and {ordinal}.
    """
    return wording.format(label=label, Label=label.capitalize(), ordinal=_ordinal(index))


def letter_reversed(index: int, *, label: str = "letter", wording: str = WORDINGS[0]) -> str:
    """The same question after the request to read the comic in reverse order."""
    return f"Read this comic in reverse order, from right to left. {letter(index, label=label, wording=wording)}"


def letter_in_order(index: int, order: Sequence[int], *, label: str = "letter", wording: str = WORDINGS[0]) -> str:
    """The same question after the request to read the panels in an order: `letter_in_order(0, [2, 0, 1])`.

    index: a place in that order, from 0. order: 0-based indices of panels from the left, each once.
    """
    if sorted(order) != list(range(len(order))) or not 0 <= index < len(order):
        raise InputError(
            f"order={list(order)} was given, and place {index} of it; give every panel from 0 on once, and a place of "
            "the order."
        )
    places = ", ".join(map(_ordinal, order))
    question = letter(index, label=label, wording=wording)
    return f"Read the panels of this comic, counted from the left, in this order: {places}. {question}"


def _ordinal(index: int) -> str:
    if not 0 <= index < len(ORDINALS):
        raise InputError(f"There is no ready question about panel index {index}; expected 0 to {len(ORDINALS) - 1}.")
    return ORDINALS[index]
