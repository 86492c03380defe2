"""Comic strips and scenes: pictures with named regions, from panels or generated from a seed, and questions about them.

    picture = strip(["p1.png", "p2.png", "p3.png"])       # regions "panel 1", "panel 2", "panel 3"
    picture = grid(paths, (2, 3))                         # six panels on a page, in reading order
    pictures = synthetic(20, seed=7, panels=6)            # strips that the embedded model can read, with captions
    ask(0)                                                # "What happens in the first panel from the left?"

Indices are 0-based; the names of regions and the words of questions count from one.
"""

from gaze_lens.comics.generator import caption, scenes, synthetic
from gaze_lens.comics.labels import NARRATE_LABELS, WORDINGS, labelled, letter, letter_in_order, letter_reversed
from gaze_lens.comics.questions import (
    LIST_THINGS,
    MAIN_OBJECT,
    NARRATE,
    NARRATE_ANY_ORDER,
    NARRATE_FREELY,
    ONE_THING,
    OPEN,
    ORDINALS,
    THIS,
    ask,
    ask_place,
    place,
)
from gaze_lens.comics.strips import GAP, grid, paint_gaps, strip, with_panels

__all__ = [
    "GAP", "LIST_THINGS", "MAIN_OBJECT", "NARRATE", "NARRATE_ANY_ORDER", "NARRATE_FREELY", "NARRATE_LABELS",
    "ONE_THING", "OPEN", "ORDINALS", "THIS", "WORDINGS", "ask", "ask_place", "caption", "grid", "labelled",
    "letter", "letter_in_order", "letter_reversed", "paint_gaps", "place", "scenes", "strip", "synthetic",
    "with_panels",
]  # fmt: skip
