"""Gradients of metrics with respect to activations, from one forward. The model's parameters stay as they are.

attach = partial(attached, model, site_of("z"), [0, 1, 2])
result = gradients_of(model, inputs, attach, BatchMetrics.of(metric, inputs.n_rows), run="the corrupted run")
result.gradients[0][2, "blocks.2.attn.hook_z"]      # of the first metric: [row, pos, head, d_head]
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
from gaze_lens.model_protocol import Model
from gaze_lens.patching.image_features import hook_image_features
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.patching.sites import Site

Key = tuple[Any, str]  # (what the caller calls the place: a layer, None before all layers; the hook point)
Store = Callable[[Any, Tensor, Any], Tensor | None]  # called as store(place, tensor, hook)
Attach = Callable[[Store], AbstractContextManager]


@contextmanager
def attached(model: Model, site: Site, layers: list[int | None], store: Store) -> Iterator[None]:
    """A context in which `store(layer, tensor, hook)` is called with a site's activation in each of these layers."""
    if site.point is None:
        with hook_image_features(model, partial(store, None)):
            yield
    else:
        with model.hooks([(site.hook_name(layer), partial(store, layer)) for layer in layers]):
            yield


@torch.no_grad()
def activations(model: Model, inputs: VLMInputs, attach: Attach) -> tuple[Tensor, dict[Key, Tensor]]:
    """The logits of a run, and the activations at the attached places."""
    stored: dict[Key, Tensor] = {}

    def store(place: Hashable, tensor: Tensor, hook: Any) -> None:
        stored[place, hook.name] = tensor

    with attach(store):
        return model(inputs), stored


@dataclass(frozen=True, eq=False)
class Gradients:
    """What one run and its backward passes gave.

    values: the metrics of the run. activations: at the attached places.
    gradients: for each metric, its gradient at these activations. Rows do not depend on one another, so that a row of
        it is the gradient of that row's metric.
    """

    values: Float[Tensor, "metric row"]
    activations: dict[Key, Tensor]
    gradients: list[dict[Key, Tensor]]


def gradients_of(model: Model, inputs: VLMInputs, attach: Attach, metrics: BatchMetrics, run: str) -> Gradients:
    """One forward, and one backward for each metric.

    run: what the run is called in error messages. Raises InputError for a metric that has no gradient.
    """
    stored: dict[Key, Tensor] = {}

    def store(place: Hashable, tensor: Tensor, hook: Any) -> Tensor:
        # The first activation becomes a leaf: nothing before it needs a gradient.
        stored[place, hook.name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        return stored[place, hook.name]

    with torch.enable_grad(), _frozen(model.original_model), attach(store):
        logits = model(inputs)
        gradients = [_gradient(name, function(logits), stored) for name, function in metrics.functions.items()]
    return Gradients(metrics(logits, run), {key: tensor.detach() for key, tensor in stored.items()}, gradients)


def _gradient(name: str, value: Tensor, stored: dict[Key, Tensor]) -> dict[Key, Tensor]:
    """The gradient of one metric's values; zero at an activation that it does not depend on."""
    if not value.requires_grad:
        raise InputError(
            f"The metric {name!r} has no gradient: it detaches the logits, counts or takes an argmax. Give one that is "
            "differentiable, such as a logit difference or a log-probability."
        )
    gradients = torch.autograd.grad(value.sum(), list(stored.values()), retain_graph=True, allow_unused=True)
    pairs = zip(stored.items(), gradients, strict=True)
    return {key: torch.zeros_like(tensor) if gradient is None else gradient for (key, tensor), gradient in pairs}


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter requires a gradient, so that none is computed or stored for it."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
