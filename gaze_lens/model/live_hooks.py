"""TransformerLens' attention bridges, made live in place: Hugging Face computes, our function fires the hook points.

    backend = make_live(bridge)                  # any `TransformerBridge` of a vision-language model
    explain(model, "blocks.0.attn.hook_pattern") # HookError where a layer has no such hook point, and why

Some bridges compute attention themselves, always eagerly. Here they hand it to Hugging Face as the others do, so that
there is one path, `attention.py`, for all; `hook_cos`, `hook_sin`, `hook_q_normed`, `hook_k_normed` and the gate
hooks, which only those bridges have, fire where the module comes by. Hook points that can never fire on a layer, for
example on keys that it takes from another layer, are taken away, and naming one is an error that tells why.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.bridge_core import BridgeCore
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    GatedDeltaNetBridge,
    PositionEmbeddingsAttentionBridge,
)

from gaze_lens.attention import attention_function
from gaze_lens.attention.backend import AttentionBackend
from gaze_lens.attention.forward_context import run_in_context
from gaze_lens.errors import HookError, ModelError, UnknownHookError
from gaze_lens.families.cache_argument import cache_in
from gaze_lens.model.bypass import Bypass
from gaze_lens.model.checkpoint_checks import WeightCheck
from gaze_lens.model.mixers import MIXERS, mixer_of
from gaze_lens.model.projections import make_projections_live
from gaze_lens.model.resid_mid import put_on_stream
from gaze_lens.model.rope_deltas import keep_with_caches
from gaze_lens.model_protocol import Model

SHARED = "the layer takes its keys and values from an earlier layer; hook that layer's"
SAME = "the layer's values are its keys; use hook_k"
SPLIT = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")
UNROTATED = "cross-attention has no rotary embedding; use hook_q or hook_k"
UNFIRED = "TransformerLens has the name and never fires it; use hook_in"
UNNORMED = "the layer does not normalise its queries and keys"


class DelegatingAttentionBridge(PositionEmbeddingsAttentionBridge):
    """A bridge that computed attention itself and now lets Hugging Face's module do it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As `AttentionBridge.forward`, with `hook_cos` and `hook_sin` on the rotary embedding."""
        if kwargs.get("position_embeddings") is not None:
            embeddings = self._apply_position_embedding_hooks(kwargs["position_embeddings"])
            kwargs["position_embeddings"] = embeddings
        return AttentionBridge.forward(self, *args, **kwargs)


class CachedGatedDeltaNetBridge(GatedDeltaNetBridge):
    """A bridge of linear attention that finds the cache under every name; without, it would begin from nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As `GatedDeltaNetBridge.forward`."""
        if cache_in(kwargs) is not None:
            return self._native_forward(*args, **kwargs)
        return super().forward(*args, **kwargs)


