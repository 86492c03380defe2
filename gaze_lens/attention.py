"""The attention seam: Hugging Face computes queries, keys and values; scores, softmax and hook points are ours.

    seam = Seam.attach(text_model, {module: bridge for each attention layer})
    ...
    seam.layout = inputs.layout            # what `HookedVLM` does around every forward

`transformers` calls one registered function for every softmax layer of a language model, with the query, key and
value after rotary embedding, norms and cache. Here that function fires the bridge's `hook_rot_q`, `hook_rot_k`,
`hook_attn_scores` (pre-softmax, masked) and `hook_pattern` (post-softmax), all editable, in prefill and decoding.
A layer where nothing is attached runs the model's own kernel, and so does one that carries only `AttentionBias` and
`RowReader` hooks. This is the only file that knows the attention registry; it knows no model by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gaze_lens.attention_call import Call
from gaze_lens.attention_hooks import PLACE, AttentionBias, Place, RowReader
from gaze_lens.errors import HookError, ModelError
from gaze_lens.regions import Layout
from gaze_lens.shared_keys import in_one_row

NAME = "gaze_lens"
KERNELS = ("sdpa", "eager")
CACHES = (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer)


@dataclass(eq=False)
class Seam:
    """What all layers of one model share: the kernel to fall back on and where the running forward is.

    default: the attention implementation that the model had, "sdpa" or "eager".
    first: the first layer that attends to the sequence itself, whose cache counts tokens.
    upcast: the model's eager attention takes the softmax in float32.
    layout: the layout of the inputs being run, set by the caller around a forward; None for raw tokens.
    seen: tokens seen when the running forward ends, told by its cache and its input.
    masks: those of the running forward, which its layers share.
    """

    default: str
    first: int = 0
    upcast: bool = True
    layout: Layout | None = None
    seen: int = 0
    masks: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def attach(cls, text_model: nn.Module, bridges: Mapping[nn.Module, nn.Module], *, upcast: bool = True) -> "Seam":
        """Make the hook points of a text model's attention layers live. `bridges`: attention module -> its bridge."""
        indices = (bridge.hook_pattern.layer() for bridge in bridges.values() if not bridge.is_cross_attention)
        seam = cls(kernel_of(text_model), min(indices), upcast)
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        for module, bridge in bridges.items():
            module.gaze_lens_layer = layer = Layer(seam, bridge)
            module.register_forward_pre_hook(layer._begin, with_kwargs=True)
        text_model.register_forward_pre_hook(seam._begin, with_kwargs=True)
        text_model.set_attn_implementation(NAME)
        return seam

    def _begin(self, _module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        """Before the text model runs: learn from its cache how many tokens came before, and how many come now."""
        cache = kwargs.get("past_key_values")
        before = 0 if cache is None else int(cache.get_seq_length(self.first))
        given = next(kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None)
        self.seen = before + given.shape[1]
        self.masks.clear()

    def place(self, n_queries: int, n_keys: int, crossed: bool) -> Place:
        """The place of a layer's matrix. Its queries are the last ones: where only the last logits are asked for, later
        layers may leave out the others. A sliding cache drops its oldest keys; a static one has room behind."""
        first = self.seen - n_queries
        if crossed:
            return Place(first, n_queries, 0, n_keys, self.layout, crossed=True)
        return Place(first, n_queries, max(0, self.seen - n_keys), n_keys, self.layout)


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
    cache: Any = None
    shared: Any = None

    def __post_init__(self) -> None:
        self.index = self.bridge.hook_pattern.layer()

    def _begin(self, _module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        """Before the attention module runs: remember the caches until the attention function is called."""
        self.cache, self.shared = kwargs.get("past_key_values"), kwargs.get("shared_kv_states")

    def points(self) -> tuple[HookPoint, HookPoint]:
        """`hook_attn_scores` and `hook_pattern`."""
        return self.bridge.hook_attn_scores, self.bridge.hook_pattern


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The function that `transformers` calls for every softmax layer: `[batch, query, head, d_head]`, None.

    It returns no weights: the bridge would fire both hook points again on them.
    """
    if len(query) != len(key):
        return in_one_row(attention, module, query, key, value, attention_mask, **kwargs)
    layer: Layer = module.gaze_lens_layer
    place = layer.seam.place(query.shape[-2], key.shape[-2], layer.bridge.is_cross_attention)
    query, key = _rotated(layer, query, key, place)
    scaling = kwargs.pop("scaling", None)
    call = Call(
        module, query, key, value, attention_mask, place,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=kwargs.pop("softcap", None), sinks=kwargs.pop("s_aux", None),
        dropout=kwargs.pop("dropout", 0.0), upcast=layer.seam.upcast, extra=kwargs,
    )  # fmt: skip
    attached = _attached(layer)
    if attached is None:
        return _eager(call, layer), None
    biases, readers = attached
    mask = _biased_mask(call, layer, biases)
    for reader in readers:
        _read_rows(reader, call, layer, mask)
    plain = layer.seam.default == "eager" or call.softcap is not None or call.sinks is not None
    return (_eager_kernel(call, mask) if plain else _default_kernel(call, layer, mask)), None


def _rotated(layer: Layer, query: Tensor, key: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """Fire `hook_rot_q` and `hook_rot_k` where something is attached; an edited key also goes into the cache.

    As in TransformerLens, `hook_rot_k` sees the keys of this forward's tokens only.
    """
    points = layer.bridge._modules
    cache, shared, layer.cache, layer.shared = layer.cache, layer.shared, None, None
    if "hook_rot_q" in points and n_hooks(points["hook_rot_q"]):
        query = points["hook_rot_q"](query)
    if "hook_rot_k" in points and n_hooks(points["hook_rot_k"]):
        first, given = place.query_start - place.key_start, key
        new = key[:, :, first : first + place.n_queries]
        edited = points["hook_rot_k"](new)
        if edited is not new:
            key = torch.cat([key[:, :, :first], edited, key[:, :, first + place.n_queries :]], dim=2)
            _share(shared, given, key)
        if cache is not None:
            _store(cache.layers[layer.index], key, edited is not new)
    return query, key


def _share(shared: Any, given: Tensor, key: Tensor) -> None:
    """Let the later layers that use a layer's keys again use the edited ones."""
    for name, (kept, values) in list((shared or {}).items()):
        if kept is given:
            shared[name] = key, values


def _store(cache: Any, key: Tensor, changed: bool) -> None:
    """Put keys that a hook may have edited into a layer of the running cache: later steps read them there."""
    if type(cache) in CACHES:
        kept = key[:, :, key.shape[2] - cache.keys.shape[2] :]
        cache.keys = cache.keys.copy_(kept.detach()) if cache.is_compileable else kept
    elif changed:
        raise HookError(
            f"hook_rot_k cannot be edited under a {type(cache).__name__}: the edit would be lost in the next step. Use "
            "the default cache or cache_implementation='static'."
        )


def n_hooks(point: HookPoint) -> int:
    """How many hooks a point carries, PyTorch's own included; `HookPoint.has_hooks` does not see those."""
    kinds = (point._forward_hooks, point._forward_pre_hooks, point._backward_hooks, point._backward_pre_hooks)
    return sum(map(len, kinds))


def _attached(layer: Layer) -> tuple[list[AttentionBias], list[RowReader]] | None:
    """The biases and readers on a layer, or None where any other hook needs the full, editable matrix."""
    found: tuple[list, list] = ([], [])
    for point, kind, into in zip(layer.points(), (AttentionBias, RowReader), found, strict=True):
        served = [handle.user_hook for handle in point.fwd_hooks if isinstance(handle.user_hook, kind)]
        others = n_hooks(point) - len(served)
        if others or any(not bias.relative for bias in served if isinstance(bias, AttentionBias)):
            return None
        into.extend(served)
    return found


def _eager(call: Call, layer: Layer) -> Tensor:
    """The plain computation with both hook points fired on the full matrices, bit for bit Hugging Face's eager one."""
    scores_point, pattern_point = layer.points()
    scores_point.ctx[PLACE] = pattern_point.ctx[PLACE] = call.place
    weights = call.softmax(scores_point(call.masked_scores(call.additive())))
    return call.mix(pattern_point(call.dropped(weights)))


def _eager_kernel(call: Call, mask: Tensor | None) -> Tensor:
    """The plain computation without hook points, for models whose default is eager."""
    weights = call.softmax(call.masked_scores(call.additive() if mask is None else mask))
    return call.mix(call.dropped(weights))


def _default_kernel(call: Call, layer: Layer, mask: Tensor | None) -> Tensor:
    """The model's own attention, exactly as Hugging Face would call it; a bias rides in its mask."""
    kernel = ALL_ATTENTION_FUNCTIONS[layer.seam.default]
    mask = call.mask if mask is None else mask
    arguments = {"dropout": call.dropout, "scaling": call.scaling, **call.extra}
    return kernel(call.module, call.query, call.key, call.value, mask, **arguments)[0]


def _biased_mask(call: Call, layer: Layer, biases: list[AttentionBias]) -> Tensor | None:
    """The additive mask with the biases in it, `[batch, head, query, key]`; None where no bias acts here."""
    if not biases:
        return None
    visible, mask = _masks(call, layer.seam)
    acting = False
    for bias in biases:
        added = bias.dense(layer.index, call.place, visible, call.query.dtype)
        if added is not None:
            chosen = bias.gate(layer.index, call.query.shape[1], call.query.device)
            mask, acting = torch.where(chosen & visible, mask + added, mask), True
    return mask if acting else None


def _masks(call: Call, seam: Seam) -> tuple[Tensor, Tensor]:
    """What the queries see, and it as a number to add: `[batch, #head, query, key]`, made once for layers alike."""
    place, causal = call.place, (call.extra.get("is_causal"), getattr(call.module, "is_causal", True))
    about = id(call.mask), place.n_queries, place.key_start, place.n_keys, place.crossed, causal, call.query.device
    if about not in seam.masks:
        batch = call.query.shape[0]
        masks = call.visible().expand(batch, -1, -1, -1), call.additive().expand(batch, -1, -1, -1)
        seam.masks[about] = call.mask, *masks  # while it is kept, no other mask gets its id
    return seam.masks[about][1:]


def _read_rows(reader: RowReader, call: Call, layer: Layer, mask: Tensor | None) -> None:
    """Hand a reader its rows of the pattern, computed for these rows alone, without repeating KV heads."""
    positions = reader.queries.within(call.place.queries)
    if not positions:
        return
    rows = [position - call.place.query_start for position in positions]
    query = call.query[:, :, rows]
    batch, n_heads, n_rows, d_head = query.shape
    grouped = query.reshape(batch, -1, call.groups * n_rows, d_head)
    scores = call.scores(grouped, call.key).reshape(batch, n_heads, n_rows, -1)
    mask = call.additive(rows) if mask is None else mask[:, :, rows]
    reader.read(call.softmax(scores + mask), positions, call.place, layer.index)
