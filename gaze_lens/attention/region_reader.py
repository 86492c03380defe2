"""What heads pay, from some queries, to some keys, read as the model runs and reduced to what is needed of it.

reader = RegionReader(heads, keys, cross_attention, sum_groups(membership))
model.generate(inputs, fwd_hooks=reader.hooks(Positions.since(inputs.last_position)))
(mass,) = reader.values([inputs.last_position])  # [head, query, group], attention mass, 0-1
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.regions.layout import Layout

BLOCK = 4_000_000  # numbers that wait to be reduced together, at most: reducing many rows at once is faster

Reduce = Callable[[int, Tensor], tuple[Tensor, ...]]


def sum_groups(membership: Float[Tensor, "key group"]) -> Reduce:
    """A reduction that sums attention over groups of keys. membership: 1 where a key belongs to a group, else 0."""
    return lambda _layer, rows: ((rows @ membership.to(rows.device)).cpu(),)


def keep_rows(_layer: int, rows: Float[Tensor, "head query key"]) -> tuple[Tensor]:
    """A reduction that keeps the attention to every key."""
    return (rows.cpu(),)


class RegionReader:
    """Hooks that read the attention of heads from some queries of one text to some keys.

    keys: positions, or keys of cross-attention layers where `cross_attention` is true, of all keys or of each. A key
        that a layer does not have gets 0 from it.
    reduce: called as `reduce(layer, rows)` with `rows` in float32, `[head, query, key]`, of the layer's heads in the
        set. It returns tensors that begin with `[head, query]` and is called for many queries at once.
    row: of the batch. None: there must be one row.
    purpose: the beginning of the error where several texts are generated together.
    """

    def __init__(
        self,
        heads: HeadSet,
        keys: Int[Tensor, " key"],
        cross_attention: bool | Bool[Tensor, " key"],
        reduce: Reduce,
        *,
        row: int | None = None,
        purpose: str = "One text is read",
    ) -> None:
        self.heads, self.by_layer = heads, heads.by_layer()
        self.keys, self.cross_attention, self.reduce = keys, cross_attention, reduce
        self._end = int(keys.max()) + 1
        self.row, self.purpose = row, purpose
        self._indices = {layer: torch.tensor(indices) for layer, indices in self.by_layer.items()}
        self._waiting: dict[int, list[tuple[list[int], Tensor]]] = {layer: [] for layer in self.by_layer}
        self._n_waiting = 0
        self._columns: dict[Any, tuple[Int[Tensor, " key"], Bool[Tensor, " key"] | None]] = {}
        self._reduced: dict[int, dict[int, tuple[Tensor, ...]]] = {layer: {} for layer in self.by_layer}

    @classmethod
    def of_prompt(cls, heads: HeadSet, layout: Layout, reduce: Reduce, **options: Any) -> "RegionReader":
        """A reader of every key of the prompt, or where the image is reached by cross-attention of the image's keys."""
        return cls(heads, torch.arange(layout.n_keys), layout.cross_attention, reduce, **options)

    def hooks(self, queries: Positions) -> list[tuple[str, RowReader]]:
        """The hooks to run with."""
        reader = RowReader(queries, self._read)
        return [(f"blocks.{layer}.attn.hook_pattern", reader) for layer in self.by_layer]

    @property
    def n_queries(self) -> int:
        """How many queries were reduced so far, in the layer that had most."""
        return max(map(len, self._reduced.values()))

    @property
    def queries(self) -> list[int]:
        """The positions that every layer had a query for, in order."""
        self._finish()
        first, *others = self._reduced.values()
        return sorted(set(first).intersection(*others))

    def values(self, queries: Sequence[int]) -> tuple[Tensor, ...]:
        """What was kept of some positions: tensors `[head, query, ...]`, heads in the order of the set."""
        self._finish()
        by_layer = {}
        for layer, reduced in self._reduced.items():
            columns = zip(*(reduced[query] for query in queries), strict=True)
            by_layer[layer] = [torch.stack(column, 1) for column in columns]
        of_heads = [[one[self.by_layer[layer].index(head)] for one in by_layer[layer]] for layer, head in self.heads]
        return tuple(torch.stack(several) for several in zip(*of_heads, strict=True))

    def clear(self) -> None:
        """Forget what was read."""
        self._finish()
        for reduced in self._reduced.values():
            reduced.clear()

    def _read(self, weights: Tensor, positions: list[int], place: QueryKeyPositions, layer: int) -> None:
        if self.row is None and len(weights) != 1:
            raise InputError(
                f"{self.purpose}, and {len(weights)} are generated together; leave out num_beams and "
                "num_return_sequences."
            )
        columns, present = self._columns_of(place, weights.device)
        indices = self._indices[layer] = self._indices[layer].to(weights.device)
        rows = weights[self.row or 0].index_select(0, indices).index_select(-1, columns)
        self._waiting[layer].append((positions, rows if present is None else rows * present))
        self._n_waiting += rows.numel()
        if self._n_waiting > BLOCK:
            self._finish()

    def _finish(self) -> None:
        """Reduce the rows that still wait. A query may come again, where a model reads its text anew."""
        for layer, parts in self._waiting.items():
            if parts:
                positions = [position for several, _ in parts for position in several]
                rows = torch.cat([part for _, part in parts], 1)
                parts.clear()
                columns = (values.unbind(1) for values in self.reduce(layer, rows.float()))
                self._reduced[layer].update(zip(positions, zip(*columns, strict=True), strict=True))
        self._n_waiting = 0

    def _columns_of(
        self, place: QueryKeyPositions, device: torch.device
    ) -> tuple[Int[Tensor, " key"], Bool[Tensor, " key"] | None]:
        """Where the keys are in a row, and which of them are there; None where all are."""
        cached = place.cross_attention, place.key_start, min(place.n_keys, self._end), device
        if cached not in self._columns:
            if len(self._columns) > 8:  # a sliding window is elsewhere in every step
                self._columns.clear()
            columns = self.keys - place.key_start
            present = (columns >= 0) & (columns < place.n_keys) & (self.cross_attention == place.cross_attention)
            self._columns[cached] = columns.where(present, 0).to(device), None if present.all() else present.to(device)
        return self._columns[cached]
