"""What all layers of one model share: the kernel to fall back on, and where the running forward is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

from gaze_lens.attention.forward_context import run_within
from gaze_lens.attention.positions import QueryKeyPositions
from gaze_lens.errors import ModelError
from gaze_lens.regions.layout import Layout

NAME = "gaze_lens"
KERNELS = ("sdpa", "eager")


@dataclass(eq=False)
class Seam:
    """What all layers of one model share: the kernel to fall back on and where the running forward is.

    default: the attention implementation that the model had, "sdpa" or "eager".
    first: the first layer that attends to the sequence itself, whose cache counts tokens.
    upcast: the model's eager attention takes the softmax in float32.
    layout: the layout of the inputs being run, set by the caller around a forward; None for raw tokens.
    seen: tokens seen when the running forward ends, told by its cache and its input.
    masks: what the layers of the running forward share: masks, places, sums of biases.
    layers: attention module -> its layer.
    """

    default: str
    first: int = 0
    upcast: bool = True
    layout: Layout | None = None
    seen: int = 0
    masks: dict[Any, Any] = field(default_factory=dict)
    layers: dict[nn.Module, "Layer"] = field(default_factory=dict)

    @classmethod
    def attach(cls, text_model: nn.Module, bridges: Mapping[nn.Module, nn.Module], *, upcast: bool = True) -> "Seam":
        """Make the hook points of a text model's attention layers live. `bridges`: attention module -> its bridge.

        The attention function must be registered before; see `attention_function.register`.
        """
        indices = (bridge.hook_pattern.layer() for bridge in bridges.values() if not bridge.is_cross_attention)
        seam = cls(kernel_of(text_model), min(indices), upcast)
        for module, bridge in bridges.items():
            module.gaze_lens_layer = seam.layers[module] = Layer(seam, bridge)
        run_within(text_model, seam.running)
        text_model.set_attn_implementation(NAME)
        return seam

    @contextmanager
    def running(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Around the text model: learn from its cache how many tokens came before, and how many come now."""
        cache = kwargs.get("past_key_values")
        before = 0 if cache is None else int(cache.get_seq_length(self.first))
        given = next(kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None)
        self.seen = before + given.shape[1]
        self.masks.clear()
        layers = self.layers.items() if any(self._rotary_hooks) else ()  # only edited keys need caches
        listening = [m.register_forward_pre_hook(layer._begin, with_kwargs=True) for m, layer in layers]
        try:
            yield
        finally:
            for handle in listening:
                handle.remove()

    @cached_property
    def _rotary_hooks(self) -> list[dict]:
        """Those of all layers."""
        return [hooks for layer in self.layers.values() for hooks in layer.rotary_hooks]

    def place(self, n_queries: int, n_keys: int, cross_attention: bool) -> QueryKeyPositions:
        """The place of a layer's matrix, one object for layers alike. Its queries are the last ones: where only the
        last logits are asked for, later layers may leave out the others. A sliding cache drops its oldest keys; a
        static one has room behind."""
        about = "place", self.seen, n_queries, n_keys, cross_attention, id(self.layout)
        if about not in self.masks:
            start = 0 if cross_attention else max(0, self.seen - n_keys)
            self.masks[about] = QueryKeyPositions(
                self.seen - n_queries, n_queries, start, n_keys, self.layout, cross_attention
            )
        return self.masks[about]


def kernel_of(text_model: nn.Module) -> str:
    """The attention implementation that a text model has; ModelError where the seam cannot stand in for it."""
    kernel = text_model.config._attn_implementation
    if kernel not in KERNELS:
        raise ModelError(
            f"The language model was loaded with attn_implementation={kernel!r}; gaze_lens works with "
            f"{' and '.join(KERNELS)}. Load it again with one of them."
        )
    return kernel


@dataclass(eq=False)
class Layer:
    """One attention layer: its bridge, whose hook points fire here, the model's seam, and the running caches.

    cache: of keys and values. shared: keys and values that later layers of the same forward use again, where they do.
    """

    seam: Seam
    bridge: nn.Module
    index: int = field(init=False)
    cross_attention: bool = field(init=False)
    cache: Any = None
    shared: Any = None

    def __post_init__(self) -> None:
        self.index, self.cross_attention = self.bridge.hook_pattern.layer(), self.bridge.is_cross_attention

    def _begin(self, _module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        """Before the attention module runs: remember the caches until the attention function is called."""
        self.cache, self.shared = kwargs.get("past_key_values"), kwargs.get("shared_kv_states")

    @cached_property
    def points(self) -> tuple[HookPoint, HookPoint]:
        """`hook_attn_scores` and `hook_pattern`."""
        return self.bridge.hook_attn_scores, self.bridge.hook_pattern

    @cached_property
    def hooks(self) -> list[dict]:
        """The dictionaries that hold what is attached to `hook_attn_scores` and `hook_pattern`."""
        return [hooks for point in self.points for hooks in hooks_of(point)]

    @cached_property
    def rotary_hooks(self) -> list[dict]:
        """Those of `hook_rot_q` and `hook_rot_k`, as far as the layer has them."""
        points = (self.bridge._modules.get(name) for name in ("hook_rot_q", "hook_rot_k"))
        return [hooks for point in points if point is not None for hooks in hooks_of(point)]


def n_hooks(point: HookPoint) -> int:
    """How many hooks a point carries, PyTorch's own included; `HookPoint.has_hooks` does not see those."""
    return sum(map(len, hooks_of(point)))


def hooks_of(point: HookPoint) -> tuple[dict, ...]:
    """The dictionaries in which PyTorch keeps what is attached to a hook point."""
    return point._forward_hooks, point._forward_pre_hooks, point._backward_hooks, point._backward_pre_hooks
