"""The model families that gaze_lens knows: one row each, with the functions for its image layout.

from gaze_lens.families import FAMILIES, family_of
family_of(model.config).name
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

from gaze_lens.deprecation import renamed_fields
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
    text_only,
    tile_canvas,
    tile_grids,
    tiles,
    view_grids,
    visual_indicators,
)
from gaze_lens.families.adapters import register_adapters
from gaze_lens.families.family_suggestion import UNPLACED, nearest_architecture, sees_pictures
from gaze_lens.families.features import EncodedImage, Features, encode_each, image_by_image
from gaze_lens.families.geometry import FramesMap, Processed, TokenMap

__all__ = ["FAMILIES", "Family", "Features", "FramesMap", "Processed", "TokenMap", "family_of", "register"]

PER_IMAGE = "image_"  # names of tensors with a value for each image begin so; of those with one for each video:
PER_VIDEO = ("video_", "second_per_grid_ts")
INSTEAD_OF_PIXELS = ("inputs_embeds", "encoder_outputs", "mm_encoder_outputs", "cross_attention_states")


@renamed_fields(
    arrange="to_forward_kwargs", crossed="cross_attention", tower="vision_model_type", plain="no_chat_template",
    whole="prefix_sharing_blocker",
)  # fmt: skip
@dataclass(frozen=True)
class Family:
    """What gaze_lens must know about a family of models; docs/new_family.md describes one step by step.

    architectures: the Hugging Face class names.
    token_maps: the processor's output for a batch -> one `TokenMap` per image, row by row.
    encode: (model, tensors, maps, selected) -> the vision tower's output, one `EncodedImage` for each image index in
        `selected`. maps: one `TokenMap` per image of the batch.
    to_forward_kwargs: encoded images, in the order of the inputs -> the keyword arguments of the model's forward that
        replace the pixels.
    pixel_names: the tensors that are dropped from the inputs once their images are encoded. What stays has a value for
        each row; or a name that begins with "image_" and a value for each image, or with "video_" for each video.
    deepstack: image features are added again between the first blocks.
    cross_attention: the model reads the image by cross-attention. Token maps then describe the keys of the
        cross-attention layers, an image has a single placeholder in the text, and `to_forward_kwargs` also gets
        `counts=`, the number of images in each row.
    vision_model_type: the `model_type` of the vision config, where families share a class; None for any. A row with a
        type must come before the row for any.
    upcast: the model's own eager attention computes the softmax in float32, whatever the precision of the weights.
    no_chat_template: a prompt is the images and then a text, without a chat. The processor takes an answer as its
        `suffix`, appends it to the prompt and closes it with an end token.
    text_only: the model sees no pictures; `prepare(None, prompt)` makes its inputs.
    prefix_sharing_blocker: why several questions about a picture cannot share one run of the prompt's beginning; empty
        where they can. Sharing is exact if no token reads a later one, in Hugging Face's cached forward too.
    video_maps: the processor's output -> for each video, one `FramesMap` for each group of frames that share tokens;
        None where the model takes no video, or its tokens' places are not known.
    """

    name: str
    architectures: tuple[str, ...]
    token_maps: Callable[[Processed], list[TokenMap]]
    encode: Callable[[Any, Mapping[str, Any], Sequence[TokenMap], Sequence[int]], list[EncodedImage]]
    to_forward_kwargs: Callable[[Sequence[EncodedImage]], dict[str, Any]]
    pixel_names: tuple[str, ...] = ("pixel_values",)
    deepstack: bool = False
    cross_attention: bool = False
    vision_model_type: str | None = None
    no_chat_template: bool = False
    text_only: bool = False
    upcast: bool = True
    prefix_sharing_blocker: str = "it is not known of this family whether a token may read later ones"
    video_maps: Callable[[Processed], list[list[FramesMap]]] | None = None

    def brings_images(self, arguments: Mapping[str, Any]) -> bool:
        """Whether the arguments of a forward hold images: their pixels, or what stands in their place."""
        return not {*self.pixel_names, *INSTEAD_OF_PIXELS}.isdisjoint(arguments)

    def beside_images(self, tensors: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
        """The tensors that stay once the images of `n_rows` rows are encoded; ModelError for one by image or view.

        Rows are copied and chosen later, and with them the tensors that have a value for each row.
        """
        staying = {name: tensor for name, tensor in tensors.items() if name not in self.pixel_names}
        for name, tensor in staying.items():
            if not name.startswith((PER_IMAGE, *PER_VIDEO)) and len(tensor) != n_rows:
                raise ModelError(
                    f"{name} has {len(tensor)} rows for {n_rows} prompts. In the description of {self.name}, put it "
                    "into `pixel_names`, and return it from `to_forward_kwargs` where the model's forward needs it."
                )
        return staying


GRID = (grid.token_maps, grid.encode, grid.to_forward_kwargs)
PIXELS_AND_VIDEOS = ("pixel_values", "pixel_values_videos")
WITH_VIDEO: dict[str, Any] = {"video_maps": grid.video_maps, "pixel_names": PIXELS_AND_VIDEOS}
FIXED = (single_view.fixed_maps, single_view.fixed_encode, single_view.fixed_to_forward_kwargs)
SHAPED = (single_view.shaped_maps, single_view.shaped_encode, image_by_image)
VIEWS = (tiles.encode, tiles.to_forward_kwargs)
UNPROJECTED = (
    partial(tiles.encode, output="last_hidden_state"),
    partial(tiles.to_forward_kwargs, output="last_hidden_state"),
)
NAMED_TILES = (tile_grids.named_token_maps, tiles.encode_padded, image_by_image)
PIXELS_AND_MASK = ("pixel_values", "pixel_attention_mask")
CLOSEST = partial(tile_grids.token_maps, choose=tile_grids.closest_aspect)
LEAST_UPSCALING = partial(tile_grids.token_maps, choose=tile_grids.least_upscaling)
ONE_BY_ONE = (encode_each, image_by_image)
BY_SAMPLE = (anyres.encode_with_videos, anyres.to_forward_kwargs)
POOLED = (pooled_crops.encode, image_by_image)
CROSS_ATTENTION = (cross_attention.token_maps, cross_attention.encode, cross_attention.to_forward_kwargs)
MINICPM = (view_grids.minicpm_maps, view_grids.minicpm_encode, view_grids.minicpm_to_forward_kwargs)
causal = partial(Family, prefix_sharing_blocker="")
READS_QUESTION = "image tokens read the question after them"
NOT_IN_PROMPT = "the image is reached by cross-attention and is no part of the prompt"
FAMILIES: tuple[Family, ...] = (
    # grids that the processor reports
    causal("Qwen2-VL", ("Qwen2VLForConditionalGeneration",), *GRID, **WITH_VIDEO),
    causal("Qwen2.5-VL", ("Qwen2_5_VLForConditionalGeneration",), *GRID, **WITH_VIDEO),
    causal("Qwen3-VL", ("Qwen3VLForConditionalGeneration",), *GRID, **WITH_VIDEO, deepstack=True),
    causal("Qwen3-VL-MoE", ("Qwen3VLMoeForConditionalGeneration",), *GRID, **WITH_VIDEO, deepstack=True),
    causal("Qwen3.5", ("Qwen3_5ForConditionalGeneration",), *GRID, **WITH_VIDEO),
    causal("Qwen3.5-MoE", ("Qwen3_5MoeForConditionalGeneration",), *GRID, **WITH_VIDEO),
    causal("GLM-4V", ("Glm4vForConditionalGeneration",), *GRID, **WITH_VIDEO),
    causal("GLM-4.6V", ("Glm46VForConditionalGeneration",), *GRID, **WITH_VIDEO),
    causal("GLM-4V-MoE", ("Glm4vMoeForConditionalGeneration",), *GRID, **WITH_VIDEO),
    causal("Qwen2.5-Omni", ("Qwen2_5OmniThinkerForConditionalGeneration",), *GRID),
    causal("Qwen3-Omni", ("Qwen3OmniMoeThinkerForConditionalGeneration",), *GRID, deepstack=True),
    causal("GLM-OCR", ("GlmOcrForConditionalGeneration",), *GRID),
    causal("PaddleOCR-VL", ("PaddleOCRVLForConditionalGeneration",), *GRID),
    causal("VideoLLaMA 3", ("VideoLlama3ForConditionalGeneration",), *GRID),
    # single views
    Family(
        "PaliGemma", ("PaliGemmaForConditionalGeneration",), *FIXED, no_chat_template=True,
        prefix_sharing_blocker=READS_QUESTION,
    ),
    causal("Gemma 3n", ("Gemma3nForConditionalGeneration",), single_view.counted_maps, *FIXED[1:]),
    causal("Gemma 4", ("Gemma4ForConditionalGeneration",), *SHAPED, pixel_names=("pixel_values", "image_position_ids")),
    # a frame; rows with breaks; tiles that are put together again
    causal(
        "Pixtral", ("LlavaForConditionalGeneration",), row_breaks.token_maps, *ONE_BY_ONE, vision_model_type="pixtral"
    ),
    causal("LLaVA", ("LlavaForConditionalGeneration",), single_frame.token_maps, *ONE_BY_ONE),
    causal("VipLlava", ("VipLlavaForConditionalGeneration",), single_frame.token_maps, *FIXED[1:]),
    causal("DeepSeek-VL", ("DeepseekVLForConditionalGeneration",), single_frame.resized_then_padded_maps, *FIXED[1:]),
    causal("Mistral3", ("Mistral3ForConditionalGeneration",), row_breaks.token_maps_of_several, *ONE_BY_ONE),
    causal("LightOnOCR", ("LightOnOcrForConditionalGeneration",), row_breaks.token_maps, *ONE_BY_ONE),
    causal("LLaVA-NeXT", ("LlavaNextForConditionalGeneration",), anyres.token_maps, *ONE_BY_ONE),
    causal(
        "LLaVA-OneVision", ("LlavaOnevisionForConditionalGeneration",), anyres.token_maps_by_sample, *BY_SAMPLE,
        pixel_names=PIXELS_AND_VIDEOS, video_maps=anyres.frame_maps,
    ),
    # tiles
    causal(
        "InternVL", ("InternVLForConditionalGeneration",), partial(CLOSEST, merge="downsample_ratio"), *VIEWS,
        video_maps=partial(tiles.frame_maps, merge="downsample_ratio"),
    ),
    causal("Qianfan-OCR", ("QianfanOCRForConditionalGeneration",), partial(CLOSEST, merge="downsample_ratio"), *VIEWS),
    causal("AyaVision", ("AyaVisionForConditionalGeneration",), partial(CLOSEST, merge="downsample_factor"), *VIEWS),
    causal(
        "Cohere2Vision", ("Cohere2VisionForConditionalGeneration",),
        partial(LEAST_UPSCALING, merge="downsample_factor"), *VIEWS,
    ),
    causal("Idefics3", ("Idefics3ForConditionalGeneration",), *NAMED_TILES, pixel_names=PIXELS_AND_MASK),
    causal("SmolVLM", ("SmolVLMForConditionalGeneration",), *NAMED_TILES, pixel_names=PIXELS_AND_MASK),
    causal(
        "Ovis2", ("Ovis2ForConditionalGeneration",), visual_indicators.token_maps, visual_indicators.encode,
        visual_indicators.to_forward_kwargs,
    ),
    causal(
        "LFM2-VL", ("Lfm2VlForConditionalGeneration",), view_grids.lfm2_maps, view_grids.lfm2_encode, image_by_image,
        pixel_names=(*PIXELS_AND_MASK, "spatial_shapes"),
    ),
    causal("MiniCPM-V 4.6", ("MiniCPMV4_6ForConditionalGeneration",), *MINICPM, pixel_names=view_grids.MINICPM_PIXELS),
    causal("MiniCPM-V 4.7", ("MiniCPMV4_7ForConditionalGeneration",), *MINICPM, pixel_names=view_grids.MINICPM_PIXELS),
    causal("Gemma 3", ("Gemma3ForConditionalGeneration",), pan_and_scan.token_maps, *VIEWS),
    causal("Llama 4", ("Llama4ForConditionalGeneration",), tile_canvas.token_maps, *UNPROJECTED, upcast=False),
    # others
    causal(
        "Molmo2", ("Molmo2ForConditionalGeneration",), pooled_crops.token_maps, *POOLED, pixel_names=pooled_crops.PIXELS
    ),
    Family(
        "Mllama", ("MllamaForConditionalGeneration",), *CROSS_ATTENTION, pixel_names=cross_attention.PIXELS,
        cross_attention=True, prefix_sharing_blocker=NOT_IN_PROMPT,
    ),
)  # fmt: skip
TEXT_ONLY = causal(
    "Language model", text_only.ARCHITECTURES, text_only.token_maps, text_only.encode, text_only.to_forward_kwargs,
    pixel_names=(), text_only=True,
)  # fmt: skip

REGISTERED: list[Family] = []  # the families that users registered


def register(family: Family, *, adapter: type[ArchitectureAdapter] | None = None) -> None:
    """Add a family: `register(Family("Star-VL", ("StarVLForConditionalGeneration",), token_maps, ...))`.

    adapter: the TransformerLens adapter for its classes, a `PathAdapter` for example; None where TransformerLens has
        one. A family replaces an earlier registered one of the same name.
    Raises ModelError for the name of a built-in family. docs/new_family.md has a complete example.
    """
    if family.name in {built_in.name for built_in in FAMILIES}:
        raise ModelError(f"gaze_lens has a family {family.name!r} of its own; register this one under another name.")
    REGISTERED[:] = [*(other for other in REGISTERED if other.name != family.name), family]
    register_adapters()
    if adapter is not None:
        for architecture in family.architectures:
            ArchitectureAdapterFactory.register_adapter(architecture, adapter)


def family_of(config: Any) -> Family:
    """The family of a model's config; ModelError for a text-only model or a family that is not known."""
    if hasattr(config, "thinker_config"):
        raise ModelError(
            f"{type(config).__name__} is the config of an Omni model, whose other parts speak; wrap its thinker, "
            "model.thinker. HookedVLM.from_pretrained takes the thinker out of a checkpoint itself."
        )
    kind = "ForConditionalGeneration" if sees_pictures(config) else "ForCausalLM"
    by_config = type(config).__name__.removesuffix("TextConfig").removesuffix("Config") + kind  # of one built in memory
    architecture = (getattr(config, "architectures", None) or [by_config])[0]
    families = (*REGISTERED, *FAMILIES)
    for family in (*families, TEXT_ONLY):
        if architecture in family.architectures and family.vision_model_type in (None, _vision_model_type(config)):
            return family
    raise ModelError(_unsupported(architecture, config, families))


