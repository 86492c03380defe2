"""The border between vision and language: image features where they enter the language model.

with at_border(model, function):      # function(tensor, hook), as a hook function: [row, position, d_model] in and out
    model(inputs)

They enter as embeddings of the image tokens, again between the first blocks where the model has DeepStack, or as what
the cross-attention layers read. `function` is called for each of these, with `hook.name` to tell them apart.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.errors import HookError

DEEPSTACK = "deepstack_visual_embeds"  # Hugging Face's names for arguments of the language model
MASK = "visual_pos_masks"


@contextmanager
def at_border(model: Any, function: Callable[[Tensor, Any], Tensor | None]) -> Iterator[None]:
    """Let a function see, and change, the image features of every forward inside."""
    cross_attention = model.family.cross_attention
    name = (
        "cross_attention_states" if cross_attention else "inputs_embeds"
    )  # there, a position is a key; here, a column

    def enter(_module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if kwargs.get(name) is None or (model.family.deepstack and DEEPSTACK not in kwargs):
            raise HookError(f"The language model was run without {name}: were the inputs prepared with an image?")
        edited = {name: _edited(kwargs[name], name, function)}
        if kwargs.get(DEEPSTACK) is not None:
            edited[DEEPSTACK] = [
                _level(level, kwargs[MASK], f"{DEEPSTACK}.{index}", function)
                for index, level in enumerate(kwargs[DEEPSTACK])
            ]
        return args, {**kwargs, **edited}

    handle = model.original_model.get_decoder().register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _edited(tensor: Tensor, name: str, function: Callable[[Tensor, Any], Tensor | None]) -> Tensor:
    edited = function(tensor, SimpleNamespace(name=name))
    return tensor if edited is None else edited


def _level(
    level: Float[Tensor, "token d_model"],
    mask: Bool[Tensor, "row position"],
    name: str,
    function: Callable[[Tensor, Any], Tensor | None],
) -> Float[Tensor, "token d_model"]:
    """One DeepStack level, whose image tokens stand in one line, edited as a tensor with rows and positions."""
    spread = torch.zeros(*mask.shape, level.shape[-1], dtype=level.dtype, device=level.device)
    spread[mask] = level
    return _edited(spread, name, function)[mask]
