"""How a model turns the last residual stream into logits.

readout_factors(model)  # [d_model]: what stands between a normed stream and the unembedding's columns
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaze_lens.errors import ModelError

LARGE = 64.0  # of a probe's entries: against their square, the epsilon of a norm is nothing
SMALL = 1e-4  # a logit that no soft cap bends


@torch.no_grad()
def readout_factors(model: Any) -> Float[Tensor, " d_model"]:
    """What the final norm multiplies normed entries by, times what the model multiplies its logits by.

    A logit before a soft cap is `(normed stream * factors) @ W_U[:, token]`; of no family here the final norm or the
    unembedding has a bias.
    """
    return _norm_factors(model.ln_final.original_component, model.cfg.d_model) * _logit_factor(model)


def _norm_factors(norm: nn.Module, d_model: int) -> Float[Tensor, " d_model"]:
    """Read off a probe, since norms multiply by their weight, by 1 + weight, or by nothing, and may have been folded.

    The probe has mean 0 and all entries of one size, so that both kinds of norms make 1 and -1 of it.
    """
    signs = torch.ones(d_model)
    signs[::2] = -1
    weight = next(norm.parameters(), signs)
    probe = (LARGE * signs).to(weight)
    upper, lower = norm(probe[None, None]).flatten(), norm(-probe[None, None]).flatten()
    return (upper.float() - lower.float()) / 2 * signs.to(upper.device)


def _logit_factor(model: Any) -> float:
    """The slope of what comes after the unembedding, at 0."""
    transform = model.adapter.apply_output_logits_transform
    return float(transform(torch.tensor([SMALL], dtype=torch.float64))) / SMALL


def epsilon_of(model: Any) -> float:
    """What the final norm adds to the mean square; ModelError where its module does not say."""
    norm = model.ln_final.original_component
    for name in ("eps", "variance_epsilon"):
        if hasattr(norm, name):
            return float(getattr(norm, name))
    raise ModelError(f"{type(norm).__name__} has neither eps nor variance_epsilon; its scale cannot be computed.")
