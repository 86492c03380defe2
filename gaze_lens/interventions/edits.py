"""What interventions share: the positions of a prompt in an activation, and means of activations over positions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.position_groups import Group, group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model

Hooks = list[tuple[str, Callable]]


def position_mask(group: Group, tensor: Tensor) -> Bool[Tensor, "batch position"] | None:
    """A mask of a group's positions in an activation `[batch, position, ...]`; None in a decode step, which has none.

    The activation may have each row of the prompt several times, as beams and return sequences do.
    Raises InputError for another number of positions or rows than the prompt has, and for keys of cross-attention
    layers.
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


def mean_activations(
    model: Model, inputs: VLMInputs | Sequence[VLMInputs], hook_names: Sequence[str], positions: Any
) -> dict[str, Float[Tensor, "*axes"]]:
    """Hook name -> the mean of its activation `[row, pos, ...]` over rows and positions.

    inputs: one batch, or several. positions: of each row, as for `gl.patching.group`; every row counts the same.
    Raises InputError where there are no inputs.
    """
    batches = [inputs] if isinstance(inputs, VLMInputs) else list(inputs)
    if not batches:
        raise InputError("There are no inputs to take a mean over; give at least one batch of model.prepare(...).")
    rows = [_row_means(model, batch, hook_names, group(batch, positions)) for batch in batches]
    return {name: torch.cat([of_batch[name] for of_batch in rows]).mean(0) for name in hook_names}


@torch.no_grad()
def _row_means(
    model: Model, inputs: VLMInputs, hook_names: Sequence[str], where: Group
) -> dict[str, Float[Tensor, " row *axes"]]:
    """Hook name -> the mean over each row's positions in a group, in one run; no whole activation is stored."""
    means: dict[str, Tensor] = {}

    def average(tensor: Tensor, hook: Any, *, name: str) -> None:  # noqa: ARG001
        masks = position_mask(where, tensor)
        if masks is not None:
            means[name] = torch.stack([row[mask].mean(0) for row, mask in zip(tensor, masks, strict=True)])

    model.run_with_hooks(inputs, fwd_hooks=[(name, partial(average, name=name)) for name in hook_names])
    return means
