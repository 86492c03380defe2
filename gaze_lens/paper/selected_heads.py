"""The sets of heads that rows compare: as many by each of the paper's selectors, at random, and all.

conditions = compared(context)
[one.name for one in conditions]      # gaze, Image Heads, Localization Heads, random (in several draws), all, none
"""

from collections.abc import Sequence

from gaze_lens.evaluation.condition import Condition
from gaze_lens.heads.controls import band_controls
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.paper.context import Context
from gaze_lens.paper.row import Settings

SELECTORS = {"gaze": "score", "Image Heads": "image", "Localization Heads": "localization"}


def eligible(scores: HeadScores, by: str) -> int:
    """How many heads a selector ranks; 0 where it ranks none, or needs a map that a picture in tiles has not."""
    if by == "localization" and scores.mean_map is None:
        return 0
    return len(scores.ranked(by))


def best_heads(context: Context, selector: str, k: int) -> HeadSet | None:
    """The k best heads of a selector; None where it ranks fewer."""
    by = SELECTORS[selector]
    return context.scores.top(k, by=by) if eligible(context.scores, by) >= k else None


def band_of(heads: HeadSet, settings: Settings) -> tuple[int, int]:
    """The layers to draw random heads from: those of the set, and more on both sides until they have twice as many
    others, or are all.
    """
    layers = [head.layer for head in heads]
    first, last = min(layers), max(layers)
    while (last - first + 1) * settings.heads < 3 * len(heads) and (first, last) != (0, settings.layers - 1):
        first, last = max(0, first - 1), min(settings.layers - 1, last + 1)
    return first, last


def random_heads(context: Context, heads: HeadSet, draw: int) -> HeadSet | None:
    """As many heads from the same band of layers, none of the set; None where the model has not so many others."""
    s = context.settings
    if 2 * len(heads) > s.n_heads:
        return None
    drawn = band_controls(heads, (s.layers, s.heads), seed=s.seed + draw, layers=band_of(heads, s))
    return HeadSet(drawn, model=heads.model, fingerprint=heads.fingerprint)


def compared(context: Context, *, with_all: bool = True) -> list[Condition]:
    """The conditions of the paper's figure 3: the selectors, random heads in several draws, all heads, no heads."""
    s, k = context.settings, len(context.heads)
    found = [(name, 0, best_heads(context, name, k)) for name in SELECTORS]
    found += [("random", draw, random_heads(context, context.heads, draw)) for draw in range(s.draws)]
    if with_all:
        found.append(("all", 0, HeadSet([(layer, head) for layer in range(s.layers) for head in range(s.heads)])))
    return [Condition(name, heads, draw=draw) for name, draw, heads in found if heads is not None] + [Condition("none")]


def missing_notes(context: Context, names: Sequence[str]) -> tuple[str, ...]:
    """A line for each selector that has no condition, with the reason."""
    k = len(context.heads)
    return tuple(
        f"{name}: no condition; of {context.settings.n_heads} heads, {eligible(context.scores, by)} are eligible, and "
        f"{k} are steered."
        for name, by in SELECTORS.items() if name not in names
    )  # fmt: skip
