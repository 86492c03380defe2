"""Where queries and keys are: positions of the padded sequence, and sets of them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.deprecation import renamed_argument, renamed_attribute
from gaze_lens.errors import HookError, InputError
from gaze_lens.regions.layout import Layout

# Where hook points hold positions, the forward's state, and the layer's attention sinks while they fire.
CONTEXT_KEY, STATE_KEY, SINKS_KEY = "gaze_lens.positions", "gaze_lens.forward", "gaze_lens.sinks"


@dataclass(frozen=True)
class QueryKeyPositions:
    """Where a forward pass is: which positions its queries and keys are, whatever the cache did to the shapes.

    Inside a hook: `positions = gl.QueryKeyPositions.of(tensor, hook)`. All rows of a batch share the columns; `layout`
    is that of the `VLMInputs` being run, or None for raw tokens.

    cross_attention: the layer is cross-attention. Its queries are positions as everywhere; its keys belong to the
        image, are the same in every forward, and are counted from 0.
    """

    query_start: int
    n_queries: int
    key_start: int
    n_keys: int
    layout: Layout | None = None
    cross_attention: bool = False
    crossed = renamed_attribute("crossed", "cross_attention")

    @classmethod
    def of(cls, tensor: Tensor, hook: Any) -> "QueryKeyPositions":
        """The positions published on a hook point; on a bridge that publishes none, those that the shape implies."""
        published = hook.ctx.get(CONTEXT_KEY)
        if published is not None:
            return published
        if not str(hook.name).endswith(("hook_attn_scores", "hook_pattern")):
            raise HookError(
                f"QueryKeyPositions.of was asked about {hook.name}, which holds no attention matrix; ask on "
                "hook_attn_scores or hook_pattern."
            )
        n_queries, n_keys = tensor.shape[-2:]
        return cls(query_start=n_keys - n_queries, n_queries=n_queries, key_start=0, n_keys=n_keys)

    @property
    def queries(self) -> range:
        """The queries' positions."""
        return range(self.query_start, self.query_start + self.n_queries)

    @property
    def keys(self) -> range:
        """The keys' positions; those after the last query are empty slots of a static cache. In a cross-attention
        layer, the indices of the image's keys."""
        return range(self.key_start, self.key_start + self.n_keys)

    @property
    def step(self) -> int | None:
        """The index of the token that this forward produces: 0 in the prefill, then 1, 2, ... None without layout."""
        return None if self.layout is None else max(0, self.queries.stop - self.layout.length)

    def rows_at(self, positions: list[int]) -> slice | list[int]:
        """The indices of some queries by their positions, in order; a slice of all where they are all."""
        every = len(positions) == self.n_queries
        return slice(None) if every else [position - self.query_start for position in positions]

    def rows_of(self, batch: int, n_rows: int) -> list[int]:
        """For each row of the batch, the prompt row it continues (beams and return sequences repeat prompts)."""
        if batch % n_rows:
            raise InputError(
                f"This batch has {batch} rows, but positions are given for {n_rows}. Give them for one row (they then "
                "hold for all), for every row, or run the inputs that they were made for."
            )
        return [index // (batch // n_rows) for index in range(batch)]


@dataclass(frozen=True)
class Positions:
    """A set of positions for each batch row: listed ones, and optionally a range without an end.

    `Positions.of([3, 4])` for every row, `Positions(((3, 4), (9,)))` row by row, `Positions.between(17, 67)`,
    `Positions.since(17)`, `Positions.everything()`. They count from 0, the first column; InputError for negative ones.

    cross_attention: they are keys of cross-attention layers, which no other layer has:
        `Positions.of([3, 4], cross_attention=True)`.
    weights: for each listed position, a number, where they differ.
    """

    rows: tuple[tuple[int, ...], ...] = ((),)
    start: float = math.inf
    stop: float = math.inf
    cross_attention: bool = False
    weights: tuple[tuple[float, ...], ...] | None = None
    crossed = renamed_attribute("crossed", "cross_attention")

    def __post_init__(self) -> None:
        if self.weights is not None and list(map(len, self.weights)) != list(map(len, self.rows)):
            raise InputError("Positions got weights that are not one for each listed position; give as many of both.")
        if self.weights is not None and self.start < math.inf:
            raise InputError("Positions got weights and a range without an end; give weights to listed positions only.")
        lowest = min((position for row in self.rows for position in row), default=0)
        if min(lowest, self.start, self.stop) < 0:
            raise InputError(
                f"Position {min(lowest, self.start, self.stop)} was given; positions count from 0, the first column of "
                "the padded prompt. The last prompt token is inputs.last_position."
            )

    def __str__(self) -> str:
        counts = dict.fromkeys(str(len(row)) for row in self.rows if row)
        parts = [f"{' or '.join(counts)} listed positions"] if counts else []
        if self.start < self.stop:
            parts.append(f"from {self.start}" + (" on" if self.stop == math.inf else f" to {self.stop - 1}"))
        return (" and ".join(parts) or "none") + (
            " among the keys of cross-attention layers" if self.cross_attention else ""
        )

    @classmethod
    def of(cls, positions: Iterable[int], *, cross_attention: bool = False, **old: bool) -> "Positions":
        """The same positions in every row."""
        cross_attention = renamed_argument("crossed", "cross_attention", old, cross_attention)
        return cls((tuple(int(position) for position in positions),), cross_attention=cross_attention)

    @classmethod
    def between(cls, start: int, stop: float) -> "Positions":
        """`start <= position < stop` in every row."""
        return cls(start=start, stop=stop)

    @classmethod
    def since(cls, start: int) -> "Positions":
        """`start <= position`, however long the text becomes."""
        return cls(start=start)

    @classmethod
    def everything(cls, *, cross_attention: bool = False, **old: bool) -> "Positions":
        """Every position, or every key of cross-attention layers."""
        cross_attention = renamed_argument("crossed", "cross_attention", old, cross_attention)
        return cls(start=0, cross_attention=cross_attention)

    def within(self, positions: range) -> list[int]:
        """The positions of a range that are in the set of any row, in order."""
        listed = (
            {p for p in positions if p in self._any}
            if len(positions) < len(self._any)
            else {p for p in self._any if p in positions}
        )
        ranged = range(max(positions.start, int(min(self.start, positions.stop))), int(min(self.stop, positions.stop)))
        return sorted(listed | set(ranged))

    @cached_property
    def _any(self) -> frozenset[int]:
        """The positions that are listed for any row."""
        return frozenset(p for row in self.rows for p in row)

    def mask(self, positions: range) -> Bool[Tensor, "row position"]:
        """For each row of the set, which positions of a range are in it (on the CPU)."""
        columns = torch.arange(positions.start, positions.stop)
        mask = ((columns >= self.start) & (columns < self.stop)).repeat(len(self.rows), 1)
        listed = self._listed[:, positions.start : positions.stop]
        mask[:, : listed.shape[1]] |= listed
        return mask

    def values(self, positions: range) -> Float[Tensor, "row position"]:
        """For each row of the set, the weight of each position of a range (on the CPU): 0 outside of the set."""
        values = self.mask(positions).float()
        if self.weights is not None:
            listed = self._listed_weights[:, positions.start : positions.stop]
            values[:, : listed.shape[1]] = listed
        return values

    @cached_property
    def _listed_weights(self) -> Float[Tensor, "row position"]:
        """The listed positions' weights, from 0 to the last of them."""
        values = self._listed.float()
        for row, listed, weights in zip(values, self.rows, self.weights or (), strict=True):
            row[list(listed)] = torch.tensor(weights)
        return values

    @cached_property
    def _listed(self) -> Bool[Tensor, "row position"]:
        """The listed positions as a mask, from 0 to the last of them."""
        mask = torch.zeros(len(self.rows), 1 + max((p for row in self.rows for p in row), default=-1), dtype=torch.bool)
        for row, listed in zip(mask, self.rows, strict=True):
            row[list(listed)] = True
        return mask


def forward_state_of(hook: Any) -> Any:
    """The `ForwardState` of the forward in which a hook fires; None on a bridge that has none."""
    return hook.ctx.get(STATE_KEY)
