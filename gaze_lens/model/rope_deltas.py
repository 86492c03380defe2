"""The position offset of a prompt's images stays with the cache of that prompt.

Where images count as fewer positions than tokens (M-RoPE), Hugging Face's Qwen and GLM models keep the offset of the
last prompt that they saw, in `rope_deltas` of the model. A text on a cache of its own would then be moved by the images
of another prompt, without an error.
"""

from typing import Any

from torch import nn
from transformers.cache_utils import Cache

from gaze_lens.families.cache_argument import cache_in

KEPT = "gaze_lens_rope_deltas"  # the attribute of a cache


def keep_with_caches(hf_model: nn.Module) -> None:
    """From now on, a forward on a cache has the offset of that cache's prompt, and one without a cache begins anew."""
    owner = next((one for one in (getattr(hf_model, "model", None), hf_model) if hasattr(one, "rope_deltas")), None)
    if owner is not None:
        hf_model.register_forward_pre_hook(_begin, with_kwargs=True)
        hf_model.register_forward_hook(_end, with_kwargs=True)


def _owner(hf_model: Any) -> Any:
    inner = getattr(hf_model, "model", None)
    return inner if hasattr(inner, "rope_deltas") else hf_model


def _begin(hf_model: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
    if kwargs.get("position_ids") is not None:  # then the offset is in them, and `generate` has just computed it
        return
    cache = cache_in(kwargs)
    if cache is None or int(cache.get_seq_length()) == 0:
        _owner(hf_model).rope_deltas = None
    elif hasattr(cache, KEPT):
        _owner(hf_model).rope_deltas = getattr(cache, KEPT)


def _end(hf_model: nn.Module, _args: tuple, kwargs: dict[str, Any], output: Any) -> None:
    cache = cache_in(output) if hasattr(output, "get") else cache_in(kwargs)
    if isinstance(cache, Cache):
        setattr(cache, KEPT, _owner(hf_model).rope_deltas)
