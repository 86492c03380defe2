"""Directions in the residual stream: what tells two sets of prompts apart, added to the stream of others.

    direction = gl.mean_difference(model, right_to_left, left_to_right, positions="last")
    model.generate(inputs, fwd_hooks=direction.hooks(range(20, 29), scale=2.0))
    result = gl.sweep_bands(model, inputs, direction, bands=3, metric=metric)

The difference of means as in Marks and Tegmark 2023, "The Geometry of Truth"; bands of layers as in Gandikota and Bau
2026, "Reading direction". A layer's vector is added to `hook_resid_pre`, the stream that the layer reads.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.deprecation import renamed_fields
from gaze_lens.errors import InputError, ModelError
from gaze_lens.inputs.position_groups import Group, group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.edits import Hooks, position_mask, row_means
from gaze_lens.runs.tensor_files import TensorFile

FILE = TensorFile("gaze_lens direction 1", kind="a direction", writer="Direction.save(path)", error=ModelError)


@renamed_fields(found="provenance")
@dataclass(frozen=True, eq=False)
class Direction:
    """A vector for each of some layers. `direction.hooks(20)` adds it; `direction.save("reading.safetensors")`.

    vectors: one for each of `layers`, in the units of the residual stream.
    fingerprint: of the architecture that it belongs to, if known. provenance: how it was made; anything JSON
        can hold.
    """

    vectors: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    fingerprint: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.vectors) or len(set(self.layers)) < len(self.layers) or not self.layers:
            raise InputError(
                f"A Direction got {len(self.vectors)} vectors for the layers {list(self.layers)}; give one vector for "
                "each layer, and every layer once."
            )

    def __repr__(self) -> str:
        norms = self.vectors.norm(dim=-1)
        return (
            f"Direction in {len(self.layers)} layers ({min(self.layers)} to {max(self.layers)}), d_model "
            f"{self.vectors.shape[1]}, norms {norms.min():.3g} to {norms.max():.3g}"
        )

    def vector(self, layer: int) -> Float[Tensor, " d_model"]:
        """`direction.vector(20)`; InputError for a layer that it has no vector for."""
        if layer not in self.layers:
            raise InputError(f"The direction has no vector for layer {layer}; it has {list(self.layers)}.")
        return self.vectors[self.layers.index(layer)]

    def hooks(
        self,
        layers: int | Iterable[int] | None = None,
        *,
        scale: float = 1.0,
        positions: Group | None = None,
        decode: bool = True,
    ) -> Hooks:
        """`direction.hooks(range(20, 29), scale=2.0)`: hooks that add `scale` times each layer's vector to its input.

        layers: one, several (a band), or all that it has. positions: of the prompt; all unless given.
        decode: also add it at every generated token.
        """
        chosen = self.layers if layers is None else [layers] if isinstance(layers, int) else list(layers)
        if not chosen:
            raise InputError("There is no layer in the band; give at least one, such as range(2, 4).")
        return [
            (
                f"blocks.{layer}.hook_resid_pre",
                partial(_add, vector=scale * self.vector(layer), positions=positions, decode=decode),
            )
            for layer in chosen
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """`direction.save("reading.safetensors")`: the file is complete or not there at all."""
        about = {"layers": self.layers, "fingerprint": self.fingerprint, "provenance": self.provenance}
        FILE.write(path, {"vectors": self.vectors}, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, fingerprint: str | None = None) -> "Direction":
        """`Direction.load("reading.safetensors", fingerprint=model.fingerprint)`: what `save` wrote.

        Raises ModelError for a file that holds none, or one of another architecture.
        """
        with FILE.reading(path) as (tensors, about):
            provenance = about["found" if "found" in about else "provenance"]  # version 0.1 wrote the first
            direction = cls(tensors["vectors"], tuple(about["layers"]), about["fingerprint"], provenance)
        if fingerprint is not None and direction.fingerprint not in (None, fingerprint):
            raise ModelError(
                f"{path} holds a direction of {direction.fingerprint}, and {fingerprint} is asked for, which has "
                "another residual stream. Make a direction of this model."
            )
        return direction


def _add(
    stream: Float[Tensor, "batch pos d_model"], hook: Any, *, vector: Tensor, positions: Group | None, decode: bool
) -> Float[Tensor, "batch pos d_model"]:
    """The hook function."""
    if vector.shape[-1] != stream.shape[-1]:
        raise InputError(
            f"A direction of d_model {vector.shape[-1]} was added at {hook.name}, whose d_model is {stream.shape[-1]}; "
            "a direction belongs to the model that it was made with."
        )
    moved = stream + vector.to(stream)
    single = stream.shape[1] == 1 and (positions is None or positions.layout.length > 1)
    if single and not decode:
        return stream
    mask = None if single or positions is None else position_mask(positions, stream)
    return moved if mask is None else torch.where(mask[..., None], moved, stream)


def mean_difference(
    model: Any,
    a: VLMInputs | Sequence[VLMInputs],
    b: VLMInputs | Sequence[VLMInputs],
    *,
    layers: int | Iterable[int] | None = None,
    positions: Any = "last",
) -> Direction:
    """`gl.mean_difference(model, right_to_left, left_to_right)`: the direction from b's mean to a's, layer by layer.

    a, b: a batch of inputs, or several; they need not be pairs. layers: all unless given.
    positions: averaged over, as for `gl.patching.group`; every row counts the same.
    """
    chosen = range(model.cfg.n_layers) if layers is None else [layers] if isinstance(layers, int) else list(layers)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in chosen]
    means = [_mean(model, inputs, names, positions) for inputs in (a, b)]
    provenance = {"method": "mean difference", "positions": getattr(positions, "name", str(positions))}
    return Direction((means[0] - means[1]).float(), tuple(chosen), model.fingerprint, provenance)


def _mean(
    model: Any, inputs: VLMInputs | Sequence[VLMInputs], names: list[str], positions: Any
) -> Float[Tensor, "layer d_model"]:
    batches = [inputs] if isinstance(inputs, VLMInputs) else list(inputs)
    if not batches:
        raise InputError("There are no inputs to take a mean over; give at least one batch of model.prepare(...).")
    parts = [row_means(model, batch, names, group(batch, positions)) for batch in batches]
    return torch.stack([torch.cat([part[name] for part in parts]).mean(0) for name in names])
