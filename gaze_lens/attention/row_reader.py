"""A hook that reads a few query rows of the pattern without having the matrix built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.errors import HookError


@dataclass(frozen=True, eq=False)
class RowReader:
    """Read a few query rows of the pattern without having the matrix built.

    queries: which rows; a forward that has none of them is passed over.
    read: called as `read(rows, positions, place, layer)`, with `rows` the post-softmax weights
        `[batch, head, query, key]` and `positions` the queries' positions; what it returns is ignored.

    Reduce inside `read`: all patterns of a long prompt take gigabytes, its last rows megabytes.
    """

    queries: Positions
    read: Callable[[Tensor, list[int], QueryKeyPositions, int], None]

    def __call__(self, pattern: Tensor, hook: Any) -> None:
        """The hook function on a full pattern, `[batch, head, query, key]` or without batch."""
        if not str(hook.name).endswith("hook_pattern"):
            raise HookError(f"A RowReader is attached to {hook.name}; it reads blocks.L.attn.hook_pattern.")
        place = QueryKeyPositions.of(pattern, hook)
        positions = self.queries.within(place.queries)
        if positions:
            batched = pattern if pattern.ndim == 4 else pattern[None]
            rows = batched[:, :, [position - place.query_start for position in positions]]
            self.read(rows, positions, place, hook.layer())
