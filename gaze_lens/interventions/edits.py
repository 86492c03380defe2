"""What edits share: where the prompt's positions are in an activation, and means of activations over positions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.position_groups import Group
from gaze_lens.inputs.vlm_inputs import VLMInputs

Hooks = list[tuple[str, Callable]]


def position_mask(group: Group, tensor: Tensor) -> Bool[Tensor, "batch position"] | None:
    """Where a group's positions are in an activation `[batch, position, ...]`; None in a decode step, which has none.

    Raises InputError for another number of positions or rows than the prompt's (beams and return sequences repeat
    rows), and for keys of cross-attention layers.
    """
    batch, length = tensor.shape[:2]
    if group.cross_attention:
        raise InputError(
            f"{group} was given where columns of the prompt are edited; the image's keys are not among them. Edit "
            '"text", "last" or "every", or knock the keys out with gl.knockout.'
        )
    if length == 1 < group.layout.length:
        return None
    if length != group.layout.length or batch % len(group.rows):
        raise InputError(
            f"An edit at {group} was made for {group.layout}, and a forward has {batch} rows x {length} positions. Run "
            "the inputs that it was made for, or generate from them token by token."
        )
    mask = torch.zeros(len(group.rows), length, dtype=torch.bool)
    for row, positions in zip(mask, group.rows, strict=True):
        row[list(positions)] = True
    return mask.repeat_interleave(batch // len(group.rows), 0).to(tensor.device)


@torch.no_grad()
def row_means(
    model: Any, inputs: VLMInputs, hook_names: Sequence[str], where: Group
) -> dict[str, Float[Tensor, " row *axes"]]:
    """Activations `[row, pos, ...]` of one run, averaged over each row's positions in a group as they pass by."""
    means = {}

    def keep(tensor: Tensor, hook: Any, *, name: str) -> None:  # noqa: ARG001
        mask = position_mask(where, tensor)
        means[name] = torch.stack([row[chosen].mean(0) for row, chosen in zip(tensor, mask, strict=True)])

    model.run_with_hooks(inputs, fwd_hooks=[(name, partial(keep, name=name)) for name in hook_names])
    return means
