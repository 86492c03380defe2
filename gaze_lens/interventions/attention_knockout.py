"""Attention knockout: selected heads cannot attend from some queries to some keys.

    hooks = gl.knockout(heads, queries=group(inputs, "last"), keys=inputs.region("panel 4"))
    model.run_with_hooks(inputs, fwd_hooks=hooks)

Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models".
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.errors import HookError, InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.position_groups import Group
from gaze_lens.regions.layout import Region


class Knockout(AttentionBias):
    """The bias of a knockout. A query without any key left is a HookError, as its softmax would be undefined."""

    def bias_matrix(
        self, positions: QueryKeyPositions, visible: Bool[Tensor, " batch #head query key"], dtype: torch.dtype
    ) -> Float[Tensor, "#batch #head query key"] | None:
        """As for any `AttentionBias`. Raises HookError where a query loses all keys that it sees."""
        added = super().bias_matrix(positions, visible, dtype)
        if added is None:
            return None
        gate, values = (part.to(visible.device) for part in self._gate_and_values(positions))
        rows = positions.rows_of(len(visible), len(gate)) if len(gate) > 1 else [0]
        seen = visible & (gate[rows] > 0)[:, None, :, None]
        left = seen & (values[rows] > -math.inf)[:, None, None, :]
        self._refuse(seen.any(-1) & ~left.any(-1), positions)
        return added

    def _refuse(self, lost: Bool[Tensor, " batch #head query"], positions: QueryKeyPositions) -> None:
        if lost.any():
            row, _, query = torch.nonzero(lost)[0].tolist()
            raise HookError(
                f"A knockout of {self.heads} takes away every key that position {positions.queries[query]} of batch "
                f"row {row} sees: it would have nothing to attend to. Leave the query one key, such as its own "
                "position, or set the heads' output to zero with gl.zero_ablate."
            )


def knockout(heads: HeadSet | Sequence[Any], queries: Any, keys: Any) -> list[tuple[str, AttentionBias]]:
    """`gl.knockout(heads, group(inputs, "last"), inputs.region("panel 4"))`: hooks that cut attention.

    The heads' attention from the queries to the keys becomes zero; the rest of each row sums to one.
    heads: a HeadSet, or what makes one. queries, keys: a Group, a Region or Positions. Positions can include generated
        tokens: `Positions.since(inputs.last_position)` is every query from the last prompt token on.
    A query that sees no other keys is a HookError when the model runs. So are queries that all come before the keys, as
    nothing would change. Raises HeadError for no heads, RegionError where queries and keys belong to different inputs.
    """
    layouts = [where.layout for where in (queries, keys) if isinstance(where, Group | Region)]
    if isinstance(keys, Group | Region) and layouts:
        keys.check(layouts[0])
    bias: AttentionBias = Knockout(
        HeadSet.of(heads), _positions(queries), _positions(keys), -math.inf, layout=layouts[0] if layouts else None
    )
    return bias.hooks()


def _positions(where: Any) -> Positions:
    if isinstance(where, Positions):
        return where
    if isinstance(where, Region):
        where.refuse_weights("a knockout")
        return Positions(where.positions, cross_attention=where.cross_attention)
    if isinstance(where, Group):
        return Positions(where.rows, cross_attention=where.cross_attention)
    raise InputError(
        f"{where!r} was given as queries or keys; expected a Group, a Region or Positions, such as "
        'gl.patching.group(inputs, "last") or inputs.region("panel 4").'
    )
