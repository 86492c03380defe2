"""Attention under edits and row readers, without building the full matrices where the kernel can do without them.

A bias acts in a few heads, and a mask with a dimension for heads loses the fast kernel for all of them. So heads under
the same biases are computed together, under a mask without heads, and the others as if there were no bias. Masses are
in `mass_kernels.py`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.backend import AttentionLayer
from gaze_lens.attention.call import Call
from gaze_lens.attention.edit_reader import EditMark
from gaze_lens.attention.edited_rows import read_edits
from gaze_lens.attention.forward_state import ForwardState
from gaze_lens.attention.kernel_parts import biased_mask, blocks_of, default_kernel, eager_kernel
from gaze_lens.attention.mass_edit import MassEdit
from gaze_lens.attention.mass_kernels import quick_masses, weights_with_mass, with_mass
from gaze_lens.attention.row_reader import RowReader

Known = AttentionBias | MassEdit | EditMark  # what the attention function knows on scores


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
    quick = quick_masses(call, layer, state, simple, acting, masses) if masses else None
    if quick is not None:
        return quick
    if simple and acting and call.positions.n_queries > 1:
        mixed = _kernel_by_heads(call, layer, state, acting)
    else:
        mask = biased_mask(call, layer, state, acting) if acting else call.mask
        mixed = default_kernel(call, layer, mask) if simple else eager_kernel(call, mask)
    for edit in masses:
        mixed = with_mass(mixed, edit, call, layer, state, acting)
    return mixed


def _acting(call: Call, layer: AttentionLayer, state: ForwardState, biases: list[AttentionBias]) -> list[AttentionBias]:
    """The biases that change scores of this layer."""
    here = [bias for bias in biases if bias.heads_in(layer.index)]
    acting = [bias for bias in here if state.mask_of(call).bias_matrix(bias, call) is not None]
    for bias in acting:
        state.note(bias, layer.index)
    return acting


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
            part = _kernel_by_rows(some, layer, biased_mask(call, layer, state, list(biases))[:, heads])
        elif biases:
            part = _kernel_by_rows(some, layer, state.mask_of(call).with_biases(biases, call))
        else:
            part = default_kernel(some, layer, call.mask)
        parts[tuple(heads)] = part
    if len(parts) == 1:
        return next(iter(parts.values()))
    first = next(iter(parts.values()))  # under autocast its precision is not that of the queries
    mixed = first.new_empty(*first.shape[:2], n_heads, first.shape[-1])
    for selected, part in parts.items():
        mixed[:, :, list(selected)] = part
    return mixed


def _kernel_by_rows(call: Call, layer: AttentionLayer, mask: Tensor) -> Tensor:
    """The model's own attention under a biased mask, where no query sees later keys a block of queries at a time."""
    if call.mask is not None or not call.causal:
        return default_kernel(call, layer, mask)
    parts = [
        default_kernel(call.block(rows, slice(n_keys)), layer, mask[..., rows, :n_keys])
        for rows, n_keys in blocks_of(call, 0, call.positions.n_queries)
    ]
    return torch.cat(parts, dim=1)


def _read_rows(
    reader: RowReader, call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias],
    masses: list[MassEdit],
) -> None:  # fmt: skip
    """Hand a reader its rows of the pattern, computed for these rows alone, without repeating KV heads."""
    queries, positions = reader.queries.within(call.positions.queries), call.positions
    if not queries:
        return
    rows = positions.rows_at(queries)
    scores = call.scores_of_rows(rows) + biased_mask(call, layer, state, acting, rows)
    weights = call.softmax(scores)
    for edit in masses:
        heads = list(edit.heads_in(layer.index))
        share = state.mask_of(call).share(edit, call, rows) if heads else None
        if share is not None:
            new, acts = weights_with_mass(call.only(heads), share, scores[:, heads], call.visible(rows), layer)
            where = torch.tensor(heads, device=weights.device)
            weights = weights.index_copy(1, where, torch.where(acts, new, weights[:, heads]).to(weights.dtype))
    reader.read(weights, queries, positions, layer.index)
