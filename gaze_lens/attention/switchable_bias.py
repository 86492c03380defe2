"""An edit of scores that is exchanged between forwards, for a target that is chosen while the model writes.

switch = SwitchableBias(heads)
model.generate(inputs, fwd_hooks=switch.hooks(), streamer=streamer)     # meanwhile: switch.to(bias), switch.to(None)
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.heads.head_set import HeadSet


@dataclass(eq=False)
class SwitchableBias:
    """A hook function on the scores of some heads that acts as the edit that it holds, or not at all.

    The attention function looks at `current` once in every layer, so that the fast kernel stays on.

    heads: those of every edit that it will hold. current: the edit that acts now; None leaves the heads alone.
    """

    heads: HeadSet
    current: ScoreEdit | None = field(default=None, init=False)
    required = False  # it need not act

    def to(self, bias: ScoreEdit | None) -> None:
        """Hold another edit, from the next forward on. Not while a forward runs: its layers would disagree."""
        self.current = bias

    def hooks(self) -> list[tuple[str, "SwitchableBias"]]:
        """`(hook name, function)` for every layer that has one of the heads."""
        return [(f"blocks.{layer}.attn.hook_attn_scores", self) for layer in self.heads.by_layer()]

    def __call__(self, scores: Tensor, hook: Any) -> Tensor:
        """The hook function: scores `[batch, head, query, key]` in, those under the current edit out."""
        return scores if self.current is None else self.current(scores, hook)
