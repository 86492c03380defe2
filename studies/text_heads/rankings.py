"""Five rankings of heads by where they looked.

ranked(scores, "contrast")[:20]

Four are rankings of the library. Mass on all segments, whatever is asked, is what Image Heads are chosen by, with text
in the place of the image, and without the comparison with other heads of the layer.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import gaze_lens as gl

OF_LIBRARY = {"mass": "score", "contrast": "contrast", "selectivity": "selectivity", "routing": "routing"}
ALL_TEXT = "all text"
RANKINGS = (*OF_LIBRARY, ALL_TEXT)


def text_mass(samples: Float[Tensor, "strip layer head asked attended"]) -> Float[Tensor, "layer head"]:
    """Mass on all segments together: the mean over questions."""
    return samples.sum(-1).mean((0, 3))


def ranked(scores: gl.HeadScores, by: str) -> gl.HeadSet:
    """All heads, best first."""
    heads = scores.ranked(OF_LIBRARY[by]) if by in OF_LIBRARY else _in_order(text_mass(scores.samples))
    return gl.HeadSet(heads, model=scores.model, fingerprint=scores.fingerprint)


def _in_order(values: Float[Tensor, "layer head"]) -> list[gl.Head]:
    order: Tensor = values.flatten().argsort(descending=True, stable=True)
    return [gl.Head(*divmod(index, values.shape[1])) for index in torch.as_tensor(order).tolist()]


def same_per_layer(heads: gl.HeadSet, n_heads: int, *, seed: int) -> gl.HeadSet:
    """Random heads, in every layer as many as `heads` has there; of `heads` themselves only where others run out.

    n_heads: of a layer. (`scores.layer_controls` refuses layers that have too few others.)
    """
    rng, drawn = np.random.default_rng(seed), []
    for layer, own in heads.by_layer().items():
        others = [head for head in range(n_heads) if head not in own]
        order = [*rng.permutation(others), *rng.permutation(own)]
        drawn += [gl.Head(layer, int(head)) for head in order[: len(own)]]
    return gl.HeadSet(drawn)
