"""Conditions on the newest token, for `gl.steer(..., when=...)`.

    gl.steer(heads, region, mass=0.8, when=gl.when.entropy_above(1.0))          # where the model is unsure
    gl.steer(heads, region, when=gl.when.token_written(model, [".", ","]))      # after the end of a clause

A condition of your own is a function of the logits `[row, token]` that chose the newest token of each row; they are
None in the prefill. It returns a bool for each row, or one for all, on the logits' device.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.step_condition import TokenWritten, When
from gaze_lens.errors import InputError
from gaze_lens.model_protocol import Model

Logits = Float[Tensor, "row token"]


def entropy_above(threshold: Any, *, prefill: bool = False) -> When:
    """`entropy_above(1.0)`: the model was unsure of the newest token: its distribution had more entropy, in nats.

    prefill: whether the condition holds in the prefill, before there is a token.
    """
    limit = _threshold(threshold)

    def unsure(logits: Logits | None) -> Any:
        if logits is None:
            return prefill
        return torch.special.entr(logits.float().softmax(-1)).sum(-1) > limit

    return unsure


def probability_below(threshold: Any, *, prefill: bool = False) -> When:
    """`probability_below(0.5)`: no token had so much probability when the newest one was chosen."""
    limit = _threshold(threshold)

    def unsure(logits: Logits | None) -> Any:
        return prefill if logits is None else logits.float().softmax(-1).amax(-1) < limit

    return unsure


def token_written(model: Model, tokens: Sequence[Any], *, prefill: bool = False) -> When:
    """`token_written(model, [".", ","])`: the newest token, greedy or sampled, is one of these.

    tokens: ids, or texts of one token each, which are meant after a space, too.
    Raises InputError for a text that is several tokens.
    """
    if isinstance(tokens, str) or not tokens:
        raise InputError(f'tokens={tokens!r} was given; give a list of texts or ids, such as ["."].')
    ids = [i for token in tokens for i in _ids_of(model.processor.tokenizer, token)]
    return TokenWritten(tuple(dict.fromkeys(ids)), prefill)


def _ids_of(tokenizer: Any, token: Any) -> list[int]:
    if isinstance(token, Integral) and not isinstance(token, bool):
        return [int(token)]
    if not isinstance(token, str):
        raise InputError(f"{token!r} was given as a token; give a text or an id.")
    written = [tokenizer.encode(text, add_special_tokens=False) for text in (token, f" {token}")]
    ids = [one[0] for one in written if len(one) == 1]
    if not ids:
        raise InputError(f"{token!r} is {len(written[0])} tokens of this model; give texts of one token, or ids.")
    return ids


def _threshold(threshold: Any) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 < float(threshold) < math.inf:
        raise InputError(f"A threshold of {threshold!r} was given; give a number above 0, such as 1.0.")
    return float(threshold)
