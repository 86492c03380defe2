"""Attention with masses set, by the cheapest of three exact ways.

- One query (decoding): the scores of all heads are small; the masses are set on them, and the values weighted.
- Every query, one mass of all attention: mass * (attention to the region) + (1 - mass) * (attention to the rest), two
  calls of the model's own kernel. No scores are made, and nothing but the two numbers is added. Queries that see no key
  of the region, or nothing else, keep what one call of the kernel on all keys gives: two calls would round otherwise.
- Anything else: the scores of the chosen heads, a block of queries at a time; what comes of these takes the place of
  what the kernel made.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.backend import AttentionLayer
from gaze_lens.attention.call import Call, Rows
from gaze_lens.attention.forward_state import ForwardState
from gaze_lens.attention.kernel_parts import biased_mask, blocks_of, default_kernel
from gaze_lens.attention.mass_edit import MassEdit, Share
from gaze_lens.attention.split_keys import SplitKeys

Mixed = Float[Tensor, "batch query head d_head"]


def quick_masses(
    call: Call, layer: AttentionLayer, state: ForwardState, simple: bool, acting: list[AttentionBias],
    masses: list[MassEdit],
) -> Mixed | None:  # fmt: skip
    """Attention with masses set by one of the first two ways; None where neither will do."""
    here = [edit for edit in masses if edit.heads_in(layer.index)]
    shared = state.mask_of(call)
    shares = [share for edit in here if (share := shared.share(edit, call, slice(None))) is not None]
    if not shares:
        return None
    if call.positions.n_queries == 1:
        mixed = _one_query(call, layer, state, acting, shares)
    elif simple and not acting and len(shares) == 1 and not (call.dropout and call.module.training):
        split = shared.split(shares[0], call)
        if split is None or shares[0].edit.weights_in(layer.index) is not None:
            return None
        mixed = _two_kernels(call, layer, split, shares[0].edit.heads_in(layer.index))
    else:
        return None
    for share in shares:
        state.note(share.edit, layer.index)
    return mixed


def _one_query(
    call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias], shares: list[Share]
) -> Mixed:
    """All heads from their scores, masses one after the other, without repeating KV heads."""
    scores = call.scores_of_rows(slice(None))
    if acting:
        scores = scores + biased_mask(call, layer, state, acting)
    scores = _wide(scores, state.mask_of(call).unseen(call))
    for share in shares:
        heads = head_index(share.edit.heads_in(layer.index), scores.device)
        sinks = None if call.sinks is None else call.sinks[heads]
        edited, _ = share.set(scores.index_select(1, heads), sinks, share.edit.weights_in(layer.index))
        scores = scores.index_copy(1, heads, edited)
    weights = call.dropped(call.softmax(scores))
    batch, n_heads, n_rows, n_keys = weights.shape
    mixed = torch.matmul(weights.reshape(batch, -1, call.groups * n_rows, n_keys), call.value)
    return mixed.reshape(batch, n_heads, n_rows, -1).transpose(1, 2)


def _two_kernels(call: Call, layer: AttentionLayer, split: SplitKeys, heads: tuple[int, ...]) -> Mixed:
    """All heads by one call of the kernel; then, from the first query whose mass is set, the chosen heads by two."""
    plain, chosen = default_kernel(call, layer, call.mask), list(heads)
    split_up = _split_attention(call.only(chosen), layer, split)
    rows = slice(split.first, None)
    mixed = plain.clone()
    mixed[:, rows, chosen] = torch.where(split.acts[:, rows], split_up, plain[:, rows, chosen])
    return mixed


def _split_attention(some: Call, layer: AttentionLayer, split: SplitKeys) -> Mixed:
    """The two kernels' sum for the queries from the first whose mass is set, a block of them at a time."""
    sides = [(some.at_keys(side.columns), side) for side in (split.region, split.rest)]
    blocks = []
    for rows, n_keys in blocks_of(some, split.first, some.positions.n_queries):
        mixed: Tensor | None = None
        for call, side in sides:
            end = side.up_to(n_keys)
            if not end:  # no query of the block sees any of them
                continue
            part = default_kernel(call.block(rows, slice(end)), layer, side.mask[:, :, rows, :end])
            part = part * side.share[:, rows].to(part.dtype)
            mixed = part if mixed is None else mixed + part
        blocks.append(mixed)
    return torch.cat([block for block in blocks if block is not None], dim=1)


def with_mass(
    mixed: Tensor, edit: MassEdit, call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias]
) -> Mixed:
    """The attention `mixed`, with an edit's rows and heads computed again, from their scores."""
    heads, queries = list(edit.heads_in(layer.index)), edit.queries.within(call.positions.queries)
    if not heads or not queries:
        return mixed
    start = call.positions.query_start
    some, changed = call.only(heads), mixed.clone()
    for rows, n_keys in blocks_of(call, queries[0] - start, queries[-1] - start + 1):
        share = state.mask_of(call).share(edit, call, rows)
        if share is None:
            continue
        state.note(edit, layer.index)
        part = some.block(rows, slice(n_keys))
        scores = part.scores(part.query, part.key) + _mask_rows(call, layer, state, acting, heads, rows)[..., :n_keys]
        seen = state.mask_of(call).of_rows(call)[0][:, :, rows, :n_keys]
        weights, acts = weights_with_mass(part, share.up_to(n_keys), scores, seen, layer)
        new = part.mix(call.dropped(weights)).to(mixed.dtype)
        changed[:, rows, heads] = torch.where(acts.transpose(1, 2), new, mixed[:, rows, heads])
    return changed


def _mask_rows(
    call: Call, layer: AttentionLayer, state: ForwardState, acting: list[AttentionBias], heads: list[int], rows: Rows
) -> Float[Tensor, " batch #head query key"]:
    """Some rows of the additive mask of some heads, with the biases in it."""
    if not acting:
        return state.mask_of(call).of_rows(call)[1][:, :, rows]
    return biased_mask(call, layer, state, acting)[:, heads, rows]


def weights_with_mass(
    part: Call, share: Share, scores: Tensor, visible: Tensor, layer: AttentionLayer
) -> tuple[Tensor, Tensor]:
    """The weights with a mass set, and the rows in which it is."""
    edited, acts = share.set(_wide(scores, ~visible), part.sinks, share.edit.weights_in(layer.index))
    return part.softmax(edited), acts


def _wide(scores: Tensor, hidden: Tensor) -> Tensor:
    """Masked scores in float32 or better: half precision is too coarse for what is added."""
    wide = scores if scores.dtype == torch.float64 else scores.float()
    return wide.masked_fill(hidden, torch.finfo(wide.dtype).min)


@lru_cache(maxsize=4096)
def head_index(heads: tuple[int, ...], device: torch.device) -> Int[Tensor, " head"]:
    """Heads as an index, made once, and not as an inference tensor."""
    with torch.inference_mode(False):
        return torch.tensor(heads, device=device)
