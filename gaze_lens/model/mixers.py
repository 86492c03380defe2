"""Layers that mix positions by something else than softmax attention, and so have no heads.

MIXERS has the part of such a block -> what it is.
"""

from typing import Any

MIXERS = {"linear_attn": "linear attention", "conv": "a convolution"}


def mixer_of(block: Any) -> str | None:
    """The name of the part that a block has in place of softmax attention; None where it has attention."""
    return next((name for name in MIXERS if name in block._modules), None)
