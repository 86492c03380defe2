"""Which known family an unknown model is most like, for the error that refuses it."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

PARTS = ("text_config", "vision_config")


def nearest_architecture(architecture: str, config: Any, known: Sequence[str]) -> str:
    """Of the known architectures, the one whose name, and whose config's fields, are most like the given ones."""
    types = {name: kind for kind, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()}
    fields = _fields(config)

    def likeness(name: str) -> float:
        likeness = SequenceMatcher(None, architecture.lower(), name.lower()).ratio()
        if name not in types:  # a registered family
            return likeness
        others = _fields(AutoConfig.for_model(types[name]))
        return likeness + len(fields & others) / len(fields | others)

    return max(known, key=likeness)


def _fields(config: Any) -> set[str]:
    """What a config has beyond what every config has, its parts' fields under their names."""
    common, fields = set(PretrainedConfig().to_dict()), set()
    for name, value in config.to_dict().items():
        fields |= {name} - common
        if name in PARTS and isinstance(value, dict):
            fields |= {f"{name}.{field}" for field in set(value) - common}
    return fields
