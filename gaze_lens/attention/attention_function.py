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

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.backend import NAME, Layer, Seam, n_hooks
from gaze_lens.attention.call import Call
from gaze_lens.attention.positions import CONTEXT_KEY, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.attention.shared_keys import in_one_row
from gaze_lens.errors import HookError

Acting = list[tuple[AttentionBias, Tensor]]
Rows = slice | list[int]
FEWEST_ROWS, MOST_BLOCKS = 128, 8  # queries under a biased mask at a time; more blocks save little
CACHES = (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer)


def register() -> None:
    """Make the function known to `transformers` under our name, with the masks that SDPA takes."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The function that `transformers` calls for every softmax layer: `[batch, query, head, d_head]`, None.

    It returns no weights: the bridge would fire both hook points again on them.
    """
    if len(query) != len(key):
        return in_one_row(attention, module, query, key, value, attention_mask, **kwargs)
    layer: Layer = module.gaze_lens_layer
    simple = layer.seam.default == "sdpa" and kwargs.get("softcap") is None and kwargs.get("s_aux") is None
    cache, shared, layer.cache, layer.shared = layer.cache, layer.shared, None, None
    rotary = any(layer.rotary_hooks)
    if simple and not rotary and not any(layer.hooks):
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)
    place = layer.seam.place(query.shape[-2], key.shape[-2], layer.cross_attention)
    if rotary:
        query, key = _rotated(layer, query, key, place, cache, shared)
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
    return _served(call, layer, simple, *attached), None


def _served(
    call: Call, layer: Layer, simple: bool, biases: list[AttentionBias], readers: list[RowReader]
) -> Float[Tensor, "batch query head d_head"]:
    """The model's own attention with biases in its masks; readers get their rows beside it."""
    acting = _acting(call, layer, biases)
    for reader in readers:
        _read_rows(reader, call, layer, acting)
    if simple and acting and call.place.n_queries > 1:
        return _kernel_by_heads(call, layer, acting)
    mask = _biased_mask(call, layer, acting) if acting else call.mask
    return _default_kernel(call, layer, mask) if simple else _eager_kernel(call, mask)


def _rotated(
    layer: Layer, query: Tensor, key: Tensor, place: QueryKeyPositions, cache: Any, shared: Any
) -> tuple[Tensor, Tensor]:
    """Fire `hook_rot_q` and `hook_rot_k` where something is attached; an edited key also goes into the cache.

    As in TransformerLens, `hook_rot_k` sees the keys of this forward's tokens only.
    """
    points = layer.bridge._modules
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


def _attached(layer: Layer) -> tuple[list[AttentionBias], list[RowReader]] | None:
    """The biases and readers on a layer, or None where any other hook needs the full, editable matrix."""
    biases, readers = ([handle.user_hook for handle in point.fwd_hooks] for point in layer.points)
    every = len(biases) + len(readers) == sum(map(len, layer.hooks))
    served = all(isinstance(bias, AttentionBias) and bias.relative for bias in biases)
    if every and served and all(isinstance(reader, RowReader) for reader in readers):
        return biases, readers
    return None


def _eager(call: Call, layer: Layer) -> Tensor:
    """The plain computation with both hook points fired on the full matrices, bit for bit Hugging Face's eager one."""
    scores_point, pattern_point = layer.points
    scores_point.ctx[CONTEXT_KEY] = pattern_point.ctx[CONTEXT_KEY] = call.place
    weights = call.softmax(scores_point(call.masked_scores(call.additive())))
    return call.mix(pattern_point(call.dropped(weights)))


def _eager_kernel(call: Call, mask: Tensor | None) -> Tensor:
    """The plain computation without hook points, for models whose default is eager."""
    weights = call.softmax(call.masked_scores(call.additive() if mask is call.mask else mask))
    return call.mix(call.dropped(weights))


def _default_kernel(call: Call, layer: Layer, mask: Tensor | None) -> Tensor:
    """The model's own attention, exactly as Hugging Face would call it; a bias rides in its mask."""
    kernel = ALL_ATTENTION_FUNCTIONS[layer.seam.default]
    arguments = {"dropout": call.dropout, "scaling": call.scaling, **call.extra}
    return kernel(call.module, call.query, call.key, call.value, mask, **arguments)[0]


