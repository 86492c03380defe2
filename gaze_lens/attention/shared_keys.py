"""Rows that share keys, attended to in one row: what they share is read once, and copied for none of them.

`attention.py` hands a call over where there are fewer rows of keys than of queries. A row of keys is then what several
rows of queries share, and behind it the keys of each, one after the other; queries are put beside one another alike,
and a mask keeps them apart.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def in_one_row(
    attention: Callable,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What `attention` computes of `[row, head, query, d_head]`, as it was called, on queries in one row for each of
    the keys' rows: `[row, query, head, d_head]`, None. Its place, and its readers', is in such a row.

    mask: over what a row's queries share and the row's own keys; without one, each of them sees all before it.
    """
    seam, length = module.gaze_lens_layer.seam, query.shape[2]
    n = len(query) // len(key)
    if mask is None:
        n_keys = key.shape[2] - (n - 1) * length
        mask = query.new_ones(len(query), 1, length, n_keys, dtype=torch.bool).tril(n_keys - length)
    about = "in one row", id(mask), key.shape[2]
    if about not in seam.masks:
        seam.masks[about] = mask, _apart(mask, n)  # while it is kept, no other mask gets its id
    seen, seam.seen = seam.seen, seam.seen + (n - 1) * length
    try:
        mixed, _ = attention(module, side_by_side(query, n), key, value, seam.masks[about][1], **kwargs)
    finally:
        seam.seen = seen
    return mixed.unflatten(1, (n, length)).flatten(0, 1), None


def side_by_side(tensor: Tensor, n: int) -> Tensor:
    """`[row, head, position, d_head]` with the positions of `n` rows each behind one another in one row."""
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
