"""Tiny LLaVA models: one frame (LLaVA 1.5), or the whole image and its tiles (LLaVA-NeXT, LLaVA-OneVision)."""

from typing import Any

from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from gaze_lens.testing.parts import byte_tokenizer, chat_template, images_first, images_then_videos, text_config

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
CHAT = chat_template("<image>\n", images_first)
LLAMA: dict[str, Any] = {"begin": "<s>", "prefix_space": True}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
FRAME = 70  # pixels of CLIP's image
TILE = 60  # pixels of SigLIP's image: four patches to a side, and a strip of four pixels outside all patches
PATCH = 14


def _clip(side: int = FRAME) -> CLIPVisionConfig:
    return CLIPVisionConfig(**TOWER, image_size=side, patch_size=PATCH)


def _framed(changes: dict[str, Any], image_processor: Any, strategy: str) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(SPECIAL, **LLAMA)
    processor = LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=PATCH, chat_template=CHAT,
        vision_feature_select_strategy=strategy, num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=_clip(), text_config=LlamaConfig(**text_config(tokenizer, changes)),
        image_token_index=processor.image_token_id, vision_feature_select_strategy=strategy,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def _llava(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    sizes = {"size": {"shortest_edge": FRAME}, "crop_size": {"height": FRAME, "width": FRAME}}
    return _framed(changes, CLIPImageProcessor(**sizes), "default")


def _llava_padded(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    sizes = {"size": {"shortest_edge": FRAME}, "crop_size": {"height": FRAME, "width": FRAME}}
    return _framed(changes, LlavaImageProcessor(**sizes, do_pad=True), "full")


def _llava_next(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(SPECIAL, **LLAMA)
    side = 4 * PATCH
    pinpoints = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side], [side, 3 * side]]
    image_processor = LlavaNextImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=PATCH, chat_template=CHAT,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=_clip(side), text_config=MistralConfig(**text_config(tokenizer, changes)),
        image_token_index=processor.image_token_id, image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(config), processor


def _llava_onevision(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(SPECIAL)
    pinpoints = [[rows * TILE, columns * TILE] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    image_processor = LlavaOnevisionImageProcessor(size={"height": TILE, "width": TILE}, image_grid_pinpoints=pinpoints)
    limit = "anyres_max_4"
    processor = LlavaOnevisionProcessor(
        image_processor=image_processor, tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": TILE, "width": TILE}),
        num_image_tokens=(TILE // PATCH) ** 2, vision_feature_select_strategy="full",
        chat_template=chat_template("<image>\n", images_then_videos),
        vision_aspect_ratio=limit,
    )  # fmt: skip
    vision = SiglipVisionConfig(**TOWER, image_size=TILE, patch_size=PATCH, vision_use_head=False)
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=Qwen2Config(**text_config(tokenizer, changes)),
        image_token_index=processor.image_token_id, video_token_index=processor.video_token_id,
        image_grid_pinpoints=pinpoints, vision_aspect_ratio=limit,
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config), processor


BUILDERS = {
    "LLaVA": _llava, "LLaVA padded": _llava_padded, "LLaVA-NeXT": _llava_next, "LLaVA-OneVision": _llava_onevision,
}  # fmt: skip
