"""Gradients of metrics with respect to activations, from one forward; the model's parameters are left alone.

attach = partial(attached, model, site_of("z"), [0, 1, 2])
slopes = gradients(model, inputs, attach, Measure.of(metric, inputs.n_rows), of="the corrupted run")
slopes.gradients[0][2, "blocks.2.attn.hook_z"]      # of the first metric: [row, pos, head, d_head]
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.patching.image_features import at_border
from gaze_lens.patching.measuring import Measure
from gaze_lens.patching.sites import Site

Key = tuple[Hashable, str]  # what the caller calls a place (a layer, None before all layers), and the hook point
Keep = Callable[[Hashable, Tensor, Any], Tensor | None]  # called as keep(place, tensor, hook)
Attach = Callable[[Keep], AbstractContextManager]


@contextmanager
def attached(model: Any, site: Site, layers: list[int | None], keep: Keep) -> Iterator[None]:
    """A context in which `keep(layer, tensor, hook)` is called with a site's activation in each of these layers."""
    if site.point is None:
        with at_border(model, partial(keep, None)):
            yield
    else:
        with model.hooks([(site.hook_name(layer), partial(keep, layer)) for layer in layers]):
            yield


@torch.no_grad()
def activations(model: Any, inputs: VLMInputs, attach: Attach) -> tuple[Tensor, dict[Key, Tensor]]:
    """The logits of a run, and the activations at what is attached."""
    kept: dict[Key, Tensor] = {}

    def keep(place: Hashable, tensor: Tensor, hook: Any) -> None:
        kept[place, hook.name] = tensor

    with attach(keep):
        return model(inputs), kept


@dataclass(frozen=True, eq=False)
class Slopes:
    """measured: the metrics of a run. activations: at what was attached. gradients: for each metric, theirs, row by
    row: of the metric of each row, as rows do not depend on one another."""

    measured: Float[Tensor, "metric row"]
    activations: dict[Key, Tensor]
    gradients: list[dict[Key, Tensor]]


def gradients(model: Any, inputs: VLMInputs, attach: Attach, measure: Measure, of: str) -> Slopes:
    """One forward, and one backward for each metric. InputError for a metric that has no gradient."""
    kept: dict[Key, Tensor] = {}

    def keep(place: Hashable, tensor: Tensor, hook: Any) -> Tensor:
        # What comes first becomes a leaf: nothing before it needs a gradient.
        kept[place, hook.name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return kept[place, hook.name]

    with torch.enable_grad(), _frozen(model.original_model), attach(keep):
        logits = model(inputs)
        slopes = [_slopes(name, function(logits), kept) for name, function in measure.metrics.items()]
    return Slopes(measure(logits, of), {key: tensor.detach() for key, tensor in kept.items()}, slopes)


def _slopes(name: str, value: Tensor, kept: dict[Key, Tensor]) -> dict[Key, Tensor]:
    if not value.requires_grad:
        raise InputError(
            f"The metric {name!r} has no gradient: it detaches the logits, counts or takes an argmax. Give one that is "
            "differentiable, such as a logit difference or a log-probability."
        )
    found = torch.autograd.grad(value.sum(), list(kept.values()), retain_graph=True, allow_unused=True)
    pairs = zip(kept.items(), found, strict=True)
    return {key: torch.zeros_like(tensor) if slope is None else slope for (key, tensor), slope in pairs}


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside, parameters need no gradient, so that none is computed or kept for them."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
