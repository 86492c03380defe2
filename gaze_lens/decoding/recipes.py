"""Recipes of the literature, in a few lines each: what they add, and the decoding that they contrast.

    model.generate(inputs, fwd_hooks=gl.recipes.pasta(heads, region))
    model.generate(inputs, decoding=gl.recipes.vcd(model, inputs))

Each is the formula of its paper; thresholds and heads are yours. `gl.score_heads(...).top(k, by="image")` finds Image
Heads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.decoding.contrast import ContrastDecoding, contrast_decoding
from gaze_lens.errors import InputError, ModelError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.attention_knockout import knockout
from gaze_lens.interventions.steering import Mode, steer
from gaze_lens.model.hooked_vlm import HookedVLM
from gaze_lens.regions.layout import Region

VCD_STEPS = 1000  # of the diffusion whose noise VCD adds


def pasta(heads: Any, region: Region, *, alpha: float = 0.01) -> list[tuple[str, Any]]:
    """Hooks: everything but the region loses attention by a factor of alpha, in chosen heads.

    log(alpha) is added to the scores of all other keys; adding -log(alpha) to the region's is the same after the
    softmax. Zhang et al. 2024, "Tell Your Model Where to Attend" (PASTA): alpha 0.01, a region of text.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha!r} was given; give a factor above 0 and below 1, such as 0.01.")
    return steer(heads, region, mode=Mode(target=-math.log(alpha), others=0.0))


def pai(
    model: HookedVLM, inputs: VLMInputs, without_image: VLMInputs, *, layers: tuple[int, int] | None = None,
    alpha: float = 0.5, gamma: float = 1.1, cut: float = 0.1,
) -> ContrastDecoding:  # fmt: skip
    """A decoding: the last query looks more at the image, and the model without the image is contrasted.

    without_image: the same questions without pictures, `model.prepare(None, questions)`.
    alpha * abs(score) is added to the scores of image keys in the layers a..b (both counted; all unless given), in the
    last query; then logits = gamma (log p_image - log p_noimage) + log p_noimage. Liu et al. 2024, "Paying More
    Attention to Image" (PAI): gamma 1.1, cut 0.1.
    """
    _check_image(model, inputs, "PAI")
    hooks = _image_scores(inputs, _layers(model, layers), None, alpha)
    return contrast_decoding(model, inputs, plus=hooks, minus_inputs=without_image, strength=gamma - 1, cut=cut)


def vcd(
    model: HookedVLM, inputs: VLMInputs, *, steps: int = 500, strength: float = 1.0, cut: float = 0.1, seed: int = 0
) -> ContrastDecoding:
    """A decoding: the picture is contrasted with a noisy one: (1 + strength) l - strength l_noised.

    steps: of 1,000 of the diffusion that makes the noise. Leng et al. 2024, "Mitigating Object Hallucinations ...
    through Visual Contrastive Decoding" (VCD): strength 1, cut 0.1.
    """
    _check_image(model, inputs, "VCD")
    return contrast_decoding(model, inputs, minus_inputs=noised(model, inputs, steps, seed), strength=strength, cut=cut)


def maskcd(
    model: HookedVLM, inputs: VLMInputs, image_heads: Any, *, strength: float = 1.0, cut: float = 0.1
) -> ContrastDecoding:
    """A decoding: the model is contrasted with itself where its Image Heads do not see the image (MaskCD, 2025)."""
    _check_image(model, inputs, "MaskCD")
    image = Positions(inputs.layout.images, cross_attention=inputs.layout.cross_attention)
    after = Positions.since(min(inputs.layout.after_images))
    minus = knockout(HeadSet.of(image_heads), after, image)
    return contrast_decoding(model, inputs, minus=minus, strength=strength, cut=cut)


