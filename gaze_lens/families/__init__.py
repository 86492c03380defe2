"""The model families that gaze_lens knows: a row each, and functions by shape of image layout.

from gaze_lens.families import FAMILIES, family_of
family_of(model.config).name
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

from gaze_lens.errors import ModelError
from gaze_lens.families import (
    anyres,
    cross_attention,
    grid,
    pan_and_scan,
    pooled_crops,
    row_breaks,
    single_frame,
    single_view,
    tile_canvas,
    tile_grids,
    tiles,
)
from gaze_lens.families.adapters import register_adapters
from gaze_lens.families.features import Features, Part, encode_each, image_by_image
from gaze_lens.families.geometry import Processed, TokenMap
from gaze_lens.families.nearest import nearest_architecture

__all__ = ["FAMILIES", "Family", "Features", "Processed", "TokenMap", "family_of", "register"]


@dataclass(frozen=True)
class Family:
    """What gaze_lens must know about a family of models.

    architectures: the Hugging Face class names.
    token_maps: what a processor made of a batch -> one `TokenMap` per image, row by row.
    encode: (model, tensors, maps, kept) -> the vision tower's output on the images `kept`, one `Part` for each; maps:
        one `TokenMap` per image of the batch.
    arrange: such parts, in the order of the inputs' images -> the arguments of the model's forward that stand for the
        pixels.
    pixel_names: the tensors that encoded inputs go without.
    deepstack: image features are added again between the first blocks.
    cross_attention: the image is reached by cross-attention: maps are of the keys of the cross layers, an image has a
        single placeholder in the text, and `arrange` is also told how many images each row has, `counts=`.
    tower: the `model_type` of the vision config, where it tells families of one class apart; None for any. Such a row
        comes before the class's row for any.
    upcast: the model's own eager attention takes the softmax in float32, whatever the precision of the weights.
    plain: the models know no chat. Their prompt is the images and a text, and the processor puts an answer behind it,
        as its `suffix`, closed by an end token.
    whole: why a prompt's beginning cannot be run once for several questions; empty where that is exact, which needs
        that no token reads a later one, in Hugging Face's cached forward too.
    """

    name: str
    architectures: tuple[str, ...]
    token_maps: Callable[[Processed], list[TokenMap]]
    encode: Callable[[Any, Mapping[str, Any], Sequence[TokenMap], Sequence[int]], list[Part]]
    arrange: Callable[[Sequence[Part]], dict[str, Any]]
    pixel_names: tuple[str, ...] = ("pixel_values",)
    deepstack: bool = False
    cross_attention: bool = False
    tower: str | None = None
    plain: bool = False
    upcast: bool = True
    whole: str = "it is not known of this family whether a token may read later ones"


GRID = (grid.token_maps, grid.encode, grid.arrange)
FIXED = (single_view.fixed_maps, single_view.fixed_encode, single_view.fixed_arrange)
SHAPED = (single_view.shaped_maps, single_view.shaped_encode, image_by_image)
VIEWS = (tiles.encode, tiles.arrange)
UNPROJECTED = (
    partial(tiles.encode, output="last_hidden_state"),
    partial(tiles.arrange, output="last_hidden_state"),
)
NAMED = (tile_grids.named_token_maps, tiles.encode_padded, image_by_image)
MASKED = ("pixel_values", "pixel_attention_mask")
CLOSEST = partial(tile_grids.token_maps, choose=tile_grids.closest_aspect)
ROOMY = partial(tile_grids.token_maps, choose=tile_grids.least_upscaling)
EACH = (encode_each, image_by_image)
SAMPLES = (anyres.encode_by_sample, image_by_image)
POOLED = (pooled_crops.encode, image_by_image)
CROSSED = (cross_attention.token_maps, cross_attention.encode, cross_attention.arrange)
CAUSAL = partial(Family, whole="")
PREFIXED = "image tokens read the question behind them"
CROSSING = {"cross_attention": True, "whole": "the image is reached by cross-attention and is no part of the prompt"}
FAMILIES: tuple[Family, ...] = (
    # grids that the processor reports
    CAUSAL("Qwen2-VL", ("Qwen2VLForConditionalGeneration",), *GRID),
    CAUSAL("Qwen2.5-VL", ("Qwen2_5_VLForConditionalGeneration",), *GRID),
    CAUSAL("Qwen3-VL", ("Qwen3VLForConditionalGeneration",), *GRID, deepstack=True),
    CAUSAL("Qwen3-VL-MoE", ("Qwen3VLMoeForConditionalGeneration",), *GRID, deepstack=True),
    CAUSAL("Qwen3.5", ("Qwen3_5ForConditionalGeneration",), *GRID),
    CAUSAL("Qwen3.5-MoE", ("Qwen3_5MoeForConditionalGeneration",), *GRID),
    CAUSAL("GLM-4V", ("Glm4vForConditionalGeneration",), *GRID),
    CAUSAL("GLM-4.6V", ("Glm46VForConditionalGeneration",), *GRID),
    CAUSAL("GLM-4V-MoE", ("Glm4vMoeForConditionalGeneration",), *GRID),
    # single views
    Family("PaliGemma", ("PaliGemmaForConditionalGeneration",), *FIXED, plain=True, whole=PREFIXED),
    CAUSAL("Gemma 4", ("Gemma4ForConditionalGeneration",), *SHAPED, pixel_names=("pixel_values", "image_position_ids")),
    # a frame; rows with breaks; grids of tiles put together again
    CAUSAL("Pixtral", ("LlavaForConditionalGeneration",), row_breaks.token_maps, *EACH, tower="pixtral"),
    CAUSAL("LLaVA", ("LlavaForConditionalGeneration",), single_frame.token_maps, *EACH),
    CAUSAL("Mistral3", ("Mistral3ForConditionalGeneration",), row_breaks.token_maps, *EACH),
    CAUSAL("LLaVA-NeXT", ("LlavaNextForConditionalGeneration",), anyres.token_maps, *EACH),
    CAUSAL("LLaVA-OneVision", ("LlavaOnevisionForConditionalGeneration",), anyres.token_maps_by_sample, *SAMPLES),
    # tiles
    CAUSAL("InternVL", ("InternVLForConditionalGeneration",), partial(CLOSEST, merge="downsample_ratio"), *VIEWS),
    CAUSAL("AyaVision", ("AyaVisionForConditionalGeneration",), partial(CLOSEST, merge="downsample_factor"), *VIEWS),
    CAUSAL(
        "Cohere2Vision", ("Cohere2VisionForConditionalGeneration",), partial(ROOMY, merge="downsample_factor"), *VIEWS
    ),
    CAUSAL("Idefics3", ("Idefics3ForConditionalGeneration",), *NAMED, pixel_names=MASKED),
    CAUSAL("SmolVLM", ("SmolVLMForConditionalGeneration",), *NAMED, pixel_names=MASKED),
    CAUSAL("Gemma 3", ("Gemma3ForConditionalGeneration",), pan_and_scan.token_maps, *VIEWS),
    CAUSAL("Llama 4", ("Llama4ForConditionalGeneration",), tile_canvas.token_maps, *UNPROJECTED, upcast=False),
    # others
    CAUSAL(
        "Molmo2", ("Molmo2ForConditionalGeneration",), pooled_crops.token_maps, *POOLED, pixel_names=pooled_crops.PIXELS
    ),
    Family("Mllama", ("MllamaForConditionalGeneration",), *CROSSED, pixel_names=cross_attention.PIXELS, **CROSSING),
)


REGISTERED: list[Family] = []  # by users, with `register`


def register(family: Family, *, adapter: type | None = None) -> None:
    """Make a family known: `register(Family("Star-VL", ("StarVLForConditionalGeneration",), token_maps, ...))`.

    adapter: the TransformerLens adapter of its classes, a `PathAdapter` for example; none where TransformerLens has
        one. A family of a name that was registered before takes its place; ModelError for the name of a built-in one.
    docs/new_family.md shows it all.
    """
    if family.name in {known.name for known in FAMILIES}:
        raise ModelError(f"gaze_lens has a family {family.name!r} of its own; register this one under another name.")
    REGISTERED[:] = [*(known for known in REGISTERED if known.name != family.name), family]
    register_adapters()
    for architecture in family.architectures if adapter else ():
        ArchitectureAdapterFactory.register_adapter(architecture, adapter)


def family_of(config: Any) -> Family:
    """The family of a model's config; ModelError for a text-only model or a family that is not known."""
    named = type(config).__name__.removesuffix("Config") + "ForConditionalGeneration"  # as for a model built in memory
    architecture = (getattr(config, "architectures", None) or [named])[0]
    families = (*REGISTERED, *FAMILIES)
    for family in families:
        if architecture in family.architectures and family.tower in (None, _tower(config)):
            return family
    works = f"gaze_lens works with vision-language models of: {', '.join(family.name for family in families)}."
    if not hasattr(config, "vision_config"):
        raise ModelError(f"{architecture} is a text-only model (its config has no vision). {works}")
    by_class = {name: family for family in families for name in family.architectures}
    near = nearest_architecture(architecture, config, list(by_class))
    raise ModelError(
        f"{architecture} is an unknown family; the nearest that is known is {by_class[near].name} ({near}). A new "
        f"family is described in some 20 lines and registered with gaze_lens.families.register: docs/new_family.md "
        f"shows how. {works}"
    )


def _tower(config: Any) -> str | None:
    """The `model_type` of the vision tower; None for a text-only model."""
    return getattr(getattr(config, "vision_config", None), "model_type", None)
