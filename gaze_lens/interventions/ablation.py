"""Ablation: the output of selected heads is replaced by zero, by its mean, or by their output in another prompt.

    model.run_with_hooks(inputs, fwd_hooks=gl.zero_ablate(heads))
    model.generate(inputs, fwd_hooks=gl.mean_ablate(model, heads, reference))
    model.run_with_hooks(inputs, fwd_hooks=gl.resample_ablate(model, heads, inputs, others, seed=0))

All three edit `hook_z`, `[batch, pos, head, d_head]`: the output of each head before the output projection.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.position_groups import Group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.edits import Hooks, mean_activations, position_mask
from gaze_lens.model_protocol import Model

Heads = HeadSet | Sequence[Any]
HeadsByLayer = Mapping[int, tuple[int, ...]]


def zero_ablate(heads: Heads, *, positions: Group | None = None) -> Hooks:
    """`gl.zero_ablate(heads)`: hooks that set the heads' output to zero, in prefill and in every decode step.

    positions: of the prompt, where the hooks act; by default at all positions and at generated tokens.
    """
    by_layer = HeadSet.of(heads).by_layer()
    return _hooks(by_layer, dict.fromkeys(by_layer, torch.zeros(())), positions)


def mean_ablate(
    model: Model,
    heads: Heads,
    reference: VLMInputs | Sequence[VLMInputs],
    *,
    over: Any = "every",
    positions: Group | None = None,
) -> Hooks:
    """`gl.mean_ablate(model, heads, reference)`: hooks that set the heads' output to its mean over other inputs.

    They act in prefill and in every decode step.
    reference: a batch of inputs, or several. over: the positions that the mean is taken over, as for
        `gl.patching.group`; every row counts the same, however many of these positions it has.
    positions: of the prompt, where the hooks act; by default at all positions and at generated tokens. For a separate
        mean at each kind of position, add hooks up:
        `mean_ablate(..., over="image", positions=group(inputs, "image")) + mean_ablate(..., over="text", ...)`.
    """
    by_layer = HeadSet.of(heads, model).by_layer()
    names = {layer: f"blocks.{layer}.attn.hook_z" for layer in by_layer}
    means = mean_activations(model, reference, list(names.values()), over)
    return _hooks(by_layer, {layer: means[name][list(by_layer[layer])] for layer, name in names.items()}, positions)


@torch.no_grad()
def resample_ablate(
    model: Model, heads: Heads, inputs: VLMInputs, others: VLMInputs, *, seed: int = 0, positions: Group | None = None
) -> Hooks:
    """`gl.resample_ablate(model, heads, inputs, others, seed=0)`: hooks that take the heads' output from other prompts.

    Each head gets, position by position, the output that it has in another prompt.
    inputs: those that will be run. others: prompts of the same token layout. For each row of the inputs a row of these
        is drawn with `seed`; where both are the same batch, never the row itself.
    positions: of the prompt, where the hooks act. Without it the hooks are for one forward, and a decode step is an
        InputError, as there is no output for generated tokens.
    Raises InputError where the image or text tokens of a drawn row are at other positions.
    """
    by_layer, drawn = HeadSet.of(heads, model).by_layer(), _draw(inputs, others, seed)
    names = {layer: f"blocks.{layer}.attn.hook_z" for layer in by_layer}
    _, cache = model.run_with_cache(others, names_filter=list(names.values()))
    values = {layer: cache[name][drawn][:, :, list(by_layer[layer])] for layer, name in names.items()}
    return _hooks(by_layer, values, positions)


def _draw(inputs: VLMInputs, others: VLMInputs, seed: int) -> list[int]:
    """For each row of the inputs, the row of the others whose activations it gets."""
    generator = torch.Generator().manual_seed(seed)
    same_batch = others is inputs
    if same_batch and inputs.n_rows < 2:
        raise InputError("A prompt cannot be resampled from itself; give other prompts, or a batch of several.")
    # In the same batch an offset of at least 1 is added to the row, so that no row draws itself.
    offsets = torch.randint(int(same_batch), others.n_rows, (inputs.n_rows,), generator=generator).tolist()
    drawn = [(row * same_batch + offset) % others.n_rows for row, offset in enumerate(offsets)]
    for row, other in enumerate(drawn):
        if _token_positions(inputs, row) != _token_positions(others, other):
            raise InputError(
                f"Row {row} would get the activations of row {other} of the others, whose image and text tokens lie at "
                "other positions; give prompts of the same token layout."
            )
    return drawn


def _token_positions(inputs: VLMInputs, row: int) -> tuple:
    return inputs.layout.length, inputs.layout.images[row], inputs.layout.text[row]


def _hooks(by_layer: HeadsByLayer, values: Mapping[int, Tensor], positions: Group | None) -> Hooks:
    edit = partial(_replace, by_layer=by_layer, values=values, positions=positions)
    return [(f"blocks.{layer}.attn.hook_z", edit) for layer in by_layer]


def _replace(
    z: Float[Tensor, "batch pos head d_head"],
    hook: Any,
    *,
    by_layer: HeadsByLayer,
    values: Mapping[int, Tensor],
    positions: Group | None,
) -> Float[Tensor, "batch pos head d_head"]:
    """The hook function: `values` in place of the heads' output, at some or all positions."""
    layer = hook.layer()
    heads = list(by_layer[layer])
    HeadSet((layer, head) for head in heads).check(layer + 1, z.shape[2])
    mask = None if positions is None else position_mask(positions, z)
    if mask is None and positions is not None:
        return z
    value = _for_rows(values[layer], z).to(z)
    edited = z.clone()
    edited[:, :, heads] = value if mask is None else torch.where(mask[..., None, None], value, z[:, :, heads])
    return edited


def _for_rows(value: Tensor, z: Tensor) -> Tensor:
    """The value for the rows of a forward, which may repeat each row (beams, return sequences)."""
    if value.ndim < 4:  # the same for all rows and positions
        return value
    if value.shape[1] != z.shape[1] or z.shape[0] % value.shape[0]:
        raise InputError(
            f"Resampled activations are for {value.shape[0]} rows x {value.shape[1]} positions, and a forward has "
            f"{z.shape[0]} x {z.shape[1]}. Run the inputs that they were made for; to generate, say with positions= "
            "which of the prompt's positions to edit, or use gl.mean_ablate, which has a value for generated tokens."
        )
    return value.repeat_interleave(z.shape[0] // value.shape[0], 0)
