"""Language models that see no pictures: Llama, Qwen, Gemma, Mistral, OLMo, Granite, SmolLM3, GPT-OSS, Phi-3."""

from collections.abc import Mapping, Sequence
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import Processed, TokenMap

ARCHITECTURES = (
    "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "Gemma2ForCausalLM",
    "Gemma3ForCausalLM", "MistralForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "GraniteForCausalLM",
    "SmolLM3ForCausalLM", "GptOssForCausalLM", "Phi3ForCausalLM",
)  # fmt: skip


def refuse_pictures(number: int) -> None:
    """InputError where pictures were given."""
    if number:
        raise InputError(
            f"{number} pictures were given to a language model that sees none. Give None in their place: "
            "model.prepare(None, prompt)."
        )


def token_maps(_processed: Processed) -> list[TokenMap]:
    """None, as there are no images."""
    return []


def encode(
    _model: Any, _tensors: Mapping[str, Any], _maps: Sequence[TokenMap], _selected: Sequence[int]
) -> list[EncodedImage]:
    """No images, so nothing is encoded."""
    return []


def to_forward_kwargs(_images: Sequence[EncodedImage], **_options: Any) -> dict[str, Any]:
    """Nothing stands in for pixels."""
    return {}
