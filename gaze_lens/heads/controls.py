"""Heads to compare a set of heads with, drawn at random or the lowest: the functions behind `HeadScores.controls`.

    band_controls(heads, (36, 32), seed=0)                     # as many, from the layers that the set spans
    layer_controls(heads, values, seed=0, below=100, by="score")      # as many in every layer

`values`, [layer, head], are what heads are ranked by. Nothing is drawn twice; a draw depends on its seed alone.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from gaze_lens.errors import HeadError
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.whole_numbers import is_count

Values = Float[np.ndarray, "layer head"]
Band = tuple[int, int]


def low_controls(k: Any, values: Values, *, seed: int, below: float, by: str, at_most: bool) -> list[Head]:
    """k heads at or below a percentile of all values; with `at_most`, fewer where there are fewer."""
    check_percentile(below)
    pool = np.argwhere(values <= np.percentile(values, below))
    number = min(k, len(pool)) if at_most and is_count(k) else k
    if not (is_count(number) and number <= len(pool)):
        raise HeadError(
            f"{k!r} control heads were asked for, and {len(pool)} of {values.size} heads lie at or below "
            f"percentile {below:g} of the {by}: ask for 1 to {len(pool)}, raise below=, or take what there is with "
            "at_most=True."
        )
    drawn = np.random.default_rng(seed).choice(len(pool), number, replace=False)
    return [Head(*pool[index].tolist()) for index in drawn]


def layer_controls(heads: HeadSet, values: Values, *, seed: int, below: float, by: str) -> list[Head]:
    """In every layer as many other heads as the set has there, at or below a percentile of the layer's values."""
    check_percentile(below)
    rng, controls = np.random.default_rng(seed), list[Head]()
    heads.check(*values.shape)
    for layer, in_layer in heads.by_layer().items():
        low = np.flatnonzero(values[layer] <= np.percentile(values[layer], below))
        pool = np.setdiff1d(low, in_layer)
        if len(pool) < len(in_layer):
            raise HeadError(
                f"Layer {layer} has {len(in_layer)} of the heads, and {len(pool)} others at or below percentile "
                f"{below:g} of its {by} to draw controls from: give fewer heads, or raise below="
            )
        controls += [Head(layer, int(head)) for head in rng.choice(pool, len(in_layer), replace=False)]
    return controls


def layer_lowest(heads: HeadSet, values: Values) -> list[Head]:
    """In every layer as many other heads as the set has there: those with the lowest values; ties by head."""
    controls: list[Head] = []
    heads.check(*values.shape)
    for layer, in_layer in heads.by_layer().items():
        others = [head for head in np.argsort(values[layer], kind="stable").tolist() if head not in in_layer]
        if len(others) < len(in_layer):
            raise HeadError(
                f"Layer {layer} has {len(in_layer)} of the heads, and {len(others)} others to take as controls: give "
                "fewer heads."
            )
        controls += [Head(layer, head) for head in others[: len(in_layer)]]
    return controls


def band_controls(heads: HeadSet, shape: tuple[int, int], *, seed: int, layers: Band | None = None) -> list[Head]:
    """As many other heads, uniform from a band of layers.

    shape: layers of the model, heads in each. layers: the first and the last layer of the band; by default of the set.
    """
    heads.check(*shape)
    first, last = layers or (min(heads.by_layer()), max(heads.by_layer()))
    if not 0 <= first <= last < shape[0]:
        raise HeadError(f"layers={(first, last)} is no band of the model's layers: expected 0 to {shape[0] - 1}.")
    taken = set(heads)
    pool = [Head(layer, head) for layer in range(first, last + 1) for head in range(shape[1])]
    pool = [head for head in pool if head not in taken]
    if len(pool) < len(heads):
        raise HeadError(
            f"{len(heads)} control heads were asked for, and layers {first} to {last} have {len(pool)} heads outside "
            "the set: give fewer heads, or a wider band with layers="
        )
    drawn = np.random.default_rng(seed).choice(len(pool), len(heads), replace=False)
    return [pool[index] for index in drawn]


def check_percentile(below: float) -> None:
    """Raises HeadError for what is no percentile."""
    if not 0 <= below <= 100:
        raise HeadError(f"below={below} is not a percentile: expected 0 to 100, such as 50 for the lower half.")
