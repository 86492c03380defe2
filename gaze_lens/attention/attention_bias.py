"""Two kinds of hook that know what they want from an attention matrix, and say so before it is built.

    bias = AttentionBias(HeadSet(["L3H5"]), queries=Positions.everything(), keys=Positions.of([7, 8]), value=3.0)
    model.run_with_hooks(inputs, fwd_hooks=bias.hooks())

`AttentionBias` adds to pre-softmax scores and belongs on `hook_attn_scores`; `RowReader` looks at a few rows of the
pattern and belongs on `hook_pattern`. Both are ordinary TransformerLens hook functions: on any bridge they work on
the full tensor. On a `HookedVLM` the attention seam (`attention.py`) recognises them and leaves the fast kernel on.

A position is a column of the padded sequence, prompt and generated tokens alike. Keys of cross-attention layers are
no positions: they are counted on their own, and `cross_attention=True` says that they are meant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.errors import HookError, InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.regions.layout import Layout

AHEAD = 256  # keys that come in the next steps, whose values a bias computes with those that are there


@dataclass(frozen=True, eq=False)
class AttentionBias:
    """Add `value` to the pre-softmax scores from `queries` to `keys`, in the chosen heads only.

    heads: the heads; one object serves all their layers (`.hooks()` gives the list to attach).
    queries, keys: `Positions`; `keys` may be several groups, with one value each, which add up. Groups of
        cross-attention keys act in cross-attention layers alone, the others in all other layers alone; queries are
        positions in both.
    value: added to the scaled scores, in logits; `-math.inf` knocks the connection out, `math.inf` leaves only it.
    layout: where given, running other inputs under the bias is a RegionError.
    rows: for each batch row, whether the bias acts there; in all of them unless given.
    relative: subtract, per query row, the largest bias among the keys that the row sees. Softmax does not care about
        a constant, float32 and bfloat16 do: added plainly, 1e4 makes all boosted weights equal in bfloat16. False
        adds plainly, on the materialised scores in the model's precision, as the paper's own runs did.
    required: an error at the end of the run if it never acted.

    What the model masks (future, padding, outside the window) stays masked. `acted` counts, for each layer, the
    forwards in which there was a query that saw a key to act on.
    """

    heads: HeadSet
    queries: Positions
    keys: Positions | tuple[Positions, ...]
    value: float | tuple[float, ...]
    layout: Layout | None = None
    rows: tuple[bool, ...] | None = None
    relative: bool = True
    required: bool = True
    acted: dict[int, int] = field(default_factory=dict, repr=False)
    _by_layer: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)
    _memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("keys", "value"):
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(given) if isinstance(given, Sequence) else (given,))
        if len(self.keys) != len(self.value):
            raise InputError(
                f"AttentionBias got {len(self.keys)} groups of keys and {len(self.value)} values; give one value each."
            )
        if self.queries.cross_attention:
            raise InputError(
                "AttentionBias got cross_attention=True for its queries; queries are positions of the prompt in every "
                "layer, and keys alone can be those of cross-attention."
            )
        counts = {len(positions.rows) for positions in (self.queries, *self.keys)} | {len(self.rows or (True,))}
        if len(counts - {1}) > 1:
            raise InputError(
                f"AttentionBias got queries, keys and rows for {sorted(counts - {1})} rows; give each for one row (it "
                "then holds for all) or for the same number of rows."
            )
        if any(math.isnan(value) for value in self.value):
            raise InputError(f"AttentionBias got the value {self.value}; give numbers (math.inf is allowed).")
        self._by_layer.update(self.heads.by_layer())

    def heads_in(self, layer: int) -> tuple[int, ...]:
        """The chosen heads of a layer; empty where it has none."""
        return self._by_layer.get(layer, ())

    def hooks(self) -> list[tuple[str, "AttentionBias"]]:
        """`(hook name, function)` for every layer that has a chosen head: goes to `run_with_hooks` and `hooks()`."""
        return [(f"blocks.{layer}.attn.hook_attn_scores", self) for layer in self._by_layer]

    def __call__(self, scores: Tensor, hook: Any) -> Tensor:
        """The hook function: scores `[batch, head, query, key]` (or without batch) in, biased scores out."""
        if not str(hook.name).endswith("hook_attn_scores"):
            raise HookError(
                f"An AttentionBias is attached to {hook.name}; it adds to pre-softmax scores and belongs on "
                "blocks.L.attn.hook_attn_scores. Attach the list that its .hooks() returns."
            )
        batched = scores if scores.ndim == 4 else scores[None]
        heads = list(self.heads_in(hook.layer()))
        chosen = batched[:, heads]
        visible = chosen > torch.finfo(chosen.dtype).min / 2
        added = self.dense(hook.layer(), QueryKeyPositions.of(scores, hook), visible, chosen.dtype)
        if added is None:
            return scores
        biased = batched.clone()
        biased[:, heads] = chosen + added
        return biased if scores.ndim == 4 else biased[0]

    def dense(
        self, layer: int, place: QueryKeyPositions, visible: Bool[Tensor, " batch #head query key"], dtype: torch.dtype
    ) -> Float[Tensor, "#batch #head query key"] | None:
        """What the bias adds in a layer's chosen heads, 0 where a query does not see; None where it has nothing to do.

        visible: what each query may see, the same for all chosen heads or one for each.
        """
        if layer not in self._by_layer:
            return None
        kept = self._memo.get(("dense", place.cross_attention), (None, None, None, None))
        if kept[0] is not place or kept[1] is not visible or kept[2] != dtype:  # layers alike have the same objects
            self._check(place)
            parts = self._parts(place)
            kept = place, visible, dtype, None if parts is None else self._bias(parts, place, visible, dtype)
            self._memo["dense", place.cross_attention] = kept
        if kept[3] is not None:
            self.acted[layer] = self.acted.get(layer, 0) + 1
        return kept[3]

    def _check(self, place: QueryKeyPositions) -> None:
        if self.layout is not None and place.layout is not None and self.layout != place.layout:
            raise RegionError(
                f"This attention edit is for a {self.layout}, and the inputs being run are a {place.layout}. Make its "
                "regions with inputs.region(...) on the inputs that you run."
            )

    def _bias(
        self,
        parts: tuple,
        place: QueryKeyPositions,
        visible: Bool[Tensor, " batch #head query key"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "#batch #head query key"] | None:
        """Query gate times key values, and where relative, less the largest that a query sees; None where no query
        sees a key that has a value."""
        gate, values = (part.to(visible.device) for part in parts)
        rows = place.rows_of(visible.shape[0], gate.shape[0]) if gate.shape[0] > 1 else [0]
        bias = gate[rows][:, None, :, None] * values.clamp(*_finite(dtype))[rows][:, None, None, :]
        hidden = ~visible
        bias = bias.masked_fill(hidden, 0.0)
        if not bias.any():
            return None
        if self.relative:
            bias = (bias - bias.masked_fill(hidden, -math.inf).amax(-1, keepdim=True)).masked_fill(hidden, 0.0)
        return bias.to(dtype)

    def gate(self, layer: int, n_heads: int, like: Tensor) -> Float[Tensor, "head 1 1"]:
        """1 for the chosen heads of a layer, 0 for the others, of the dtype and on the device of a tensor."""
        about = "gate", layer, n_heads, like.dtype, like.device
        if about not in self._memo:
            chosen = [head in self.heads_in(layer) for head in range(n_heads)]
            self._memo[about] = torch.tensor(chosen, dtype=like.dtype, device=like.device)[:, None, None]
        return self._memo[about]

    def _parts(self, place: QueryKeyPositions) -> tuple[Tensor, Tensor] | None:
        """The query gate `[row, query]` and key values `[row, key]`; None where either is empty."""
        gate = self.queries.mask(place.queries).float() * torch.tensor(self.rows or (True,))[:, None]
        values = self._values(place)
        n_rows = max(len(gate), len(values))
        return (gate.expand(n_rows, -1), values.expand(n_rows, -1)) if gate.any() and values.any() else None

    def _values(self, place: QueryKeyPositions) -> Float[Tensor, "row key"]:
        """The values of a place's keys; those of the keys to come are computed with them, and kept."""
        kept = self._memo.get(("values", place.cross_attention), torch.zeros(1, 0))
        if kept.shape[1] < place.keys.stop:
            kept = torch.zeros(1, place.keys.stop + AHEAD)
            for keys, value in zip(self.keys, self.value, strict=True):
                if keys.cross_attention == place.cross_attention:
                    kept = kept + torch.where(keys.mask(range(kept.shape[1])), value, 0.0)
            if kept.isnan().any():
                raise InputError("AttentionBias adds math.inf and -math.inf to one key; keep the groups of keys apart.")
            self._memo["values", place.cross_attention] = kept
        return kept[:, place.keys.start : place.keys.stop]


def _finite(dtype: torch.dtype) -> tuple[float, float]:
    """Bounds that behave as infinity in a softmax, and whose differences do not look like a mask in the dtype."""
    limit = min(torch.finfo(dtype).max, 1e30) / 6
    return -limit, limit
