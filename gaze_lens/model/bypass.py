"""Bridges of TransformerLens that nobody uses cost no time: for a forward, Hugging Face's own modules take their place.

    bypass = Bypass.attach(text_model)       # once, after the bridges are live

A bridge calls the module that it wraps and hands input and output to hook points; a norm's bridge computes the norm a
second time. Before a language model runs, every bridge without a hook in it is taken out of the way, and afterwards,
whatever happens, put back. Hook points that the attention seam fires by itself need no bridge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    GatedMLPBridge,
    LinearBridge,
    MLPBridge,
    NormalizationBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from gaze_lens.attention.forward_context import run_within
from gaze_lens.model.projections import InputProjection, OutputProjection

SEAM = ("hook_attn_scores", "hook_pattern", "hook_rot_q", "hook_rot_k")
SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
Place = tuple[dict[str, nn.Module], str, nn.Module, nn.Module]
AFTER = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
PLAIN = {  # without hooks, these do what the module that they wrap does
    kind.forward for kind in (
        AttentionBridge, BlockBridge, GatedMLPBridge, LinearBridge, MLPBridge, NormalizationBridge, InputProjection,
        OutputProjection,
    )
}  # fmt: skip


@dataclass(eq=False)
class Slot:
    """A place in a Hugging Face module where a bridge stands.

    place: where it is put and taken away: the module's children, its name among them, the bridge and what it wraps.
    hooks: the dictionaries that hold what is attached to it, to bridges within it, and to hook points that need it.
    """

    parent: nn.Module
    name: str
    bridge: Any
    place: Place = field(init=False)
    hooks: list[dict] = field(init=False)

    def __post_init__(self) -> None:
        self.place = self.parent._modules, self.name, self.bridge, self.bridge._modules["_original_component"]
        within = [module for module in self.bridge.modules() if isinstance(module, GeneralizedComponent)]
        owner, _ = getattr(self.bridge, "gaze_lens_owner", (None, None))
        points = [point for bridge in [*within, *[owner] * (owner is not None)] for point in _points(bridge)]
        self.hooks = [point.__dict__[kind] for point in points for kind in (*AFTER, "_forward_pre_hooks")]
        self.hooks += [bridge.__dict__[kind] for bridge in within for kind in AFTER]

    def plain(self) -> bool:
        """Whether the bridge, without hooks, would do nothing but call what it wraps."""
        own = self.bridge.__dict__
        if "forward" in own or own.get("_stop_at_layer_idx") is not None or self.bridge.compatibility_mode:
            return False
        given = own["_forward_pre_hooks"]
        # The capture hooks of TransformerLens' blocks do nothing while SWITCHES are off.
        return not given or all(getattr(h, "__module__", "").startswith("transformer_lens.") for h in given.values())


def _points(bridge: Any) -> list[HookPoint]:
    """The hook points that a bridge fires itself."""
    attention = isinstance(bridge, AttentionBridge)
    children = bridge._modules.items()
    return [point for name, point in children if isinstance(point, HookPoint) and not (attention and name in SEAM)]


def _plain(bridge: Any) -> bool:
    """Whether a bridge, without hooks, does what the module that it wraps does."""
    if isinstance(bridge, NormalizationBridge) and not bridge.use_native_layernorm_autograd:
        return False  # it computes the norm in its own way, which rounds differently
    return type(bridge).forward in PLAIN and isinstance(bridge._modules.get("_original_component"), nn.Module)


@dataclass(eq=False)
class Bypass:
    """The bridges of a language model that can be taken out of the way, and those that are, in running forwards.

    They come and go in every decode step: what is written then lies side by side in the places, not on the way there.
    """

    slots: list[Slot]
    config: Any
    away: list[list[Place]] = field(default_factory=list)
    hooks: list[dict] = field(init=False)

    def __post_init__(self) -> None:
        self.hooks = list({id(hooks): hooks for slot in self.slots for hooks in slot.hooks}.values())

    @classmethod
    def attach(cls, text_model: nn.Module, config: Any) -> "Bypass":
        """Take idle bridges out of the way whenever a text model runs. config: where TransformerLens' switches are."""
        slots = [
            Slot(parent, name, bridge)
            for parent in text_model.modules() if not isinstance(parent, GeneralizedComponent)
            for name, bridge in parent._modules.items() if isinstance(bridge, GeneralizedComponent) and _plain(bridge)
        ]  # fmt: skip
        bypass = cls(slots, config)
        run_within(text_model, bypass.running)
        return bypass

    @contextmanager
    def running(self, _kwargs: dict[str, Any]) -> Iterator[None]:
        """Around a forward. A forward within a hook of another finds all bridges in place."""
        for modules, name, bridge, _ in [place for taken in self.away for place in taken]:
            modules[name] = bridge
        switched = any(getattr(self.config, switch, False) for switch in SWITCHES)
        self.away.append([] if switched else self._idle())
        try:
            self._take()
            yield
        finally:
            self._put_back()

    def _idle(self) -> list[Place]:
        """The bridges that would do nothing."""
        hooked = any(self.hooks)
        return [slot.place for slot in self.slots if slot.plain() and not (hooked and any(slot.hooks))]

    def _take(self) -> None:
        """Put the modules that the idle bridges of the running forward wrap in their place."""
        for modules, name, _, original in self.away[-1] if self.away else ():
            modules[name] = original

    def _put_back(self) -> None:
        """After a forward: all is as it was before it."""
        for modules, name, bridge, _ in self.away.pop():
            modules[name] = bridge
        self._take()
