"""A bias that is exchanged between forwards, for a target that is chosen while the model writes."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.heads.head_set import HeadSet


@dataclass(frozen=True, eq=False)
class Wheel(AttentionBias):
    """A bias that is another one, exchanged between forwards: `wheel.turn(bias)`; None leaves the heads alone.

    For a target that is chosen while the model writes. The seam takes it for what it is, so that the fast kernel stays
    on whatever it holds.
    """

    held: list[AttentionBias] = field(default_factory=list)

    @classmethod
    def of(cls, heads: HeadSet) -> "Wheel":
        """A wheel that holds nothing yet."""
        return cls(heads, Positions.everything(), keys=(), value=(), required=False)

    def turn(self, bias: AttentionBias | None) -> None:
        """Hold another bias, from the next forward on. Not while a forward runs: its layers would disagree."""
        self.held[:] = [] if bias is None else [bias]

    def dense(
        self, layer: int, place: QueryKeyPositions, visible: Bool[Tensor, " batch #head query key"], dtype: torch.dtype
    ) -> Float[Tensor, "#batch #head query key"] | None:
        """What the bias in the wheel adds."""
        return self.held[0].dense(layer, place, visible, dtype) if self.held else None
