"""Attention under edits and row readers, without building the full matrices where the kernel can do without them.

A bias acts in a few heads, and a mask with a dimension for heads loses the fast kernel for all of them. So heads under
the same biases are computed together, under a mask without heads, and the others as if there were no bias. A mass needs
the scores of its heads, in the rows that it acts on; what it makes of these takes the place of what the kernel made.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gaze_lens.attention.attention_bias import AttentionBias, head_gate
from gaze_lens.attention.backend import AttentionLayer
from gaze_lens.attention.call import Call, Rows
from gaze_lens.attention.edit_reader import EditMark
from gaze_lens.attention.edited_rows import read_edits
from gaze_lens.attention.forward_state import ForwardState
from gaze_lens.attention.mass_edit import MassEdit, Share
from gaze_lens.attention.row_reader import RowReader

Known = AttentionBias | MassEdit | EditMark  # what the attention function knows on scores
FEWEST_ROWS, MOST_BLOCKS = 128, 8  # queries under a biased mask at a time; more blocks save little


def served(
    call: Call,
    layer: AttentionLayer,
    state: ForwardState,
    simple: bool,
    attached: list[Known],
    readers: list[RowReader],
) -> Float[Tensor, "batch query head d_head"]:
    """The model's own attention with biases in its masks, and masses set; readers get their rows beside it.

    simple: the model's kernel is SDPA, without soft cap and sinks. attached: to the scores, in order.
    """
    masses = [edit for edit in attached if isinstance(edit, MassEdit)]
    acting = _acting(call, layer, state, [edit for edit in attached if isinstance(edit, AttentionBias)])
    read_edits(attached, call, layer.index, state)
    for reader in readers:
        _read_rows(reader, call, layer, state, acting, masses)
    if simple and acting and call.positions.n_queries > 1:
        mixed = _kernel_by_heads(call, layer, state, acting)
    else:
        mask = _biased_mask(call, layer, state, acting) if acting else call.mask
        mixed = _default_kernel(call, layer, mask) if simple else _eager_kernel(call, mask)
    for edit in masses:
        mixed = _with_mass(mixed, edit, call, layer, state, acting)
    return mixed


def _with_mass(
    mixed: Tensor, edit: MassEdit, call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias]
) -> Float[Tensor, "batch query head d_head"]:
    """The attention `mixed`, with an edit's rows and heads computed again, from their scores.

    Scores are made for a block of queries at a time, and where no query sees later keys, up to its last query.
    """
    heads, queries = list(edit.heads_in(layer.index)), edit.queries.within(call.positions.queries)
    if not heads or not queries:
        return mixed
    start, before = call.positions.query_start, call.positions.query_start - call.positions.key_start
    first, end = queries[0] - start, queries[-1] - start + 1
    size = max(FEWEST_ROWS, -(-(end - first) // MOST_BLOCKS))
    some, changed = call.only(heads), mixed.clone()
    for begin in range(first, end, size):
        rows = slice(begin, min(begin + size, end))
        share = state.mask_of(call).share(edit, call, rows)
        if share is None:
            continue
        state.note(edit, layer.index)
        n_keys = before + rows.stop if call.mask is None and call.causal else call.positions.n_keys
        part = some.block(rows, slice(n_keys))
        scores = part.scores(part.query, part.key) + _mask_rows(call, layer, state, acting, heads, rows)[..., :n_keys]
        weights, acts = _weights(
            part, share.up_to(n_keys), scores, state.mask_of(call).of_rows(call)[0][:, :, rows, :n_keys], layer
        )
        new = part.mix(call.dropped(weights)).to(mixed.dtype)
        changed[:, rows, heads] = torch.where(acts.transpose(1, 2), new, mixed[:, rows, heads])
    return changed


def _mask_rows(
    call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias], heads: list[int], rows: Rows
) -> Float[Tensor, " batch #head query key"]:
    """Some rows of the additive mask of some heads, with the biases in it."""
    if not acting:
        return state.mask_of(call).of_rows(call)[1][:, :, rows]
    return _biased_mask(call, layer, state, acting)[:, heads, rows]


def _weights(part: Call, share: Share, scores: Tensor, visible: Tensor, layer: AttentionLayer) -> tuple[Tensor, Tensor]:
    """The weights with a mass set, and the rows in which it is. Half precision is too coarse for what is added."""
    wide = scores if scores.dtype == torch.float64 else scores.float()
    masked = wide.masked_fill(~visible, torch.finfo(wide.dtype).min)
    edited, acts = share.set(masked, part.sinks, share.edit.weights_in(layer.index))
    return part.softmax(edited), acts


def _acting(call: Call, layer: AttentionLayer, state: ForwardState, biases: list[AttentionBias]) -> list[AttentionBias]:
    """The biases that change scores of this layer."""
    here = [bias for bias in biases if bias.heads_in(layer.index)]
    acting = [bias for bias in here if state.mask_of(call).bias_matrix(bias, call) is not None]
    for bias in acting:
        state.note(bias, layer.index)
    return acting


def _eager_kernel(call: Call, mask: Tensor | None) -> Tensor:
    """The plain computation without hook points, for models whose default is eager."""
    additive = call.additive() if mask is None or mask is call.mask else mask
    weights = call.softmax(call.masked_scores(additive))
    return call.mix(call.dropped(weights))


def _default_kernel(call: Call, layer: AttentionLayer, mask: Tensor | None) -> Tensor:
    """The model's own attention, exactly as Hugging Face would call it; a bias rides in its mask."""
    kernel = ALL_ATTENTION_FUNCTIONS[layer.backend.default]
    arguments = {"dropout": call.dropout, "scaling": call.scaling, **call.extra}
    return kernel(call.module, call.query, call.key, call.value, mask, **arguments)[0]


