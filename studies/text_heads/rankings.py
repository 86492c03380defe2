"""Five rankings of heads by where they looked. All read the samples of `gl.score_heads`.

ranked(scores, "contrast")[:20]
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

import gaze_lens as gl

Samples = Float[Tensor, "strip layer head asked attended"]


def selectivity(samples: Samples) -> Float[Tensor, "layer head"]:
    """Of the mass on all segments, the share on the one asked about: the mean over questions."""
    diagonal = samples.diagonal(dim1=-2, dim2=-1)
    return (diagonal / samples.sum(-1).clamp(min=1e-9)).mean((0, 3))


def routing(samples: Samples) -> Float[Tensor, "layer head"]:
    """The share of questions for which the segment asked about gets the most mass of all segments."""
    asked = torch.arange(samples.shape[-1])
    return (samples.argmax(-1) == asked).float().mean((0, 3))


def text_mass(samples: Samples) -> Float[Tensor, "layer head"]:
    """Mass on all segments together, whatever is asked: Image Heads, with text for the image."""
    return samples.sum(-1).mean((0, 3))


RANKINGS: dict[str, Callable[[gl.HeadScores], Float[Tensor, "layer head"]]] = {
    "mass": lambda scores: scores.score,
    "contrast": lambda scores: scores.contrast,
    "selectivity": lambda scores: selectivity(scores.samples),
    "routing": lambda scores: routing(scores.samples),
    "all text": lambda scores: text_mass(scores.samples),
}


def ranked(scores: gl.HeadScores, by: str) -> gl.HeadSet:
    """All heads, best first."""
    values = RANKINGS[by](scores)
    order = values.flatten().argsort(descending=True, stable=True).tolist()
    heads = [divmod(index, values.shape[1]) for index in order]
    return gl.HeadSet(heads, model=scores.model, fingerprint=scores.fingerprint)
