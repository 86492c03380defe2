"""Bridges of TransformerLens that nobody uses cost no time: for a forward, Hugging Face's own modules take their place.

    bypass = Bypass.attach(model, text_model, config)       # once, after the bridges are live

A bridge calls the module that it wraps and hands input and output to hook points; a norm's bridge computes the norm a
second time. Before a language model runs, every bridge without a hook in it is swapped for the module that it wraps,
and afterwards, whatever happens, put back. While the model generates, the swap is kept from step to step. Hook points
that the attention function fires by itself need no bridge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle
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

from gaze_lens.attention.forward_context import run_in_context
from gaze_lens.model.projections import InputProjection, OutputProjection

FIRED_BY_ATTENTION = ("hook_attn_scores", "hook_pattern", "hook_rot_q", "hook_rot_k")
SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")
Place = tuple[dict[str, nn.Module | None], str, nn.Module, nn.Module]
HARMLESS = ("transformer_lens.", "gaze_lens.model.resid_mid")
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
        points += self.bridge.__dict__.get("gaze_lens_points", ())
        self.hooks = [point.__dict__[kind] for point in points for kind in (*AFTER, "_forward_pre_hooks")]
        self.hooks += [bridge.__dict__[kind] for bridge in within for kind in AFTER]

    def plain(self) -> bool:
        """Whether the bridge, without hooks, would do nothing but call what it wraps."""
        own = self.bridge.__dict__
        if "forward" in own or own.get("_stop_at_layer_idx") is not None or self.bridge.compatibility_mode:
            return False
        hooks = own["_forward_pre_hooks"]
        # The capture hooks of TransformerLens' blocks do nothing while SWITCHES are off, nor do ours without hooks.
        return not hooks or all(getattr(hook, "__module__", "").startswith(HARMLESS) for hook in hooks.values())


def _points(bridge: Any) -> list[HookPoint]:
    """The hook points that a bridge fires itself."""
    attention = isinstance(bridge, AttentionBridge)
    children = bridge._modules.items()
    return [
        point
        for name, point in children
        if isinstance(point, HookPoint) and not (attention and name in FIRED_BY_ATTENTION)
    ]


def _plain(bridge: Any) -> bool:
    """Whether a bridge, without hooks, does what the module that it wraps does."""
    if isinstance(bridge, NormalizationBridge) and not bridge.use_native_layernorm_autograd:
        return False  # it computes the norm in its own way, which rounds differently
    return type(bridge).forward in PLAIN and isinstance(bridge._modules.get("_original_component"), nn.Module)


@dataclass(eq=False)
class Level:
    """The bridges that are away in one forward, or for the whole of a generation.

    places: where they stand. held: they stay away between forwards. state: what this was decided by.
    """

    places: list[Place]
    held: bool
    state: tuple[int, bool]


@dataclass(eq=False)
class Bypass:
    """The bridges of a language model that can be taken out of the way, and those that are.

    slots: the bridges. config: where TransformerLens' switches are. levels: a forward may run within a hook of another.
    """

    slots: list[Slot]
    config: Any
    levels: list[Level] = field(default_factory=list)
    hooks: list[dict] = field(init=False)

    def __post_init__(self) -> None:
        self.hooks = list({id(hooks): hooks for slot in self.slots for hooks in slot.hooks}.values())

    @classmethod
    def attach(cls, model: nn.Module, text_model: nn.Module, config: Any) -> "Bypass":
        """Take idle bridges out of the way whenever the text model of a model runs, or the model generates."""
        slots = [
            Slot(parent, name, bridge)
            for parent in text_model.modules() if not isinstance(parent, GeneralizedComponent)
            for name, bridge in parent._modules.items() if isinstance(bridge, GeneralizedComponent) and _plain(bridge)
        ]  # fmt: skip
        bypass = cls(slots, config)
        run_in_context(text_model, bypass.forward)
        run_in_context(model, bypass.generation, "generate")
        return bypass

    @contextmanager
    def forward(self, _kwargs: dict[str, Any]) -> Iterator[None]:
        """Around a forward. In a generation, the bridges are away already; a hook that was added since the last step
        brings its bridge back."""
        if self.levels and self.levels[-1].held:
            if self.levels[-1].state != self._state():
                self._put_all_back()
                self.levels[-1] = self._level(held=True)
                self._take()
            yield
            return
        with self._away(held=False):
            yield

    @contextmanager
    def generation(self, _kwargs: dict[str, Any]) -> Iterator[None]:
        """Around a generation: what is away stays away between its steps."""
        with self._away(held=True):
            yield

    @contextmanager
    def _away(self, *, held: bool) -> Iterator[None]:
        """Take the idle bridges away; afterwards, whatever happens, all is as it was before."""
        self._put_all_back()
        self.levels.append(self._level(held=held))
        try:
            self._take()
            yield
        finally:
            for modules, name, bridge, _ in self.levels.pop().places:
                modules[name] = bridge
            self._take()

    def _state(self) -> tuple[int, bool]:
        """What changes when a hook is added, or a switch of TransformerLens is turned on.

        PyTorch numbers all hooks that it ever registers, on any module. One that is removed changes nothing here: its
        bridge stays in place, which is as right, and slower.
        """
        return RemovableHandle.next_id, any(getattr(self.config, switch, False) for switch in SWITCHES)

    def _level(self, *, held: bool) -> Level:
        """The bridges that would do nothing now."""
        state = self._state()
        hooked = any(self.hooks)
        idle = () if state[1] else (s for s in self.slots if s.plain() and not (hooked and any(s.hooks)))
        return Level([slot.place for slot in idle], held, state)

    def _take(self) -> None:
        """Put the modules that idle bridges wrap in their place."""
        for modules, name, _, original in self.levels[-1].places if self.levels else ():
            modules[name] = original

    def _put_all_back(self) -> None:
        """Every bridge is in its place."""
        for level in self.levels:
            for modules, name, bridge, _ in level.places:
                modules[name] = bridge