def _kernel_by_heads(call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias]) -> Tensor:
    """The model's own attention, once for each set of heads that are under the same biases.

    Heads without a bias keep the mask that they had, which may be none at all. A mask under which heads are computed
    has no dimension for heads, so that all layers with the same biases share it.
    """
    n_heads = call.query.shape[1]
    heads_under: dict[tuple[AttentionBias, ...], list[int]] = {}
    for head in range(n_heads):
        biases = tuple(bias for bias in acting if head in bias.heads_in(layer.index))
        heads_under.setdefault(biases, []).append(head)
    parts = {}
    for biases, heads in heads_under.items():
        some = call.only(heads) if len(heads_under) > 1 else call
        if any(bias.weights_in(layer.index) for bias in biases):
            part = _kernel_by_rows(some, layer, _biased_mask(call, layer, state, list(biases))[:, heads])
        elif biases:
            part = _kernel_by_rows(some, layer, state.mask_of(call).with_biases(biases, call))
        else:
            part = _default_kernel(some, layer, call.mask)
        parts[tuple(heads)] = part
    if len(parts) == 1:
        return next(iter(parts.values()))
    first = next(iter(parts.values()))  # under autocast its precision is not that of the queries
    mixed = first.new_empty(*first.shape[:2], n_heads, first.shape[-1])
    for selected, part in parts.items():
        mixed[:, :, list(selected)] = part
    return mixed


def _kernel_by_rows(call: Call, layer: AttentionLayer, mask: Tensor) -> Tensor:
    """The model's own attention under a biased mask, a block of queries at a time.

    A kernel spends time on keys that a mask hides. Where no query sees later keys, each block of queries is given only
    the keys up to its last query.
    """
    if call.mask is not None or not call.causal:
        return _default_kernel(call, layer, mask)
    n_queries, before = call.positions.n_queries, call.positions.query_start - call.positions.key_start
    size = max(FEWEST_ROWS, -(-n_queries // MOST_BLOCKS))
    parts = []
    for start in range(0, n_queries, size):
        stop = min(start + size, n_queries)
        part = call.block(slice(start, stop), slice(before + stop))
        parts.append(_default_kernel(part, layer, mask[..., start:stop, : before + stop]))
    return torch.cat(parts, dim=1)


def _biased_mask(
    call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias], rows: Rows = slice(None)
) -> Float[Tensor, "batch head query key"]:
    """The additive mask with the biases in it, each in its heads."""
    shared, n_heads = state.mask_of(call), call.query.shape[1]
    mask = shared.of_rows(call, rows)[1]
    for bias in acting:
        matrix = shared.bias_matrix(bias, call)
        if matrix is not None:  # which it never is in one that acts
            heads = bias.heads_in(layer.index)
            gate = head_gate(heads, bias.weights_in(layer.index), n_heads, mask.dtype, mask.device)
            mask = torch.addcmul(mask, gate, matrix[:, :, rows])
    return mask


def _read_rows(
    reader: RowReader, call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias],
    masses: list[MassEdit],
) -> None:  # fmt: skip
    """Hand a reader its rows of the pattern, computed for these rows alone, without repeating KV heads."""
    queries, positions = reader.queries.within(call.positions.queries), call.positions
    if not queries:
        return
    rows = positions.rows_at(queries)
    scores = call.scores_of_rows(rows) + _biased_mask(call, layer, state, acting, rows)
    weights = call.softmax(scores)
    for edit in masses:
        heads = list(edit.heads_in(layer.index))
        share = state.mask_of(call).share(edit, call, rows) if heads else None
        if share is not None:
            new, acts = _weights(call.only(heads), share, scores[:, heads], call.visible(rows), layer)
            where = torch.tensor(heads, device=weights.device)
            weights = weights.index_copy(1, where, torch.where(acts, new, weights[:, heads]).to(weights.dtype))
    reader.read(weights, queries, positions, layer.index)
