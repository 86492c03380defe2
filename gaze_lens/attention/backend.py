"""What all attention layers of one model share, and where each forward of it begins.

backend = AttentionBackend.attach(text_model, {module: bridge for each attention layer})
backend.layout = inputs.layout            # what `HookedVLM` does around every forward
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn
from transformer_lens.hook_points import HookPoint

from gaze_lens.attention.forward_context import run_in_context
from gaze_lens.attention.forward_state import STATE, Acted, ForwardState, add_up, settle
from gaze_lens.attention.model_lock import ModelLock
from gaze_lens.attention.step_condition import NewestTokens, TokenWatch
from gaze_lens.errors import InputError, ModelError
from gaze_lens.families.cache_argument import cache_argument, cache_in
from gaze_lens.regions.layout import Layout

NAME = "gaze_lens"
KERNELS = ("sdpa", "eager")
CACHES = "gaze_lens_caches"  # the keyword argument under which a layer's caches reach the attention function


@dataclass(eq=False)
class AttentionBackend:
    """What all attention layers of one model share.

    config: the text model's, which says by which attention implementation it runs.
    default: the attention implementation that the model had, "sdpa" or "eager".
    first: the first layer that attends to the sequence itself, whose cache counts tokens.
    upcast: the model's eager attention takes the softmax in float32.
    layers: attention module -> its layer.
    layout: that of the inputs being run, set by the caller around a forward; None for raw tokens.
    records: what acted in forwards is added to each of them, for as long as it is listed here.
    lock: held by the thread that runs the model.
    watch: keeps the logits of each forward for the conditions of the next one, while a run has edits.
    in_branch: the forwards that run now are of another branch of a decoding than the generation's own.
    """

    config: Any
    default: str
    first: int = 0
    upcast: bool = True
    layers: dict[nn.Module, "AttentionLayer"] = field(default_factory=dict)
    layout: Layout | None = None
    records: list[Acted] = field(default_factory=list)
    lock: ModelLock = field(default_factory=ModelLock)
    watch: TokenWatch | None = None
    in_branch: bool = False

    @classmethod
    def attach(cls, text_model: Any, bridges: Mapping[Any, Any], *, upcast: bool = True) -> "AttentionBackend":
        """Make the hook points of a text model's attention layers live. `bridges`: attention module -> its bridge.

        The attention function must be registered before; see `attention_function.register`.
        """
        cache_argument(text_model.forward)  # refuses a model that takes caches under a name unknown here
        indices = (bridge.hook_pattern.layer() for bridge in bridges.values() if not bridge.is_cross_attention)
        backend = cls(text_model.config, kernel_of(text_model), min(indices), upcast)
        for module, bridge in bridges.items():
            module.gaze_lens_layer = backend.layers[module] = AttentionLayer(backend, bridge)
        run_in_context(text_model, backend.forward)
        text_model.set_attn_implementation(NAME)
        return backend

    @contextmanager
    def forward(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Around the text model: make the forward's state, which goes along with its arguments.

        The model's cache tells how many tokens came before, and its input how many come now.
        """
        self.check_in_use()
        self.refuse_output_attentions(kwargs)
        with self.lock.hold(), self._listening():
            cache = cache_in(kwargs)
            before = 0 if cache is None else int(cache.get_seq_length(self.first))
            tokens = next(kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None)
            state = kwargs[STATE] = ForwardState(self.layout, before + tokens.shape[1])
            state.newest = self._newest(before, state.n_seen, len(tokens))
            try:
                yield
            finally:
                self.report(state)
                state.clear()

    def _newest(self, before: int, n_seen: int, n_rows: int) -> NewestTokens | None:
        """What the conditions of a forward are asked about. A prompt may come in parts, and partly from a cache."""
        prefill = before == 0 or (self.layout is not None and n_seen <= self.layout.length)
        return self.watch.newest(n_rows, n_seen - before, prefill=prefill) if self.watch else None

    @contextmanager
    def run(self, _kwargs: dict[str, Any]) -> Iterator[None]:
        """Around the whole model: no other thread's run comes between."""
        with self.lock.hold():
            yield

    @contextmanager
    def generate(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Around the model's `generate`, as `run`."""
        with self.lock.hold(), self.watch.generating(kwargs) if self.watch else nullcontext():
            yield

    @contextmanager
    def watching(self, hf_model: Any) -> Iterator[None]:
        """Keep the logits of each forward inside for the conditions of the next one."""
        if self.watch is not None:  # a run inside a block
            yield
            return
        self.watch = TokenWatch()
        try:
            with self.watch.attached(hf_model):
                yield
        finally:
            self.watch = None

    def check_in_use(self) -> None:
        """ModelError where the model was switched to another attention implementation: every hook would be dead."""
        if self.config._attn_implementation != NAME:
            raise ModelError(
                f"The language model was switched to attn_implementation={self.config._attn_implementation!r}; hooks "
                f"on attention need {NAME!r}, which runs {self.default!r} wherever nothing is attached. Choose the "
                "implementation when you load the model, before it is wrapped."
            )

    def refuse_output_attentions(self, kwargs: dict[str, Any]) -> None:
        """InputError where Hugging Face would gather the weights of all layers, which the attention function keeps to
        itself: the result would be empty."""
        if kwargs.get("output_attentions") or getattr(self.config, "output_attentions", False):
            raise InputError(
                "output_attentions is not served; read blocks.L.attn.hook_pattern with run_with_cache, or in a hook."
            )

    def report(self, state: ForwardState) -> None:
        """Add what acted in a forward to the records that are kept."""
        for record in self.records:
            add_up(record, state.acted)

    @contextmanager
    def recording(self) -> Iterator[Acted]:
        """A record of what acts in the forwards inside."""
        record: Acted = {}
        self.records.append(record)
        try:
            yield record
        finally:
            self.records[:] = [other for other in self.records if other is not record]
            settle(record)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Let the attention function have its layer's caches; only a forward in which keys may be edited needs them."""
        layers = self.layers.items() if any(self._rotary_hooks) else ()
        handles = [module.register_forward_pre_hook(_hand_on_caches, with_kwargs=True) for module, _ in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @cached_property
    def _rotary_hooks(self) -> list[dict]:
        """Those of all layers."""
        return [hooks for layer in self.layers.values() for hooks in layer.rotary_hooks]


def _hand_on_caches(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Before an attention module runs: hand its cache, and what layers share, on to the attention function."""
    return args, {**kwargs, CACHES: (cache_in(kwargs), kwargs.get("shared_kv_states"))}


def kernel_of(text_model: Any) -> str:
    """The attention implementation that a text model has; ModelError where ours cannot stand in for it."""
    kernel = text_model.config._attn_implementation
    if kernel not in KERNELS:
        raise ModelError(
            f"The language model was loaded with attn_implementation={kernel!r}; gaze_lens works with "
            f"{' and '.join(KERNELS)}. Load it again with one of them."
        )
    return kernel


@dataclass(eq=False)
class AttentionLayer:
    """One attention layer: its bridge, whose hook points fire in the attention function, and the model's backend."""

    backend: AttentionBackend
    bridge: Any
    index: int = field(init=False)
    cross_attention: bool = field(init=False)

    def __post_init__(self) -> None:
        self.index, self.cross_attention = self.bridge.hook_pattern.layer(), self.bridge.is_cross_attention

    @cached_property
    def points(self) -> tuple[HookPoint, HookPoint]:
        """`hook_attn_scores` and `hook_pattern`."""
        return self.bridge.hook_attn_scores, self.bridge.hook_pattern

    @cached_property
    def hooks(self) -> list[dict]:
        """The dictionaries that hold what is attached to `hook_attn_scores` and `hook_pattern`."""
        return [hooks for point in self.points for hooks in hooks_of(point)]

    @cached_property
    def rotary_points(self) -> list[HookPoint]:
        """`hook_rot_q` and `hook_rot_k`, as far as the layer has them."""
        points = (self.bridge._modules.get(name) for name in ("hook_rot_q", "hook_rot_k"))
        return [point for point in points if point is not None]

    @cached_property
    def rotary_hooks(self) -> list[dict]:
        """What is attached to them."""
        return [hooks for point in self.rotary_points for hooks in hooks_of(point)]

    def functions(self) -> tuple[Any, ...]:
        """What is attached to the layer's hook points: the functions that users gave, and raw PyTorch hooks."""
        points = (*self.points, *self.rotary_points)
        handles = [handle for point in points for handle in point.fwd_hooks]
        functions = [handle.user_hook for handle in handles]
        if len(handles) < sum(map(n_hooks, points)):
            ours = {handle.hook.id for handle in handles}
            every = (item for point in points for hooks in hooks_of(point) for item in hooks.items())
            functions += [function for key, function in every if key not in ours]
        return tuple(functions)


def n_hooks(point: HookPoint) -> int:
    """How many hooks a point carries, PyTorch's own included; `HookPoint.has_hooks` does not see those."""
    return sum(map(len, hooks_of(point)))


def hooks_of(point: HookPoint) -> tuple[dict, ...]:
    """The dictionaries in which PyTorch keeps what is attached to a hook point."""
    return point._forward_hooks, point._forward_pre_hooks, point._backward_hooks, point._backward_pre_hooks
