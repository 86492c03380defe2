"""Layers that PEFT put around a model's own, such as LoRA's, whose weights are not part of the model's until merged.

refuse_unmerged(model, "hook_result")     # ModelError where weights that are read would lack them
merged_weights(hf_model)                  # {name of a layer: the layer that it would be after merging}

PEFT need not be installed: its layers are known by what they have, `base_layer` and `merge`.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from gaze_lens.errors import ModelError

WRAPPED = "._original_component"  # in a module's path, where a bridge of TransformerLens stands around it


def is_peft_model(model: Any) -> bool:
    """Whether it is PEFT's model around a model of Hugging Face, not that model itself."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def refuse_unmerged(model: nn.Module, what: str) -> None:
    """ModelError where a module's weights do not hold what adapters in it add."""
    for name, layer in _layers(model):
        if not getattr(layer, "merged", False):
            raise ModelError(
                f"{what} is made from weights, and those of {name} lack what its adapter ({type(layer).__name__}) adds "
                "beside them. Wrap the model after peft_model.merge_and_unload()."
            )


def merged_weights(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """For each layer with an adapter, by the layer's name: its own weights, by theirs, with the adapter's added."""
    return {name: dict(_merged(layer).state_dict()) for name, layer in _layers(model)}


def _merged(layer: Any) -> nn.Module:
    """A copy of what is in an adapter's layer, with the adapter merged."""
    copy = deepcopy(layer)
    copy.merge()
    return copy.base_layer


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers with adapters, under Hugging Face's names for them."""
    for path, module in model.named_modules():
        if isinstance(module._modules.get("base_layer"), nn.Module) and hasattr(module, "merge"):
            yield path.replace(WRAPPED, ""), module