def _unsupported(architecture: str, config: Any, families: Sequence[Family]) -> str:
    """Why a model of this class cannot be taken, and what can."""
    supported = f"gaze_lens works with vision-language models of: {', '.join(family.name for family in families)}."
    if not sees_pictures(config):
        return (
            f"{architecture} is a language model (its config has no vision), and an unknown one; known are "
            f"{', '.join(TEXT_ONLY.architectures)}. {supported}"
        )
    if architecture in UNPLACED:
        return (
            f"{architecture} cannot be described: its image tokens come out of {UNPLACED[architecture]}, where each of "
            "them reads the whole picture or the whole of a tile. None has a place in the picture, so that regions "
            f"would mean nothing. Take a model whose image tokens are patches. {supported}"
        )
    by_class = {name: family for family in families for name in family.architectures}
    nearest = nearest_architecture(architecture, config, list(by_class))
    similar = "none that is known is much like it"
    if nearest is not None:
        similar = (
            f"the nearest that is known is {by_class[nearest].name} ({nearest}), by name and config, which do not say "
            "how its pictures become tokens"
        )
    return (
        f"{architecture} is an unknown family; {similar}. A new family is described in some 20 lines and registered "
        f"with gaze_lens.families.register: docs/new_family.md shows how. {supported}"
    )


def _vision_model_type(config: Any) -> str | None:
    """The `model_type` of the vision tower; None for a text-only model."""
    return getattr(getattr(config, "vision_config", None), "model_type", None)
