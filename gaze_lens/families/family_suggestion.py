"""The supported architecture that is most like an unknown one, for the error message about it."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

PARTS = ("text_config", "vision_config")


def nearest_architecture(architecture: str, config: Any, supported: Sequence[str]) -> str:
    """The one of `supported` whose name and config fields are most like those of an unknown architecture."""
    types = {name: kind for kind, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()}
    fields = _fields(config)

    def similarity(name: str) -> float:
        by_name = SequenceMatcher(None, architecture.lower(), name.lower()).ratio()
        if name not in types:  # a registered family
            return by_name
        others = _fields(AutoConfig.for_model(types[name]))
        return by_name + len(fields & others) / len(fields | others)

    return max(supported, key=similarity)


def _fields(config: Any) -> set[str]:
    """The fields that not every config has; those of a part as "vision_config.patch_size"."""
    common, fields = set(PretrainedConfig().to_dict()), set()
    for name, value in config.to_dict().items():
        fields |= {name} - common
        if name in PARTS and isinstance(value, dict):
            fields |= {f"{name}.{field}" for field in set(value) - common}
    return fields
