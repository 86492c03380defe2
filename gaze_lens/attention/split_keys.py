"""The keys of a region and the others, apart: for attention that is computed to each of the two by itself."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.attention.mass_edit import Share


@dataclass(frozen=True, eq=False)
class Side:
    """Some of the keys.

    columns: which, ascending. mask: what each query sees of them, a bool or a number to add; a query that sees none
        sees all, so that its attention is a number. share: how much of each query's attention goes to them, 0 to 1.
    """

    columns: Int[Tensor, " key"]
    mask: Bool[Tensor, "batch 1 query key"] | Float[Tensor, "batch 1 query key"]
    share: Float[Tensor, "batch query 1 1"]

    @cached_property
    def _columns(self) -> list[int]:
        return self.columns.tolist()

    def up_to(self, n_keys: int) -> int:
        """How many of them are among the first so many keys."""
        return bisect_left(self._columns, n_keys)


@dataclass(frozen=True, eq=False)
class SplitKeys:
    """The two sides of a `MassEdit` in the layers with one mask.

    acts: the queries whose mass is set; the others keep what the model's own kernel gives them.
    """

    region: Side
    rest: Side
    acts: Bool[Tensor, "batch query 1 1"]

    @cached_property
    def first(self) -> int:
        """The first query whose mass is set."""
        return int(self.acts.flatten(2).any(-1).any(0).int().argmax())

    @classmethod
    def of(cls, share: Share, dtype: torch.dtype) -> "SplitKeys | None":
        """None where two numbers for each query do not say all: a mass within a pool, a floor, an attention sink,
        queries that are not meant, and masks that differ by head."""
        edit = share.edit
        if edit.floor or edit.pool is not None or share.has_sink or share.inside.shape[1] > 1:
            return None
        if not bool(share.gate.all()):
            return None
        acts = share.acts.transpose(1, 2)
        of_region = torch.full_like(acts, edit.mass, dtype=dtype)
        spread = None if share.spread is None else share.spread.to(dtype)
        sides = (_side(share.inside, of_region, spread), _side(share.outside, 1 - of_region, None))
        return cls(*sides, acts)


def _side(seen: Tensor, share: Tensor, spread: Tensor | None) -> Side:
    """The keys that any query sees, and what each query sees of them."""
    columns = seen.flatten(0, 2).any(0).nonzero()[:, 0]
    mask = seen[..., columns]
    mask = mask | ~mask.any(-1, keepdim=True)
    if spread is not None:
        added = spread[..., columns].expand(mask.shape)
        mask = torch.where(mask, added, torch.finfo(added.dtype).min)
    return Side(columns, mask, share)
