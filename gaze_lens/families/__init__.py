"""The model families that gaze_lens knows: a row each, and functions by shape of image layout.

from gaze_lens.families import FAMILIES, family_of
family_of(model.config).name
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaze_lens.errors import ModelError
from gaze_lens.families import grid
from gaze_lens.families.features import Features, Part
from gaze_lens.families.geometry import Processed, TokenMap

__all__ = ["FAMILIES", "Family", "Features", "Processed", "TokenMap", "family_of"]


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
    """

    name: str
    architectures: tuple[str, ...]
    token_maps: Callable[[Processed], list[TokenMap]]
    encode: Callable[[Any, Mapping[str, Any], Sequence[TokenMap], Sequence[int]], list[Part]]
    arrange: Callable[[Sequence[Part]], dict[str, Any]]
    pixel_names: tuple[str, ...] = ("pixel_values",)
    deepstack: bool = False


GRID = (grid.token_maps, grid.encode, grid.arrange)
FAMILIES: tuple[Family, ...] = (
    # grids that the processor reports
    Family("Qwen2.5-VL", ("Qwen2_5_VLForConditionalGeneration",), *GRID),
    Family("Qwen3-VL", ("Qwen3VLForConditionalGeneration",), *GRID, deepstack=True),
    Family("Qwen3-VL-MoE", ("Qwen3VLMoeForConditionalGeneration",), *GRID, deepstack=True),
    # single views
    # rows with breaks, and grids of tiles put together again
    # tiles
    # others
)


def family_of(config: Any) -> Family:
    """The family of a model's config; ModelError for a text-only model or a family that is not known."""
    named = type(config).__name__.removesuffix("Config") + "ForConditionalGeneration"  # as for a model built in memory
    architecture = (getattr(config, "architectures", None) or [named])[0]
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    kind = "an unknown family" if hasattr(config, "vision_config") else "a text-only model (its config has no vision)"
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise ModelError(f"{architecture} is {kind}. gaze_lens works with vision-language models of: {known}.")
