"""Changes of encoded inputs: a region's rows of what the vision tower made of an image, DeepStack's included.

A row of the features is a token of the image (a key, where the image is reached by cross-attention), in the order of
`inputs.image_tokens`, view after view. Inputs where that does not hold are refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families.features import EncodedImage
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.image_tokens import ImageTokens

Rows = Float[Tensor, "_ _"]  # [token, feature]: of an image, a region or many images
KNOWN = {"tokens", "levels", "padding", "edited"}  # what a part may hold; `padding` belongs to no image


@dataclass(frozen=True)
class FeatureChange:
    """A change of the image features of a region's tokens, made by `blank`, `noise` and `mean`.

    region: a name, or a shape in pixels. fill: (rows to learn from, how many are wanted, level) -> the new rows; level
        0 is the features that enter at the embedding, further ones are DeepStack's.
    over: what `fill` learns from, where it is not the image's tokens that cover something: a region's name or a
        shape, or other encoded inputs.
    """

    region: Any
    fill: Callable[[Rows, int, int], Tensor]
    over: Any = None


def zeros(seen: Rows, _n: int, _level: int) -> Float[Tensor, " feature"]:
    """Zero."""
    return torch.zeros_like(seen[0])


def averages(seen: Rows, _n: int, _level: int) -> Float[Tensor, " feature"]:
    """The mean of the rows, in float32."""
    return seen.float().mean(0)


def noises(seed: int) -> Callable[[Rows, int, int], Rows]:
    """Noise with the mean and standard deviation of the rows, feature by feature."""

    def fill(seen: Rows, n: int, level: int) -> Rows:
        drawn = np.random.default_rng([seed, level]).standard_normal((n, seen.shape[-1]), dtype=np.float32)
        seen = seen.float()
        return seen.mean(0) + torch.from_numpy(drawn).to(seen.device) * seen.std(0, correction=0)

    return fill


def change_features(
    inputs: VLMInputs, changes: Sequence[FeatureChange | None], *, image: int | None = None
) -> VLMInputs:
    """Encoded inputs with the changes made, one for each row, in one image of each. See `counterfactual`."""
    if inputs.features is None:
        raise InputError("Image features cannot be changed before the images are encoded; call model.encode(inputs).")
    parts = list(inputs.features.images)
    for index, tokens in enumerate(inputs.image_tokens):
        change = changes[tokens.row]
        if change is not None and image in (None, tokens.image):
            parts[index] = _changed(parts[index], change, inputs, tokens)
    return replace(inputs, features=replace(inputs.features, images=tuple(parts)))


def _changed(part: EncodedImage, change: FeatureChange, inputs: VLMInputs, tokens: ImageTokens) -> EncodedImage:
    """One image's features with a region's rows changed, marked so that `model.encode(reuse=)` does not take them."""
    chosen = _chosen(inputs, tokens, change.region)
    levels = levels_of(part, tokens)
    others = _others(inputs, tokens, change.over, levels)
    made = [
        _filled(rows, chosen, change.fill(seen, int(chosen.sum()), level))
        for level, (rows, seen) in enumerate(zip(levels, others, strict=True))
    ]
    new = {"tokens": made[0].reshape(part["tokens"].shape), "edited": True}
    return {**part, **new, **({"levels": made[1:]} if "levels" in part else {})}


def _filled(rows: Rows, chosen: Bool[Tensor, " token"], new: Tensor) -> Rows:
    rows = rows.clone()
    rows[chosen.to(rows.device)] = new.to(rows)
    return rows


def levels_of(part: EncodedImage, tokens: ImageTokens) -> list[Rows]:
    """The features of one image, a row for each of its tokens: at the embedding, then DeepStack's."""
    levels = [rows.flatten(0, -2) for rows in (part["tokens"], *part.get("levels", ()))]
    strange = set(part) - KNOWN
    if strange or any(len(rows) != len(tokens) for rows in levels):
        raise InputError(
            f"The encoded image {tokens.image} of row {tokens.row} holds {[len(rows) for rows in levels]} rows of "
            f"features and {sorted(strange) or 'nothing else'}, and the image has {len(tokens)} tokens; expected a row "
            "for each token and nothing else. Change the picture in pixels instead."
        )
    return levels


def _chosen(inputs: VLMInputs, tokens: ImageTokens, region: Any) -> Bool[Tensor, " token"]:
    """Which of an image's tokens lie in a region of it."""
    positions = inputs.positions_of(region, row=tokens.row, image=tokens.image)
    return torch.isin(tokens.positions.cpu(), torch.tensor(positions))


def _covering(tokens: ImageTokens) -> Bool[Tensor, " token"]:
    """Which tokens cover a part of the picture; separators and padding do not."""
    return ~tokens.boxes[:, 0].isnan().cpu()


def _others(inputs: VLMInputs, tokens: ImageTokens, over: Any, levels: Sequence[Rows]) -> list[Rows]:
    """For each level the rows that a change learns from."""
    if not isinstance(over, VLMInputs):
        taken = _covering(tokens) if over is None else _chosen(inputs, tokens, over)
        return [rows[taken.to(rows.device)] for rows in levels]
    if over.features is None:
        raise InputError("over= is inputs whose images are not encoded; call model.encode(over) first.")
    images = zip(over.features.images, over.image_tokens, strict=True)
    found = [[rows[_covering(tokens).to(rows.device)] for rows in levels_of(part, tokens)] for part, tokens in images]
    joined = [torch.cat(level) for level in zip(*found, strict=True)]
    if [rows.shape[-1] for rows in joined] != [rows.shape[-1] for rows in levels]:
        raise InputError("over= was encoded by another model: its features differ in number or width.")
    return joined
