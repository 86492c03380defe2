"""Directions in the residual stream: the difference between two sets of prompts, added to the stream of others.

    direction = gl.mean_difference(model, right_to_left, left_to_right, positions="last")
    model.generate(inputs, fwd_hooks=direction.hooks(range(20, 29), scale=2.0))
    result = gl.sweep_bands(model, inputs, direction, bands=3, metric=metric)

The difference of means is that of Marks and Tegmark 2023, "The Geometry of Truth"; bands of layers are those of
Gandikota and Bau 2026, "Reading direction". The vector of a layer is added to `hook_resid_pre`, the layer's input.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.attention_bias import LARGEST
from gaze_lens.deprecation import renamed_fields
from gaze_lens.errors import InputError, ModelError
from gaze_lens.inputs.position_groups import Group
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.edits import Hooks, mean_activations, position_mask
from gaze_lens.model_protocol import Model
from gaze_lens.runs.tensor_files import TensorFile

FILE = TensorFile("gaze_lens direction 1", kind="a direction", writer="Direction.save(path)", error=ModelError)


@renamed_fields(found="provenance")
@dataclass(frozen=True, eq=False)
class Direction:
    """`direction.hooks(20)`, `direction.save("reading.safetensors")`: a vector for each of some layers.

    vectors: one for each of `layers`, in the units of the residual stream.
    fingerprint: of the model's architecture, if known.
    provenance: how it was made; anything JSON can hold.
    Raises InputError unless every layer is there once and has one vector of real numbers.
    """

    vectors: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    fingerprint: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not all(isinstance(layer, Integral) and layer >= 0 for layer in self.layers):
            raise InputError(f"A Direction got the layers {list(self.layers)}; give whole numbers from 0.")
        if self.vectors.ndim != 2 or not self.vectors.is_floating_point():
            raise InputError(
                f"A Direction got vectors of shape {tuple(self.vectors.shape)} and {self.vectors.dtype}; give real "
                "numbers, [layer, d_model]."
            )
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
        """`direction.vector(20)`: the vector of a layer. Raises InputError for a layer that has none."""
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

        layers: one, or several (a band); by default all of the direction. positions: of the prompt; by default all.
        decode: whether to add it also at every generated token.
        Raises InputError for no layers, and for layers that have no vector.
        """
        band = self.layers if layers is None else [layers] if isinstance(layers, int) else list(layers)
        if isinstance(scale, bool) or not isinstance(scale, Real) or not abs(scale) <= LARGEST:
            raise InputError(f"scale={scale!r} was given; give a finite number of at most {LARGEST:g}.")
        if not band:
            raise InputError("There is no layer in the band; give at least one, such as range(2, 4).")
        return [
            (
                f"blocks.{layer}.hook_resid_pre",
                partial(_add, vector=scale * self.vector(layer), positions=positions, decode=decode),
            )
            for layer in band
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """`direction.save("reading.safetensors")`: the file is complete or not there at all."""
        about = {"layers": self.layers, "fingerprint": self.fingerprint, "provenance": self.provenance}
        FILE.write(path, {"vectors": self.vectors}, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, fingerprint: str | None = None) -> "Direction":
        """`Direction.load("reading.safetensors", fingerprint=model.fingerprint)`: what `save` wrote.

        Raises ModelError for a file that holds no direction, or one of another architecture.
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
    """The hook function: add the vector, in the prompt at the positions, in a decode step if `decode`."""
    if vector.shape[-1] != stream.shape[-1]:
        raise InputError(
            f"A direction of d_model {vector.shape[-1]} was added at {hook.name}, whose d_model is {stream.shape[-1]}; "
            "a direction belongs to the model that it was made with."
        )
    edited = stream + vector.to(stream)
    is_decode_step = stream.shape[1] == 1 and (positions is None or positions.layout.length > 1)
    if is_decode_step and not decode:
        return stream
    mask = None if is_decode_step or positions is None else position_mask(positions, stream)
    return edited if mask is None else torch.where(mask[..., None], edited, stream)


def mean_difference(
    model: Model,
    a: VLMInputs | Sequence[VLMInputs],
    b: VLMInputs | Sequence[VLMInputs],
    *,
    layers: int | Iterable[int] | None = None,
    positions: Any = "last",
) -> Direction:
    """`gl.mean_difference(model, right_to_left, left_to_right)`: the direction from the mean of b to the mean of a.

    a, b: a batch of inputs, or several; they need not be pairs. layers: one or several; by default all.
    positions: what the means are taken over, as for `gl.patching.group`; every row counts the same.
    Raises InputError where a or b is empty.
    """
    layers = range(model.cfg.n_layers) if layers is None else [layers] if isinstance(layers, int) else list(layers)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
    means = [torch.stack(list(mean_activations(model, inputs, names, positions).values())) for inputs in (a, b)]
    provenance = {"method": "mean difference", "positions": getattr(positions, "name", str(positions))}
    return Direction((means[0] - means[1]).float(), tuple(layers), model.fingerprint, provenance)
