"""The model's own attention on a call, and the additive mask with biases in it."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gaze_lens.attention.attention_bias import AttentionBias, head_gate
from gaze_lens.attention.backend import AttentionLayer
from gaze_lens.attention.call import Call, Rows
from gaze_lens.attention.forward_state import ForwardState

FEWEST_ROWS, MOST_BLOCKS = 128, 8  # queries under a biased mask at a time; more blocks save little


def eager_kernel(call: Call, mask: Tensor | None) -> Tensor:
    """The plain computation without hook points, for models whose default is eager."""
    additive = call.additive() if mask is None or mask is call.mask else mask
    weights = call.softmax(call.masked_scores(additive))
    return call.mix(call.dropped(weights))


def default_kernel(call: Call, layer: AttentionLayer, mask: Tensor | None) -> Tensor:
    """The model's own attention, exactly as Hugging Face would call it; a bias rides in its mask."""
    kernel = ALL_ATTENTION_FUNCTIONS[layer.backend.default]
    arguments = {"dropout": call.dropout, "scaling": call.scaling, **call.extra}
    return kernel(call.module, call.query, call.key, call.value, mask, **arguments)[0]


def biased_mask(
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


def blocks_of(call: Call, first: int, end: int) -> Iterator[tuple[slice, int]]:
    """Blocks of the queries from `first` to `end`, and how many keys each may need: where no query sees later keys,
    those up to its last query. A kernel spends time on keys that a mask hides."""
    before = call.positions.query_start - call.positions.key_start
    size = max(FEWEST_ROWS, -(-(end - first) // MOST_BLOCKS))
    for begin in range(first, end, size):
        stop = min(begin + size, end)
        yield slice(begin, stop), before + stop if call.mask is None and call.causal else call.positions.n_keys
