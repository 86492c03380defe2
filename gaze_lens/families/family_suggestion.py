"""What the error for an unknown family says: whether the model sees pictures, whether its image tokens can have places,
and which supported one is most like it."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

PARTS = ("text_config", "vision_config")
ENDINGS = ("ForConditionalGeneration", "ForCausalLM", "ForVisionText2Text")
# Fields of configs that are about pictures; Chameleon, Emu3 and Fuyu have no vision tower and no vision_config, and
# checkpoints with their own code have other names (Bunny: mm_vision_tower; Ovis 1.5: visual_tokenizer_config).
OF_PICTURES = ("vision", "visual", "mm_", "vq_config", "image_", "patch_size")
# What makes a suggestion: nearly the same config, or a name of the same line and a config that has something in common.
SAME_CONFIG, SAME_LINE, IN_COMMON = 0.9, 0.65, 0.3

# Classes whose image tokens have no place, and what makes them. The last two come with their checkpoints' own code.
UNPLACED = {
    **dict.fromkeys(
        ("Blip2ForConditionalGeneration", "InstructBlipForConditionalGeneration",
         "InstructBlipVideoForConditionalGeneration"), "a Q-Former",
    ),
    "Idefics2ForConditionalGeneration": "a perceiver resampler",
    "AriaForConditionalGeneration": "a projector with learned queries",
    **dict.fromkeys(
        ("Kosmos2ForConditionalGeneration", "Kosmos2_5ForConditionalGeneration", "MiniCPMV", "MiniCPMO"), "a resampler"
    ),
}  # fmt: skip


def sees_pictures(config: Any) -> bool:
    """Whether a model's config has anything about pictures."""
    return any(name.startswith(OF_PICTURES) for name in config.to_dict())


def nearest_architecture(architecture: str, config: Any, supported: Sequence[str]) -> str | None:
    """The one of `supported` whose name and config fields are most like those of an unknown architecture.

    None where none is much like it: what all vision-language models have in common would only mislead.
    """
    types = {name: kind for kind, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()}
    fields, similarity = _fields(config), {}
    for name in supported:
        by_name = SequenceMatcher(None, _line(architecture), _line(name)).ratio()
        others = _fields(AutoConfig.for_model(types[name])) if name in types else set()  # none of a registered family
        by_fields = len(fields & others) / max(len(fields | others), 1)
        if by_fields >= SAME_CONFIG or (by_name >= SAME_LINE and by_fields >= IN_COMMON):
            similarity[name] = by_name + by_fields
    return max(similarity, key=lambda name: similarity[name], default=None)


def _line(architecture: str) -> str:
    """The part of a class's name that says which line of models it is of."""
    for ending in ENDINGS:
        architecture = architecture.removesuffix(ending)
    return architecture.lower()


def _fields(config: Any) -> set[str]:
    """The fields that not every config has; those of a part as "vision_config.patch_size"."""
    common, fields = set(PretrainedConfig().to_dict()), set()
    for name, value in config.to_dict().items():
        fields |= {name} - common
        if name in PARTS and isinstance(value, dict):
            fields |= {f"{name}.{field}" for field in set(value) - common}
    return fields
