"""Rows that share keys are attended to in one row: the shared keys are read once, and copied for no row.

`attention_function.py` hands a call over where there are fewer rows of keys than of queries. A row of keys then holds
the keys that several rows of queries share, and after them the own keys of each row, one row after the other. The
queries are put side by side in the same order, and a mask keeps the rows apart.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gaze_lens.attention.forward_state import STATE, ForwardState
from gaze_lens.errors import HookError


def in_one_row(
    attention: Callable, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
    state: ForwardState | None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """What `attention` computes of `[row, head, query, d_head]`, as it was called, on queries in one row for each of
    the keys' rows: `[row, query, head, d_head]`, None. Positions, and those of readers, are in such a row.

    mask: over what a row's queries share and the row's own keys; without one, each of them sees all before it.
    """
    if state is None:
        raise HookError("A layer was called by itself with a cache that rows share; run the whole model.")
    length, n = query.shape[2], len(query) // len(key)

    def make_mask() -> Tensor:
        if mask is not None:
            return _apart(mask, n)
        n_keys = key.shape[2] - (n - 1) * length
        causal = query.new_ones(len(query), 1, length, n_keys, dtype=torch.bool).tril(n_keys - length)
        return _apart(causal, n)

    joined = state.joined(n, length)
    one_mask = state.joined_mask(mask, key.shape[2], make_mask)
    mixed, _ = attention(module, side_by_side(query, n), key, value, one_mask, **{STATE: joined}, **kwargs)
    return mixed.unflatten(1, (n, length)).flatten(0, 1), None


def side_by_side(tensor: Tensor, n: int) -> Tensor:
    """`[row, head, position, d_head]` with the positions of `n` rows each one after the other in one row."""
    return tensor.unflatten(0, (-1, n)).transpose(1, 2).flatten(2, 3)


def _apart(mask: Tensor, n: int) -> Tensor:
    """The mask of rows of queries as that of queries in one row, which do not see the keys of other rows."""
    groups, length = mask.unflatten(0, (-1, n)).transpose(1, 2), mask.shape[2]
    shared = mask.shape[3] - length
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    apart = mask.new_full((*groups.shape[:4], shared + n * length), hidden)
    apart[..., :shared] = groups[..., :shared]
    for row in range(n):
        own = shared + row * length
        apart[:, :, row, :, own : own + length] = groups[:, :, row, :, shared:]
    return apart.flatten(2, 3)
