"""Rows of attention patterns, cut to a few keys as the model runs, and worked on many at a time.

rows = KeyRows(heads, keys, cross_attention, work)
model.generate(inputs, fwd_hooks=rows.hooks(Positions.since(inputs.last_position)))
rows.finish()  # work(layer, positions, rows) was called for all of them
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet

BLOCK = 4_000_000  # numbers that wait to be worked on together, at most: work on many rows at once spares time


class KeyRows:
    """Hooks that keep, of one text, what some queries pay to some keys, and hand it on in blocks.

    keys: positions, or keys of cross-attention layers where `cross_attention` is true; a layer without one pays 0.
    work: called as `work(layer, positions, rows)`, with `rows` in float32, `[head, query, key]`, of the layer's heads
        in the set, and `positions` the queries'. A query may come again, where a model reads its text anew.
    refusal: the beginning of the error where several texts are generated together.
    """

    def __init__(
        self,
        heads: HeadSet,
        keys: Int[Tensor, " key"],
        cross_attention: Bool[Tensor, " key"],
        work: Callable[[int, list[int], Tensor], None],
        refusal: str,
    ) -> None:
        self.keys, self.cross_attention, self.work, self.refusal = keys, cross_attention, work, refusal
        self.end = int(keys.max()) + 1
        self.among = {layer: torch.tensor(among) for layer, among in heads.by_layer().items()}
        self.waiting: dict[int, list[tuple[list[int], Tensor]]] = {layer: [] for layer in self.among}
        self.n_waiting = 0
        self.columns: dict[Any, tuple[Int[Tensor, " key"], Bool[Tensor, " key"] | None]] = {}

    def hooks(self, queries: Positions) -> list[tuple[str, RowReader]]:
        """The hooks to run with."""
        reader = RowReader(queries, self._read)
        return [(f"blocks.{layer}.attn.hook_pattern", reader) for layer in self.among]

    def finish(self) -> None:
        """Have the rows worked on that still wait."""
        for layer, parts in self.waiting.items():
            if parts:
                positions = [position for several, _ in parts for position in several]
                rows = torch.cat([part for _, part in parts], 1)
                parts.clear()
                self.work(layer, positions, rows.float())
        self.n_waiting = 0

    def _read(self, weights: Tensor, positions: list[int], place: QueryKeyPositions, layer: int) -> None:
        if len(weights) != 1:
            raise InputError(
                f"{self.refusal}, and {len(weights)} are generated together; leave out num_beams and "
                "num_return_sequences."
            )
        columns, seen = self._columns(place, weights.device)
        among = self.among[layer] = self.among[layer].to(weights.device)
        rows = weights[0].index_select(0, among).index_select(-1, columns)
        self.waiting[layer].append((positions, rows if seen is None else rows * seen))
        self.n_waiting += rows.numel()
        if self.n_waiting > BLOCK:
            self.finish()

    def _columns(
        self, place: QueryKeyPositions, device: torch.device
    ) -> tuple[Int[Tensor, " key"], Bool[Tensor, " key"] | None]:
        """Where the keys are in a row, and which of them are there; None where all are."""
        about = place.cross_attention, place.key_start, min(place.n_keys, self.end), device
        if about not in self.columns:
            if len(self.columns) > 8:  # a sliding window is elsewhere in every step
                self.columns.clear()
            columns = self.keys - place.key_start
            seen = (columns >= 0) & (columns < place.n_keys) & (self.cross_attention == place.cross_attention)
            self.columns[about] = columns.where(seen, 0).to(device), None if seen.all() else seen.to(device)
        return self.columns[about]
