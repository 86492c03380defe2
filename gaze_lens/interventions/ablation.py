"""Ablation: what chosen heads hand on is replaced by zero, by its mean, or by what it is in another prompt.

    model.run_with_hooks(inputs, fwd_hooks=gl.zero_ablate(heads))
    model.generate(inputs, fwd_hooks=gl.mean_ablate(model, heads, reference))
    model.run_with_hooks(inputs, fwd_hooks=gl.resample_ablate(model, heads, inputs, others, seed=0))

All three edit `hook_z`, `[batch, pos, head, d_head]`: what a head has gathered, before it is projected into the stream.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.position_groups import Group, group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.edits import Hooks, position_mask, row_means

Heads = HeadSet | Sequence[Any]


def zero_ablate(heads: Heads, *, positions: Group | None = None) -> Hooks:
    """`gl.zero_ablate(heads)`: hooks that silence the heads, in prefill and in every decode step.

    positions: act at these positions of the prompt only.
    """
    heads = HeadSet.of(heads)
    return _hooks(heads, dict.fromkeys(heads.by_layer(), torch.zeros(())), positions)


def mean_ablate(
    model: Any,
    heads: Heads,
    reference: VLMInputs | Sequence[VLMInputs],
    *,
    over: Any = "every",
    positions: Group | None = None,
) -> Hooks:
    """`gl.mean_ablate(model, heads, reference)`: hooks that give each head its mean, in prefill and every decode step.

    reference: a batch of inputs, or several. over: the positions that the mean is taken over, as for
        `gl.patching.group`; every row counts the same, however many of them it has.
    positions: act at these positions of the prompt only. A mean for each kind of position:
        `mean_ablate(..., over="image", positions=group(inputs, "image")) + mean_ablate(..., over="text", ...)`.
    """
    heads = HeadSet.of(heads, model)
    batches = [reference] if isinstance(reference, VLMInputs) else list(reference)
    if not batches:
        raise InputError("There are no inputs to take a mean over; give at least one batch of model.prepare(...).")
    names = {layer: f"blocks.{layer}.attn.hook_z" for layer in heads.by_layer()}
    rows = [row_means(model, inputs, list(names.values()), group(inputs, over)) for inputs in batches]
    means = {layer: torch.cat([part[name] for part in rows]).mean(0) for layer, name in names.items()}
    return _hooks(heads, {layer: means[layer][list(chosen)] for layer, chosen in heads.by_layer().items()}, positions)


@torch.no_grad()
def resample_ablate(
    model: Any, heads: Heads, inputs: VLMInputs, others: VLMInputs, *, seed: int = 0, positions: Group | None = None
) -> Hooks:
    """`gl.resample_ablate(model, heads, inputs, others, seed=0)`: hooks that give each head, position by position, what
    it has in another prompt.

    inputs: what will be run. others: prompts of the same token layout; for each row of the inputs one is drawn with
        `seed`, never the row itself where both are the same batch.
    positions: act at these positions only. Without it the hooks are for one forward: there are no activations to
        take for generated tokens, and a decode step is an InputError.
    Raises InputError where a drawn row's image and text tokens lie elsewhere.
    """
    heads, drawn = HeadSet.of(heads, model), _draw(inputs, others, seed)
    names = {layer: f"blocks.{layer}.attn.hook_z" for layer in heads.by_layer()}
    _, cache = model.run_with_cache(others, names_filter=list(names.values()))
    values = {layer: cache[names[layer]][drawn][:, :, list(chosen)] for layer, chosen in heads.by_layer().items()}
    return _hooks(heads, values, positions)


def _draw(inputs: VLMInputs, others: VLMInputs, seed: int) -> list[int]:
    """For each row of the inputs, the row of the others whose activations it gets."""
    generator = torch.Generator().manual_seed(seed)
    itself = others is inputs
    if itself and inputs.n_rows < 2:
        raise InputError("A prompt cannot be resampled from itself; give other prompts, or a batch of several.")
    offsets = torch.randint(int(itself), others.n_rows, (inputs.n_rows,), generator=generator).tolist()
    drawn = [(row * itself + offset) % others.n_rows for row, offset in enumerate(offsets)]
    for row, other in enumerate(drawn):
        if _places(inputs, row) != _places(others, other):
            raise InputError(
                f"Row {row} would get the activations of row {other} of the others, whose image and text tokens lie at "
                "other positions; give prompts of the same token layout."
            )
    return drawn


def _places(inputs: VLMInputs, row: int) -> tuple:
    return inputs.layout.length, inputs.layout.images[row], inputs.layout.text[row]


def _hooks(heads: HeadSet, values: Mapping[int, Tensor], positions: Group | None) -> Hooks:
    edit = partial(_replace, heads=heads, values=values, positions=positions)
    return [(f"blocks.{layer}.attn.hook_z", edit) for layer in heads.by_layer()]


def _replace(
    z: Float[Tensor, "batch pos head d_head"],
    hook: Any,
    *,
    heads: HeadSet,
    values: Mapping[int, Tensor],
    positions: Group | None,
) -> Float[Tensor, "batch pos head d_head"]:
    """The hook function: the heads' values in place of what they gathered, at some or all positions."""
    layer = hook.layer()
    chosen = list(heads.by_layer()[layer])
    HeadSet((layer, head) for head in chosen).check(layer + 1, z.shape[2])
    mask = None if positions is None else position_mask(positions, z)
    if mask is None and positions is not None:
        return z
    value = _for_rows(values[layer], z).to(z)
    edited = z.clone()
    edited[:, :, chosen] = value if mask is None else torch.where(mask[..., None, None], value, z[:, :, chosen])
    return edited


def _for_rows(value: Tensor, z: Tensor) -> Tensor:
    """Values of single rows and positions, for a forward that may repeat each row (beams, return sequences)."""
    if value.ndim < 4:
        return value
    if value.shape[1] != z.shape[1] or z.shape[0] % value.shape[0]:
        raise InputError(
            f"Resampled activations are for {value.shape[0]} rows x {value.shape[1]} positions, and a forward has "
            f"{z.shape[0]} x {z.shape[1]}. Run the inputs that they were made for; to generate, say with positions= "
            "which of the prompt's positions to edit, or use gl.mean_ablate, which has a value for generated tokens."
        )
    return value.repeat_interleave(z.shape[0] // value.shape[0], 0)
