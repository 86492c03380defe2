"""Hooks that read some query rows of the pattern as edits of scores found it, and as they leave it.

    reader = EditReader(Positions.since(inputs.last_position), read)
    hooks = [*reader.before(layers), *steering, *reader.after(layers)]

Both come of the same scores in the same forward: "without" is this head and this row without the edits between the two
hooks, and all that came before as it was steered.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.positions import SINKS_KEY, Positions, QueryKeyPositions, forward_state_of
from gaze_lens.errors import HookError

Pattern = Float[Tensor, "batch head query key"]


@dataclass(frozen=True, eq=False)
class EditReader:
    """Read a few query rows of the pattern without and with edits, where these stand between its hooks.

    queries: which rows; a forward that has none of them is passed over.
    read: called as `read(without, with_edits, positions, place, layer, state)`, with two patterns in float32,
        `[batch, head, query, key]`, `positions` the queries' positions, and `state` that of the forward, or None; what
        it returns is ignored.

    On a `HookedVLM` the attention function recognises the hooks and leaves the fast kernel on.
    """

    queries: Positions
    read: Callable[[Tensor, Tensor, list[int], QueryKeyPositions, int, Any], None]
    _without: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def before(self, layers: Iterable[int]) -> list[tuple[str, "EditMark"]]:
        """The hooks that stand before the edits of some layers."""
        return self._hooks(layers, after=False)

    def after(self, layers: Iterable[int]) -> list[tuple[str, "EditMark"]]:
        """The hooks that stand after them."""
        return self._hooks(layers, after=True)

    def _hooks(self, layers: Iterable[int], *, after: bool) -> list[tuple[str, "EditMark"]]:
        mark = EditMark(self, after)
        return [(f"blocks.{layer}.attn.hook_attn_scores", mark) for layer in layers]


@dataclass(frozen=True, eq=False)
class EditMark:
    """Where in the list of hooks an `EditReader` reads. The hook function returns scores as they are."""

    reader: EditReader
    after: bool

    def __call__(self, scores: Tensor, hook: Any) -> None:
        """The hook function: reads scores `[batch, head, query, key]`, or without batch."""
        if not str(hook.name).endswith("hook_attn_scores"):
            raise HookError(f"An EditReader is attached to {hook.name}; it reads blocks.L.attn.hook_attn_scores.")
        place, reader = QueryKeyPositions.of(scores, hook), self.reader
        positions = reader.queries.within(place.queries)
        if not positions:
            return
        batched = scores if scores.ndim == 4 else scores[None]
        rows = batched[:, :, [position - place.query_start for position in positions]]
        pattern = softmax(rows, hook.ctx.get(SINKS_KEY))
        if self.after:
            without = reader._without.pop(hook.layer())
            reader.read(without, pattern, positions, place, hook.layer(), forward_state_of(hook))
        else:
            reader._without[hook.layer()] = pattern


def softmax(scores: Tensor, sinks: Float[Tensor, " head"] | None) -> Pattern:
    """The pattern of scores in float32; attention sinks take their share and are cut off."""
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32)
    column = sinks[None, :, None, None].expand(len(scores), -1, scores.shape[-2], -1)
    return torch.cat([scores, column.to(scores.dtype)], dim=-1).softmax(-1, dtype=torch.float32)[..., :-1]