def ascd(
    model: HookedVLM, inputs: VLMInputs, text_heads: Any, key_tokens: Region, *, alpha: float = 0.5, beta: float = 0.5,
    strength: float = 1.0, cut: float = 0.1,
) -> ContrastDecoding:  # fmt: skip
    """A decoding: text-heavy heads that look more at the image, against a model that looks less at its key tokens.

    plus: alpha * abs(score) is added to the image keys of the text-heavy heads. minus: beta * abs(score) is taken from
    the key image tokens, in all heads. Both in the last query. Wang et al. 2025, "ASCD".
    """
    _check_image(model, inputs, "ASCD")
    key_tokens.check(inputs.layout)
    key_tokens.refuse_weights("ASCD")
    by_layer = HeadSet.of(text_heads, model).by_layer()
    plus = _image_scores(inputs, by_layer, by_layer, alpha)
    minus = _image_scores(inputs, _layers(model, None), None, -beta, key_tokens.positions)
    return contrast_decoding(model, inputs, plus=plus, minus=minus, strength=strength, cut=cut)


def noised(model: HookedVLM, inputs: VLMInputs, steps: int, seed: int) -> VLMInputs:
    """The inputs with the noise of so many steps of a diffusion on their pixels, as VCD makes it."""
    if not isinstance(steps, int) or not 0 < steps < VCD_STEPS:
        raise InputError(f"steps={steps!r} was given; give a whole number from 1 to {VCD_STEPS - 1}.")
    names = [n for n in model.family.pixel_names if n in inputs.tensors and inputs.tensors[n].is_floating_point()]
    if not names:
        raise InputError("The inputs hold no pixels (model.encode has replaced them); give what model.prepare returns.")
    betas = torch.linspace(-6, 6, VCD_STEPS).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    kept = (1 - betas).cumprod(0)[steps].item()
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(inputs.tensors)
    for name in names:
        pixels = tensors[name]
        noise = torch.randn(pixels.shape, generator=generator).to(pixels)
        tensors[name] = math.sqrt(kept) * pixels + math.sqrt(1 - kept) * noise
    return replace(inputs, tensors=tensors)


def _image_scores(
    inputs: VLMInputs, layers: Any, heads: Any, factor: float, keys: Any = None
) -> list[tuple[str, Callable]]:
    """Hooks that add factor * abs(score) to the scores of image keys in the last query.

    layers: those that have them. heads: layer -> its heads; None for all. keys: for each row; None: the whole image.
    """
    positions = Positions(inputs.layout.images if keys is None else keys)
    return [
        (f"blocks.{layer}.attn.hook_attn_scores", partial(_add, positions, heads and list(heads[layer]), factor))
        for layer in layers
    ]


def _add(keys: Positions, heads: list[int] | None, factor: float, scores: Tensor, hook: Any) -> Tensor:
    """Add factor * abs(score) to the keys in the last query, in some heads. Keys that are masked stay masked."""
    here = QueryKeyPositions.of(scores, hook)
    columns = keys.mask(here.keys).to(scores.device)[here.rows_of(len(scores), len(keys.rows))]
    last = scores[:, :, -1:]
    seen = last > torch.finfo(scores.dtype).min / 2
    if heads is not None:
        selected = torch.tensor([head in heads for head in range(scores.shape[1])], device=scores.device)
        seen = seen & selected[None, :, None, None]
    changed = torch.where(seen & columns[:, None, None, :], last + factor * last.abs(), last)
    return torch.cat([scores[:, :, :-1], changed], dim=2)


def _layers(model: HookedVLM, layers: tuple[int, int] | None) -> Sequence[int]:
    """The layers from the first to the last that have softmax attention of their own to the sequence."""
    first, last = (0, model.cfg.n_layers - 1) if layers is None else layers
    if not 0 <= first <= last < model.cfg.n_layers:
        raise InputError(f"layers={layers!r} was given; give the first and the last, of 0 to {model.cfg.n_layers - 1}.")
    return [layer for layer in range(first, last + 1) if f"blocks.{layer}.attn.hook_attn_scores" in model.hook_dict]


def _check_image(model: HookedVLM, inputs: VLMInputs, recipe: str) -> None:
    """ModelError, InputError where a recipe has no image tokens to act on."""
    if model.family.text_only or inputs.layout.cross_attention:
        reads = "reads images by cross-attention" if inputs.layout.cross_attention else "sees no images"
        raise ModelError(f"{recipe} acts on image tokens among the text, and {model.family.name} {reads}.")
    if not all(inputs.layout.images):
        raise InputError(f"{recipe} contrasts images, and a prompt has none; prepare each row with a picture.")
