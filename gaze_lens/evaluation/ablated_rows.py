"""Conditions that ablate heads, in batches whose rows belong to several conditions.

means = Ablations(model, references)
hooks = means.hooks(condition, rows=[2, 5])

The heads' output is replaced by its mean over the prompts of the first pictures of the run, at all positions and at
generated tokens, in the rows of the condition alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import HookError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.ablation import mean_ablate
from gaze_lens.interventions.edits import Hooks
from gaze_lens.model_protocol import Model

N_REFERENCES = 8  # pictures whose prompts the means are taken over


class Ablations:
    """The hooks of conditions that ablate. references: makes the batches that the means are over, when they are needed.

    The means of a condition are taken once.
    """

    def __init__(self, model: Model, references: Callable[[], Sequence[VLMInputs]]) -> None:
        self.model, self.references = model, references
        self._batches: Sequence[VLMInputs] | None = None
        self._hooks: dict[tuple[str, int], Hooks] = {}

    def hooks(self, condition: Condition, rows: Sequence[int], n_rows: int) -> Hooks:
        """Hooks that ablate the condition's heads in some rows of a batch of `n_rows`."""
        if condition.key not in self._hooks:
            if self._batches is None:
                self._batches = self.references()
            self._hooks[condition.key] = mean_ablate(self.model, condition.heads or (), self._batches)
        return [
            (name, partial(_in_rows, edit=edit, rows=tuple(rows), n_rows=n_rows))
            for name, edit in self._hooks[condition.key]
        ]


def _in_rows(
    z: Float[Tensor, "batch pos head d_head"], hook: Any, *, edit: Callable, rows: tuple[int, ...], n_rows: int
) -> Float[Tensor, "batch pos head d_head"]:
    """The hook function: what `edit` returns in some rows, and `z` in the others."""
    if len(z) != n_rows:
        raise HookError(f"Rows of {n_rows} are ablated, and a forward has {len(z)}: run the batch as it was made.")
    is_row = torch.zeros(n_rows, dtype=torch.bool, device=z.device)
    is_row[list(rows)] = True
    return torch.where(is_row[:, None, None, None], edit(z, hook), z)
