"""Hooks on image features at the point where they are injected into the language model.

with hook_image_features(model, function):   # function(tensor, hook), as a hook: [row, position, d_model] in and out
    model(inputs)

Image features are injected as embeddings of the image tokens; in models with DeepStack also between the first blocks;
in models with cross-attention as the states that the cross-attention layers read. `function` is called for each of
these tensors, and `hook.name` tells it which one it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.errors import HookError
from gaze_lens.model_protocol import Model

DEEPSTACK = "deepstack_visual_embeds"  # Hugging Face's names for arguments of the language model
MASK = "visual_pos_masks"


@contextmanager
def hook_image_features(model: Model, function: Callable[[Tensor, Any], Tensor | None]) -> Iterator[None]:
    """Call `function` with the image features of every forward inside; a tensor that it returns takes their place."""
    # A position of cross_attention_states is a key of the image, a position of inputs_embeds a column of the prompt.
    name = "cross_attention_states" if model.family.cross_attention else "inputs_embeds"

    def edit(_module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if kwargs.get(name) is None or (model.family.deepstack and DEEPSTACK not in kwargs):
            raise HookError(f"The language model was run without {name}: were the inputs prepared with an image?")
        edited: dict[str, Any] = {name: _edited(kwargs[name], name, function)}
        if kwargs.get(DEEPSTACK) is not None:
            edited[DEEPSTACK] = [
                _edited_level(level, kwargs[MASK], f"{DEEPSTACK}.{index}", function)
                for index, level in enumerate(kwargs[DEEPSTACK])
            ]
        return args, {**kwargs, **edited}

    handle = model.original_model.get_decoder().register_forward_pre_hook(edit, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _edited(tensor: Tensor, name: str, function: Callable[[Tensor, Any], Tensor | None]) -> Tensor:
    edited = function(tensor, SimpleNamespace(name=name))
    return tensor if edited is None else edited


def _edited_level(
    level: Float[Tensor, "token d_model"],
    mask: Bool[Tensor, "row position"],
    name: str,
    function: Callable[[Tensor, Any], Tensor | None],
) -> Float[Tensor, "token d_model"]:
    """One DeepStack level, edited as a tensor with rows and positions; it lists the image tokens of all rows."""
    by_position = torch.zeros(*mask.shape, level.shape[-1], dtype=level.dtype, device=level.device)
    by_position[mask] = level
    return _edited(by_position, name, function)[mask]
