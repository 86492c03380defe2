"""Run the vision tower once for several runs of the model: `model.encode(inputs)`."""

from dataclasses import replace
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.families import Features
from gaze_lens.inputs.vlm_inputs import VLMInputs, pixel_keys


def encoded(model: Any, inputs: VLMInputs, reuse: VLMInputs | None) -> VLMInputs:
    """The inputs with the vision tower's output in place of pixels; of equal images, and of those in `reuse`, once."""
    if inputs.features is not None:
        return inputs
    keys = pixel_keys(inputs)
    if not keys:
        raise InputError("There is no image to encode in these inputs.")
    images_by_key: dict[Any, Any] = {}
    if reuse is not None and reuse.features is not None:
        pairs = zip(pixel_keys(reuse), reuse.features.images, strict=True)
        # An image that a counterfactual changed is not what the tower makes of its pixels.
        images_by_key = {key: image for key, image in pairs if "edited" not in image}
    new = [key for key in dict.fromkeys(keys) if key not in images_by_key]
    if new:
        indices = [keys.index(key) for key in new]
        parts = model.family.encode(model.original_model, inputs.tensors, inputs.maps, indices)
        images_by_key.update(zip(new, parts, strict=True))
    images = tuple(images_by_key[key] for key in keys)
    features = Features(images, model.family.to_forward_kwargs, takes_counts=model.family.cross_attention)
    tensors = model.family.beside_images(inputs.tensors, inputs.n_rows)
    return replace(inputs, tensors=tensors, features=features)
