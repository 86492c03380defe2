"""The attention function under the model: Hugging Face computes queries, keys and values; the rest is ours.

`transformers` calls one registered function for every softmax layer of a language model, with the query, key and value
after rotary embedding, norms and cache. This is that function. It fires the bridge's `hook_rot_q`, `hook_rot_k`,
`hook_attn_scores` (pre-softmax, masked) and `hook_pattern` (post-softmax), all editable, in prefill and decoding.
A layer where nothing is attached runs the model's own kernel, and so does one that carries only `AttentionBias`,
`MassEdit`, `RowReader` and `EditReader` hooks (`kernels.py`). This is the only file that knows the attention registry;
it knows no model by name.

What the layers of one forward share is in its `ForwardState`, which comes as a keyword argument. It is missing only
where a layer is called by itself, by a user: then the shapes tell the positions.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.backend import CACHES, NAME, AttentionLayer, n_hooks
from gaze_lens.attention.call import Call
from gaze_lens.attention.edit_reader import EditMark
from gaze_lens.attention.forward_state import STATE, ForwardState
from gaze_lens.attention.kernels import Known, served
from gaze_lens.attention.mass_edit import MassEdit
from gaze_lens.attention.positions import CONTEXT_KEY, SINKS_KEY, STATE_KEY, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.attention.shared_keys import in_one_row
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.errors import HookError

EDITABLE_CACHES = (DynamicLayer, DynamicSlidingWindowLayer, StaticLayer, StaticSlidingWindowLayer)
Caches = tuple[Any, Any]  # a layer's cache of keys and values, and what later layers of the forward use again


def register() -> None:
    """Make the function known to `transformers` under our name, with the masks that SDPA takes."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.compiler.disable  # compiled code would not see hooks that are attached later
def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The function that `transformers` calls for every softmax layer: `[batch, query, head, d_head]`, None.

    It returns no weights: the bridge would fire both hook points again on them.
    """
    layer: AttentionLayer = module.gaze_lens_layer  # type: ignore[assignment] # set by `AttentionBackend.attach`
    state: ForwardState | None = kwargs.pop(STATE, None)
    if len(query) != len(key):
        return in_one_row(attention, module, query, key, value, attention_mask, state, **kwargs)
    caches: Caches = kwargs.pop(CACHES, (None, None))
    simple = layer.backend.default == "sdpa" and kwargs.get("softcap") is None and kwargs.get("s_aux") is None
    hooked = any(layer.hooks) or any(layer.rotary_hooks)
    if state is not None:
        state.check_hooks(layer.index, layer.functions() if hooked else ())
    if attention_mask is None and state is not None and _left_out(layer, state, query, key):
        attention_mask = state.triangle(query, key)
    if simple and not hooked:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)
    if state is not None:
        return _attend(layer, state, caches, simple, module, query, key, value, attention_mask, kwargs), None
    state = _state_of_lone_layer(layer, query, key, attention_mask)
    mixed = _attend(layer, state, caches, simple, module, query, key, value, attention_mask, kwargs)
    layer.backend.report(state)
    return mixed, None


def _left_out(layer: AttentionLayer, state: ForwardState, query: Tensor, key: Tensor) -> bool:
    """Whether the model left out the first queries: in Gemma 4, layers that only use keys again do so in `generate`."""
    positions = state.positions(query.shape[-2], key.shape[-2], layer.cross_attention)
    return not layer.cross_attention and positions.n_queries > 1 and positions.query_start > positions.key_start


def _attend(
    layer: AttentionLayer, state: ForwardState, caches: Caches, simple: bool, module: nn.Module,
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any],
) -> Tensor:  # fmt: skip
    """Attention with hook points: the matrices built and shown where a hook wants them, else the fast kernel."""
    _check_mask(layer, key, mask)
    positions = state.positions(query.shape[-2], key.shape[-2], layer.cross_attention)
    if any(layer.rotary_hooks):
        query, key = _rotated(layer, query, key, positions, *caches)
    scaling = kwargs.pop("scaling", None)
    call = Call(
        module, query, key, value, mask, positions,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=kwargs.pop("softcap", None), sinks=kwargs.pop("s_aux", None),
        dropout=kwargs.pop("dropout", 0.0), upcast=layer.backend.upcast, extra=kwargs,
    )  # fmt: skip
    if any(layer.hooks):
        state.check_masses([handle.user_hook for handle in layer.points[0].fwd_hooks], positions)
    attached = _edits_and_readers(layer)
    return _with_matrices(call, layer, state) if attached is None else served(call, layer, state, simple, *attached)


def _check_mask(layer: AttentionLayer, key: Tensor, mask: Tensor | None) -> None:
    """HookError for a mask over another number of keys, as which Hugging Face's kernels do not take it either."""
    if mask is not None and mask.shape[-1] not in (1, key.shape[-2]):
        raise HookError(
            f"The mask of layer {layer.index} is over {mask.shape[-1]} keys, and there are {key.shape[-2]}; give one "
            "over the keys that the cache holds and those of the new tokens."
        )


