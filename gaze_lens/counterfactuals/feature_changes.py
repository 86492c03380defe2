"""Changes of encoded inputs: the rows of a region in an image's features, DeepStack's included.

A row of the features belongs to a token of the image (to a key, where the model reads the image by cross-attention), in
the order of `inputs.image_tokens`, view after view. Features with other rows raise an InputError.
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
# Of an encoded image. `padding` belongs to no image; `indicators` are features of text tokens around it, the same for
# every image; `shapes` are numbers.
KEYS = {"tokens", "levels", "padding", "indicators", "shapes", "edited"}


@dataclass(frozen=True)
class FeatureChange:
    """A change of the image features of a region's tokens, made by `blank`, `noise` and `mean`.

    region: a name, or a shape in pixels. fill: (source rows, number of new rows, level) -> the new rows; level 0 is the
        features that enter at the embedding, further levels are DeepStack's.
    over: the source rows, by default all tokens of the image that cover part of it: a region's name or a shape, or
        other encoded inputs.
    """

    region: Any
    fill: Callable[[Rows, int, int], Tensor]
    over: Any = None


def zeros(source: Rows, _n: int, _level: int) -> Float[Tensor, " feature"]:
    """Zero."""
    return torch.zeros_like(source[0])


def averages(source: Rows, _n: int, _level: int) -> Float[Tensor, " feature"]:
    """The mean of the rows, in float32."""
    return source.float().mean(0)


def noises(seed: int) -> Callable[[Rows, int, int], Rows]:
    """Noise with the mean and standard deviation of the rows, feature by feature."""

    def fill(source: Rows, n: int, level: int) -> Rows:
        normal = np.random.default_rng([seed, level]).standard_normal((n, source.shape[-1]), dtype=np.float32)
        source = source.float()
        return source.mean(0) + torch.from_numpy(normal).to(source.device) * source.std(0, correction=0)

    return fill


def change_features(
    inputs: VLMInputs, changes: Sequence[FeatureChange | None], *, image: int | None = None
) -> VLMInputs:
    """Encoded inputs with a change for each row (None for no change), in one image of the row. See `counterfactual`."""
    if inputs.features is None:
        raise InputError("Image features cannot be changed before the images are encoded; call model.encode(inputs).")
    images = list(inputs.features.images)
    for index, tokens in enumerate(inputs.image_tokens):
        change = changes[tokens.row]
        if change is not None and image in (None, tokens.image):
            images[index] = _changed(images[index], change, inputs, tokens)
    return replace(inputs, features=replace(inputs.features, images=tuple(images)))


def _changed(encoded: EncodedImage, change: FeatureChange, inputs: VLMInputs, tokens: ImageTokens) -> EncodedImage:
    """One image's features with changed rows of a region, and a mark that excludes them from `model.encode(reuse=)`."""
    selected = _in_region(inputs, tokens, change.region)
    levels = levels_of(encoded, tokens)
    sources = _sources(inputs, tokens, change.over, levels)
    new = [
        _filled(rows, selected, change.fill(source, int(selected.sum()), level))
        for level, (rows, source) in enumerate(zip(levels, sources, strict=True))
    ]
    changed = {**encoded, "tokens": new[0].reshape(encoded["tokens"].shape), "edited": True}
    return {**changed, "levels": new[1:]} if "levels" in encoded else changed


def _filled(rows: Rows, selected: Bool[Tensor, " token"], new: Tensor) -> Rows:
    rows = rows.clone()
    rows[selected.to(rows.device)] = new.to(rows)
    return rows


def levels_of(encoded: EncodedImage, tokens: ImageTokens) -> list[Rows]:
    """The features of one image, a row for each of its tokens: at the embedding, then DeepStack's."""
    levels = [rows.flatten(0, -2) for rows in (encoded["tokens"], *encoded.get("levels", ()))]
    unknown = set(encoded) - KEYS
    if unknown or any(len(rows) != len(tokens) for rows in levels):
        raise InputError(
            f"The encoded image {tokens.image} of row {tokens.row} holds {[len(rows) for rows in levels]} rows of "
            f"features and {sorted(unknown) or 'nothing else'}, and the image has {len(tokens)} tokens; expected a row "
            "for each token and nothing else. Change the picture in pixels instead."
        )
    return levels


def _in_region(inputs: VLMInputs, tokens: ImageTokens, region: Any) -> Bool[Tensor, " token"]:
    """Which tokens of an image lie in a region."""
    positions = inputs.positions_of(region, row=tokens.row, image=tokens.image)
    return torch.isin(tokens.positions.cpu(), torch.tensor(positions))


def _covering(tokens: ImageTokens) -> Bool[Tensor, " token"]:
    """Which tokens cover a part of the picture; separators and padding do not."""
    return ~tokens.boxes[:, 0].isnan().cpu()


def _sources(inputs: VLMInputs, tokens: ImageTokens, over: Any, levels: Sequence[Rows]) -> list[Rows]:
    """The source rows of a change, for each level."""
    if not isinstance(over, VLMInputs):
        selected = _covering(tokens) if over is None else _in_region(inputs, tokens, over)
        return [rows[selected.to(rows.device)] for rows in levels]
    if over.features is None:
        raise InputError("over= is inputs whose images are not encoded; call model.encode(over) first.")
    images = zip(over.features.images, over.image_tokens, strict=True)
    by_image = [
        [rows[_covering(tokens).to(rows.device)] for rows in levels_of(encoded, tokens)] for encoded, tokens in images
    ]
    sources = [torch.cat(level) for level in zip(*by_image, strict=True)]
    if [rows.shape[-1] for rows in sources] != [rows.shape[-1] for rows in levels]:
        raise InputError("over= was encoded by another model: its features differ in number or width.")
    return sources
