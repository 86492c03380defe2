"""`AttentionBias`: add a number to the pre-softmax scores of chosen heads, from some queries to some keys.

    bias = AttentionBias(HeadSet(["L3H5"]), queries=Positions.everything(), keys=Positions.of([7, 8]), value=3.0)
    model.run_with_hooks(inputs, fwd_hooks=bias.hooks())

It is an ordinary TransformerLens hook function: on any bridge it works on the full tensor of scores. On a `HookedVLM`
the attention function recognises it and leaves the fast kernel on.

A position is a column of the padded sequence, of prompt and generated tokens. Keys of cross-attention layers are no
positions: they are counted on their own, and `cross_attention=True` says that they are meant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Real
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.attention.score_edit import ScoreEdit, check_counts, check_head_weights, column
from gaze_lens.attention.step_condition import check_when
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.regions.layout import Layout, Region

LARGEST = 1e30  # of a bias; more, and sums of biases, would not fit into float32


@dataclass(frozen=True, eq=False)
class AttentionBias(ScoreEdit):
    """Add `value` to the pre-softmax scores from `queries` to `keys`, in the chosen heads only.

    heads: the heads; one object serves all their layers (`.hooks()` gives the list to attach).
    queries, keys: `Positions`; `keys` may be several groups, with one value each, which add up. Groups of
        cross-attention keys act in cross-attention layers alone, the others in all other layers alone; queries are
        positions in both. Keys with weights (`Positions.weights`) get the value times their weight.
    value: added to the scaled scores, in logits; `-math.inf` knocks the connection out, `math.inf` leaves only it.
    layout: where given, running other inputs under the bias is a RegionError.
    rows: for each batch row, whether the bias acts there; in all of them unless given.
    relative: subtract, per query row, the largest bias among the keys that the row sees, so that the largest is 0.
        Softmax does not care about a constant, float32 and bfloat16 do: added plainly, 1e4 makes all boosted weights
        equal in bfloat16. False adds plainly, on the materialised scores in the model's precision, as the paper's own
        runs did.
    required: an error at the end of the run if it never acted.
    when: a condition on the newest token, as for `gl.steer`.
    head_weights: for each head, in their order, a factor above 0, at most 1; None for 1.
    steered_to: the region that the bias is for, as `generation.exposure` reports it; None: its keys.

    What the model masks (future, padding, outside the window) stays masked. A bias never changes: where it acted is
    recorded in the run (`generation.acted`).
    """

    heads: HeadSet
    queries: Positions
    keys: Positions | Sequence[Positions]
    value: float | Sequence[float]
    layout: Layout | None = None
    rows: tuple[bool, ...] | None = None
    relative: bool = True
    required: bool = True
    head_weights: tuple[float, ...] | None = None
    when: Any = None
    steered_to: Region | None = None

    def __post_init__(self) -> None:
        check_head_weights("AttentionBias", self.heads, self.head_weights)
        check_when(self.when)
        for name in ("keys", "value"):
            argument = getattr(self, name)
            several = isinstance(argument, Sequence) and not isinstance(argument, str)
            object.__setattr__(self, name, tuple(argument) if several else (argument,))
        keys, values = self.key_groups, self.values
        check_biases("AttentionBias", values)
        if len(keys) != len(values):
            raise InputError(
                f"AttentionBias got {len(keys)} groups of keys and {len(values)} values; give one value each."
            )
        check_counts("AttentionBias", self.queries, *keys, rows=self.rows)
        if any(math.isnan(value) for value in values):
            raise InputError(f"AttentionBias got the value {self.value}; give numbers (math.inf is allowed).")

    @property
    def key_groups(self) -> tuple[Positions, ...]:
        """`keys`, always as a tuple."""
        return self.keys  # type: ignore[return-value] # a tuple since __post_init__

    @property
    def values(self) -> tuple[float, ...]:
        """`value`, for each group of keys."""
        return self.value  # type: ignore[return-value] # a tuple since __post_init__

    @property
    def targets(self) -> tuple[Positions, ...]:
        """The keys that it is for: the region's, else all that it changes."""
        own = tuple(replace(keys, weights=None) for keys in self.key_groups)  # of which weights are logits
        return own if self.steered_to is None else super().targets

    @property
    def acts_on(self) -> str:
        """The keys that it is for, in words."""
        return "; ".join(map(str, self.key_groups))

    def edited(self, scores: Tensor, visible: Tensor, positions: QueryKeyPositions, hook: Any) -> Tensor | None:
        """The scores of this bias' heads in one layer, with it added; None where it has nothing to act on."""
        added, weights = self.bias_matrix(positions, visible, scores.dtype), self.weights_in(hook.layer())
        if added is None:
            return None
        return scores + (added if weights is None else added * column(weights, added))

    def bias_matrix(
        self, positions: QueryKeyPositions, visible: Bool[Tensor, " batch #head query key"], dtype: torch.dtype
    ) -> Float[Tensor, "#batch #head query key"] | None:
        """What the bias adds in its heads, 0 where a query does not see; None where it has nothing to act on.

        The query gate times the values of the keys, and where relative, less the largest that a query sees.

        visible: what each query may see, the same for all heads or one for each head.
        """
        self.check_layout(positions)
        gate, values = self._gate_and_values(positions)
        if not (gate.any() and values.any()):
            return None
        gate, values = gate.to(visible.device), values.to(visible.device)
        rows = positions.rows_of(visible.shape[0], gate.shape[0]) if gate.shape[0] > 1 else [0]
        bias = gate[rows][:, None, :, None] * values.clamp(*_finite(dtype))[rows][:, None, None, :]
        hidden = ~visible
        bias = bias.masked_fill(hidden, 0.0)
        if not bias.any():
            return None
        if self.relative:
            bias = (bias - bias.masked_fill(hidden, -math.inf).amax(-1, keepdim=True)).masked_fill(hidden, 0.0)
        return bias.to(dtype)

    def _gate_and_values(
        self, positions: QueryKeyPositions
    ) -> tuple[Float[Tensor, "row query"], Float[Tensor, "row key"]]:
        """For each row of the bias, which queries it acts on (1 or 0), and what it adds to each key."""
        gate = self.gate(positions).float()
        values = torch.zeros(1, positions.n_keys)
        for keys, value in zip(self.key_groups, self.values, strict=True):
            if keys.cross_attention == positions.cross_attention:
                values = values + torch.where(keys.mask(positions.keys), value * keys.values(positions.keys), 0.0)
        if values.isnan().any():
            raise InputError("AttentionBias adds math.inf and -math.inf to one key; keep the groups of keys apart.")
        n_rows = max(len(gate), len(values))
        return gate.expand(n_rows, -1), values.expand(n_rows, -1)


def check_biases(owner: Any, values: Sequence[Any]) -> None:
    """InputError unless all values are numbers that float32 holds with room to spare, or infinite."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise InputError(f"{owner} got {value!r}, which is no number; give strengths in logits, such as 3.0.")
        size: Any = abs(value)
        if LARGEST < size != math.inf:
            raise InputError(f"{owner} got a value beyond {LARGEST:g}; give smaller strengths, or math.inf.")


@lru_cache(maxsize=4096)
def head_gate(
    heads: tuple[int, ...], weights: tuple[float, ...] | None, n_heads: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "head 1 1"]:
    """1, or a weight, for the heads named, 0 for the others. It is made once, and not as an inference tensor, which no
    later backward pass could use."""
    selected = dict(zip(heads, weights or (1.0,) * len(heads), strict=True))
    with torch.inference_mode(False):
        return torch.tensor([selected.get(head, 0.0) for head in range(n_heads)], dtype=dtype, device=device)[
            :, None, None
        ]


def _finite(dtype: torch.dtype) -> tuple[float, float]:
    """Bounds that behave as infinity in a softmax, and whose differences do not look like a mask in the dtype."""
    limit = min(torch.finfo(dtype).max, 1e30) / 6
    return -limit, limit