def _state_of_lone_layer(layer: AttentionLayer, query: Tensor, key: Tensor, mask: Tensor | None) -> ForwardState:
    """The state for a layer that is called by itself. HookError where nothing tells what its queries see."""
    n_queries, n_keys = query.shape[-2], key.shape[-2]
    if mask is None and 1 < n_queries != n_keys and not layer.cross_attention:
        raise HookError(
            f"Layer {layer.index} was called by itself with {n_queries} queries, {n_keys} keys and no attention_mask, "
            "so that nothing says which keys a query sees. Pass attention_mask, or run the whole model."
        )
    return ForwardState.of_shapes(n_queries, n_keys, cross_attention=layer.cross_attention)


def _rotated(
    layer: AttentionLayer, query: Tensor, key: Tensor, positions: QueryKeyPositions, cache: Any, shared: Any
) -> tuple[Tensor, Tensor]:
    """Fire `hook_rot_q` and `hook_rot_k` where something is attached; an edited key also goes into the cache.

    As in TransformerLens, `hook_rot_k` sees the keys of this forward's tokens only.
    """
    points = layer.bridge._modules
    if "hook_rot_q" in points and n_hooks(points["hook_rot_q"]):
        query = points["hook_rot_q"](query)
    if "hook_rot_k" in points and n_hooks(points["hook_rot_k"]):
        first, original = positions.query_start - positions.key_start, key
        new = key[:, :, first : first + positions.n_queries]
        edited = points["hook_rot_k"](new)
        if edited is not new:
            key = torch.cat([key[:, :, :first], edited, key[:, :, first + positions.n_queries :]], dim=2)
            _share(shared, original, key)
        if cache is not None:
            _store(cache.layers[layer.index], key, edited is not new)
    return query, key


def _share(shared: Any, original: Tensor, key: Tensor) -> None:
    """Let the later layers that use a layer's keys again use the edited ones."""
    for name, (keys, values) in list((shared or {}).items()):
        if keys is original:
            shared[name] = key, values


def _store(cache: Any, key: Tensor, changed: bool) -> None:
    """Put keys that a hook may have edited into a layer of the running cache: later steps read them there."""
    if type(cache) in EDITABLE_CACHES:
        cached = key[:, :, key.shape[2] - cache.keys.shape[2] :]
        cache.keys = cache.keys.copy_(cached.detach()) if cache.is_compileable else cached
    elif changed:
        raise HookError(
            f"hook_rot_k cannot be edited under a {type(cache).__name__}: the edit would be lost in the next step. Use "
            "the default cache or cache_implementation='static'."
        )


def _edits_and_readers(layer: AttentionLayer) -> tuple[list[Known], list[RowReader]] | None:
    """What is attached to a layer's scores, in order, and the readers of its pattern; None where any other hook needs
    the full, editable matrix."""
    edits, readers = ([handle.user_hook for handle in point.fwd_hooks] for point in layer.points)
    if len(edits) + len(readers) < sum(map(len, layer.hooks)):
        return None  # PyTorch's own hooks, or backward hooks
    if not all(isinstance(reader, RowReader) for reader in readers):
        return None
    currents = [edit.current if isinstance(edit, SwitchableBias) else edit for edit in edits]
    known = [edit for edit in currents if isinstance(edit, AttentionBias | MassEdit | EditMark)]
    if len(known) < sum(edit is not None for edit in currents):
        return None  # an edit of the user's own
    rows = [reader for reader in readers if isinstance(reader, RowReader)]
    return (known, rows) if all(edit.relative for edit in known if isinstance(edit, AttentionBias)) else None


def _with_matrices(call: Call, layer: AttentionLayer, state: ForwardState) -> Tensor:
    """The plain computation with both hook points fired on the full matrices, bit for bit Hugging Face's eager one."""
    scores_point, pattern_point = layer.points
    scores = _fire(scores_point, call.masked_scores(call.additive()), call, state)
    return call.mix(_fire(pattern_point, call.dropped(call.softmax(scores)), call, state))


def _fire(point: HookPoint, matrix: Tensor, call: Call, state: ForwardState) -> Tensor:
    """Fire a hook point; its hooks find the positions and the forward's state in its context meanwhile."""
    context = {CONTEXT_KEY: call.positions, STATE_KEY: state, SINKS_KEY: call.sinks}
    before = {key: point.ctx.get(key) for key in context}  # a hook may run the model
    point.ctx.update(context)
    try:
        return point(matrix)
    finally:
        point.ctx.update(before)