@dataclass(eq=False)
class Relay:
    """Hands the output of a norm of queries or keys to `hook_q_normed` or `hook_k_normed`: `[batch, head, pos, d]`.

    Some models apply these norms before the heads become the second dimension, others after it. The input shows which:
    its second dimension is the number of heads, or in memory the position comes first.
    """

    norm: Any
    point: HookPoint
    n_heads: int
    axis: int = 2

    def begin(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Before the norm: see which dimension is the position, and tell the norm's own hook points."""
        heads = args[0]
        headed = heads.ndim == 4 and heads.shape[1] == self.n_heads
        headed = headed and (heads.shape[2] != self.n_heads or heads.stride(1) < heads.stride(2))
        self.axis = 2 if headed else 1
        self.norm.mark_pos_dim(self.axis)

    def end(self, _module: nn.Module, _args: tuple, normed: Tensor) -> Tensor:
        """After the norm: fire the hook point, always in the same layout."""
        if normed.ndim != 4 or self.axis == 2:
            return self.point(normed)
        return self.point(normed.transpose(1, 2)).transpose(1, 2)


def make_live(bridge: Any, *, upcast: bool = True) -> AttentionBackend:
    """Make the attention hooks of a `TransformerBridge` live, in place; ModelError for bridges that are not understood.

    upcast: the model's own eager attention takes the softmax in float32.
    """
    layers = {block.attn.original_component: block.attn for block in bridge.blocks if "attn" in block._modules}
    if not layers:
        raise ModelError(
            "No layer of this TransformerBridge has its attention under the name attn, so that none can be hooked. "
            "Wrap the Hugging Face model instead."
        )
    for attention in layers.values():
        _delegate(attention)
    for block in bridge.blocks:
        if "linear_attn" in block._modules:
            block.linear_attn.__class__ = CachedGatedDeltaNetBridge
    text_model = bridge.original_model.get_submodule(bridge.adapter.component_mapping["blocks"].name.rpartition(".")[0])
    attention_function.register()
    backend = AttentionBackend.attach(text_model, layers, upcast=upcast)
    make_projections_live(layers.values())
    _name_hook_points(bridge)
    put_on_stream(bridge, text_model)
    # Hugging Face's list of layers, in which bridges come and go, is not the list that users read.
    blocks = nn.ModuleList(list(bridge.blocks))
    blocks.training = bridge.blocks.training
    bridge.blocks = blocks
    Bypass.attach(bridge.original_model, text_model, bridge.cfg)
    keep_with_caches(bridge.original_model)
    run_in_context(bridge.original_model, WeightCheck(bridge.original_model).before)
    run_in_context(bridge.original_model, backend.run)
    run_in_context(bridge.original_model, backend.generate, "generate")
    return backend


def _name_hook_points(bridge: Any) -> None:
    """Take away the hook points that never fire, with the reason, and put those of attention on their blocks, too."""
    bridge.__dict__["silent"] = silent = {}
    for index, block in enumerate(bridge.blocks):
        for name, reason in getattr(block, "silent", {}).items():
            silent[f"blocks.{index}.{name}"] = reason
        for name, reason in _silent(block._modules["attn"]) if "attn" in block._modules else ():
            silent[f"blocks.{index}.attn.{name}"] = silent[f"blocks.{index}.{name}"] = reason
            _take_away(bridge, block, name)
        for name in SPLIT if "attn" in block._modules else ():
            _name_on_block(bridge, block, name, f"attn.{name}", index)
        if mixer_of(block) is not None:
            _name_on_block(bridge, block, "hook_attn_out", f"{mixer_of(block)}.hook_out", index)


def explain(model: Model, name: str) -> None:
    """HookError where a name of an attention hook point is missing from the model for a reason that is known."""
    if name in model.hook_dict:
        return
    if name in model.silent:
        raise HookError(f"{name} never fires: {model.silent[name]}.")
    layer = re.fullmatch(r"blocks\.(\d+)\.(attn\..*|hook_(attn_in|[qkv]_input))", name)
    if layer and int(layer[1]) < model.cfg.n_layers and "attn" not in model.blocks[int(layer[1])]._modules:
        live = [index for index, block in enumerate(model.blocks) if "attn" in block._modules]
        mixer = MIXERS[mixer_of(model.blocks[int(layer[1])]) or "linear_attn"]
        raise HookError(
            f"{name} does not exist: layer {layer[1]} has no softmax attention (it has {mixer} instead), and so no "
            f"heads to watch or edit. The layers that have are {live}."
        )


def filter_function(model: Model, names_filter: Any) -> Callable[[str], bool]:
    """A names filter as a function of a name; HookError where it names a hook point that is not there."""
    refuse_unknown(model, names_filter)
    return BridgeCore._normalize_names_filter(names_filter)


def refuse_unknown(model: Model, names_filter: Any) -> None:
    """UnknownHookError where one of the names in a names filter is no hook point, though others may be."""
    if names_filter is None or callable(names_filter):
        return
    if not isinstance(names_filter, str | list) or not all(isinstance(name, str) for name in names_filter):
        raise HookError(f"names_filter={names_filter!r} was given; give a hook name, a list of them, or a function.")
    known = {*model.hook_dict, *(point.name for point in model.hook_dict.values())}
    for name in [names_filter] if isinstance(names_filter, str) else names_filter:
        explain(model, name)
        if name not in known:
            similar = get_close_matches(name, known, n=1)
            hint = f"did you mean {similar[0]!r}? " if similar else ""
            raise UnknownHookError(
                f"names_filter: {name!r} matches no hook point; {hint}model.hook_dict has the names of all."
            )


def explain_filter(model: Model, names_filter: Any) -> None:
    """As `explain`, for the names in a names filter."""
    names = [names_filter] if isinstance(names_filter, str) else names_filter
    for name in names if isinstance(names, list | tuple) else ():
        explain(model, name)


def _delegate(attention: Any) -> None:
    """Let Hugging Face compute what a bridge computes itself."""
    if type(attention).forward is AttentionBridge.forward:
        return
    if not isinstance(attention, PositionEmbeddingsAttentionBridge):
        raise ModelError(
            f"The attention of this model is bridged by {type(attention).__name__}, whose computation gaze_lens cannot "
            "hand to Hugging Face. Describe the family with an adapter that uses AttentionBridge; see "
            "gaze_lens/families/adapters.py."
        )
    attention.__class__ = DelegatingAttentionBridge
    _relay_norms(attention)


def _relay_norms(attention: Any) -> None:
    """Let the norms and the gate of Hugging Face's module fire the bridge's hook points."""
    head_dim = attention.original_component.head_dim
    for letter in "qk":
        norm, point = (attention._modules.get(name) for name in (f"{letter}_norm", f"hook_{letter}_normed"))
        if norm is not None and point is not None:
            width = attention._modules["o" if letter == "q" else "k"].original_component
            n_heads = (width.in_features if letter == "q" else width.out_features) // head_dim
            relay = Relay(norm, point, n_heads)
            norm.register_forward_pre_hook(relay.begin)
            norm.register_forward_hook(relay.end)
    if "gate" in attention._modules and "hook_gate" in attention._modules:
        attention.gate.register_forward_hook(Relay(attention.gate, attention.hook_gate, n_heads=0).end)


def _silent(attention: Any) -> Iterator[tuple[str, str]]:
    """The hook points of an attention bridge that can never fire, and why."""
    parts = attention._modules
    yield "hook_hidden_states", UNFIRED
    if "k" not in parts:
        yield from ((name, SHARED) for name in ("hook_k", "hook_v", "hook_rot_k", "hook_k_input", "hook_v_input"))
    elif "v" not in parts:
        yield from ((name, SAME) for name in ("hook_v", "hook_v_input"))
    if attention.is_cross_attention:
        yield from ((name, UNROTATED) for name in ("hook_rot_q", "hook_rot_k"))
    for letter in "qk":
        if f"{letter}_norm" not in parts and f"hook_{letter}_normed" in parts:
            yield f"hook_{letter}_normed", UNNORMED


def _take_away(bridge: Any, block: Any, name: str) -> None:
    """Remove a hook point of a block's attention, under all its names."""
    attention = block._modules["attn"]
    point = attention._modules.pop(name, None)
    attention._hook_registry.pop(name, None)
    if point is None:
        return
    if name in block.hook_aliases:
        block.hook_aliases = {alias: target for alias, target in block.hook_aliases.items() if alias != name}
        block._hook_alias_registry.pop(name, None)
        block.__dict__.pop(name, None)
    for registered in [full for full, other in bridge._hook_registry.items() if other is point]:
        del bridge._hook_registry[registered]


def _name_on_block(bridge: Any, block: Any, name: str, target: str, index: int) -> None:
    """Give a hook point its usual name on the block, where TransformerLens does without."""
    point = bridge._hook_registry.get(f"blocks.{index}.{target}")
    if point is not None and name not in block.hook_aliases:
        block.hook_aliases = {**block.hook_aliases, name: target}
        block._register_aliases()
        bridge._hook_registry[f"blocks.{index}.{name}"] = point