def _kernel_by_heads(call: Call, layer: Layer, acting: Acting) -> Tensor:
    """The model's own attention on heads under the same biases at a time: the others keep the mask that they had, and
    a mask has no heads. It is made once for all layers alike."""
    n_heads = call.query.shape[1]
    alike: dict[tuple[int, ...], list[int]] = {}
    for head in range(n_heads):
        among = tuple(index for index, (bias, _) in enumerate(acting) if head in bias.heads_in(layer.index))
        alike.setdefault(among, []).append(head)
    mixed = call.query.new_empty(call.query.shape[0], call.place.n_queries, n_heads, call.value.shape[-1])
    for among, heads in alike.items():
        some = call.only(heads) if len(alike) > 1 else call
        if among:
            mixed[:, :, heads] = _kernel_by_rows(some, layer, _sum_of(call, layer.seam, [acting[i][1] for i in among]))
        else:
            mixed[:, :, heads] = _default_kernel(some, layer, call.mask)
    return mixed


def _kernel_by_rows(call: Call, layer: Layer, mask: Tensor) -> Tensor:
    """The model's own attention under a biased mask. A kernel pays for what a mask hides, so where no query sees later
    keys, some queries at a time are given the keys up to the last of them."""
    if call.mask is not None or not call.causal:
        return _default_kernel(call, layer, mask)
    n_queries, before = call.place.n_queries, call.place.query_start - call.place.key_start
    size = max(FEWEST_ROWS, -(-n_queries // MOST_BLOCKS))
    parts = []
    for start in range(0, n_queries, size):
        stop = min(start + size, n_queries)
        part = call.block(slice(start, stop), slice(before + stop))
        parts.append(_default_kernel(part, layer, mask[..., start:stop, : before + stop]))
    return torch.cat(parts, dim=1)


def _acting(call: Call, layer: Layer, biases: list[AttentionBias]) -> Acting:
    """The biases that act here, each with what it adds in its heads."""
    if not biases:
        return []
    visible, dtype = _masks(call, layer.seam)[0], call.query.dtype
    added = [(bias, bias.dense(layer.index, call.place, visible, dtype)) for bias in biases]
    return [(bias, one) for bias, one in added if one is not None]


def _biased_mask(call: Call, layer: Layer, acting: Acting, rows: Rows = slice(None)) -> Tensor:
    """The additive mask with the biases in it, `[batch, #head, query, key]`."""
    _, mask = _masks(call, layer.seam, rows)
    for bias, added in acting:
        mask = torch.addcmul(mask, bias.gate(layer.index, call.query.shape[1], mask), added[:, :, rows])
    return mask


def _sum_of(call: Call, seam: Seam, added: list[Tensor]) -> Tensor:
    """The additive mask with what some biases add, `[batch, #head, query, key]`."""
    _, mask = _masks(call, seam)
    about = "sum", id(mask), *map(id, added)
    if about not in seam.masks:
        seam.masks[about] = added, sum(added, mask)  # while they are kept, no others get their ids
    return seam.masks[about][1]


def _masks(call: Call, seam: Seam, rows: Rows = slice(None)) -> tuple[Tensor, Tensor]:
    """What (some rows of) the queries see, and it as a number to add: `[batch, #head, query, key]`, made once for
    layers alike."""
    some = None if isinstance(rows, slice) else tuple(rows)
    about = id(call.mask), some, id(call.place), call.causal, call.query.device
    if about not in seam.masks:
        batch = call.query.shape[0]
        masks = call.visible(rows).expand(batch, -1, -1, -1), call.additive(rows).expand(batch, -1, -1, -1)
        seam.masks[about] = call.mask, masks  # while it is kept, no other mask gets its id
    return seam.masks[about][1]


def _read_rows(reader: RowReader, call: Call, layer: Layer, acting: Acting) -> None:
    """Hand a reader its rows of the pattern, computed for these rows alone, without repeating KV heads."""
    positions, place = reader.queries.within(call.place.queries), call.place
    if not positions:
        return
    every = len(positions) == place.n_queries
    rows = slice(None) if every else [position - place.query_start for position in positions]
    query = call.query[:, :, rows]
    batch, n_heads, n_rows, d_head = query.shape
    grouped = query.reshape(batch, -1, call.groups * n_rows, d_head)
    scores = call.scores(grouped, call.key).reshape(batch, n_heads, n_rows, -1)
    reader.read(call.softmax(scores + _biased_mask(call, layer, acting, rows)), positions, place, layer.index)
