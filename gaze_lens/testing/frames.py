"""Tiny models of the families with one frame that are no LLaVA of Hugging Face's class: VipLlava, DeepSeek-VL."""

from typing import Any

from torch import nn
from transformers import (
    CLIPImageProcessor,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
    LlavaProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from gaze_lens.testing.parts import byte_tokenizer, chat_template, images_first, parts, text_config

LLAVA = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
DEEPSEEK = ("<|im_start|>", "<|im_end|>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>")
DEEPSEEK_BEGIN = "<｜begin▁of▁sentence｜>"
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}


def _vip_llava(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The middle of 70 x 70 pixels in patches of 14; a token has the features of three layers of the tower."""
    tokenizer = byte_tokenizer(LLAVA, begin="<s>", prefix_space=True)
    images = CLIPImageProcessor(size={"shortest_edge": 70}, crop_size={"height": 70, "width": 70})
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=14, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=chat_template("<image>\n", images_first),
    )  # fmt: skip
    config = VipLlavaConfig(
        text_config={"model_type": "llama", **text_config(tokenizer, changes)},
        vision_config={"model_type": "clip_vision_model", **TOWER, "image_size": 70, "patch_size": 14},
        image_token_index=processor.image_token_id, vision_feature_layer=[-2, -1, 1],
    )  # fmt: skip
    return VipLlavaForConditionalGeneration(config), processor


def _deepseek_vl(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """A square of 48 pixels in patches of 8, with the whole image in its middle."""
    named = {"image_token": "<image_placeholder>"}
    tokenizer = byte_tokenizer(
        DEEPSEEK, end="<｜end▁of▁sentence｜>", pad="<｜▁pad▁｜>", begin=DEEPSEEK_BEGIN, extra_special_tokens=named
    )
    vision = {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False, "image_size": 48, "patch_size": 8}
    config = DeepseekVLConfig(
        text_config={"model_type": "llama", **text_config(tokenizer, changes)}, vision_config=vision,
        image_token_id=tokenizer.image_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    processor = DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessor(size={"height": 48, "width": 48}, min_size=8), tokenizer=tokenizer,
        num_image_tokens=36, chat_template=chat_template("<image_placeholder>", parts, system="You see pictures."),
    )  # fmt: skip
    return DeepseekVLForConditionalGeneration(config), processor


BUILDERS = {"VipLlava": _vip_llava, "DeepSeek-VL": _deepseek_vl}
