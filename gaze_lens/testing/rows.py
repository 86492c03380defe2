"""Tiny models of the families with a Pixtral vision tower: Pixtral and Mistral3."""

from typing import Any

from torch import nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
)

from gaze_lens.testing.parts import BEGIN, byte_tokenizer, chat_template, text_config, text_of_assistant, text_of_system

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
PIXTRAL_CHAT = chat_template("[IMG]", text_of_system, begin=BEGIN)
MISTRAL3_CHAT = chat_template(
    "[IMG]", text_of_assistant, begin=BEGIN, system="Today is {{ strftime_now('%Y-%m-%d') }}."
)  # fmt: skip
LONGEST = 140  # pixels of an image's longest side; larger images are resized


def _processor(tokenizer: PreTrainedTokenizerFast, patch: int, merge: int, chat: str) -> PixtralProcessor:
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": LONGEST}, patch_size=patch), tokenizer=tokenizer,
        patch_size=patch, spatial_merge_size=merge, chat_template=chat,
    )  # fmt: skip


def _vision(patch: int) -> PixtralVisionConfig:
    return PixtralVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=patch,
        image_size=LONGEST + 2 * patch,
    )  # fmt: skip


def _pixtral(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(SPECIAL, begin="<s>")
    processor = _processor(tokenizer, patch=16, merge=1, chat=PIXTRAL_CHAT)
    config = LlavaConfig(
        vision_config=_vision(16), text_config=MistralConfig(**text_config(tokenizer, changes)),
        image_token_index=processor.image_token_id, vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def _mistral3(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(SPECIAL, begin="<s>")
    processor = _processor(tokenizer, patch=14, merge=2, chat=MISTRAL3_CHAT)
    config = Mistral3Config(
        vision_config=_vision(14), text_config=MistralConfig(**text_config(tokenizer, changes)),
        image_token_index=processor.image_token_id, spatial_merge_size=2,
    )  # fmt: skip
    return Mistral3ForConditionalGeneration(config), processor


BUILDERS = {"Pixtral": _pixtral, "Mistral3": _mistral3}
