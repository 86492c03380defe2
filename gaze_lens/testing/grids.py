"""Tiny models of the families whose processor reports a grid: the Qwen-VL line."""

from typing import Any

from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from gaze_lens.testing.parts import TEXT, byte_tokenizer, chat_template, text_config

QWEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
QWEN_CHAT = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    ids = dict(zip(QWEN, tokenizer.convert_tokens_to_ids(list(QWEN)), strict=True))
    return {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip


def _image_processor(patch: int) -> Qwen2VLImageProcessor:
    size = {"shortest_edge": 4 * patch * patch, "longest_edge": 64 * patch * patch}
    return Qwen2VLImageProcessor(patch_size=patch, merge_size=2, size=size)


def _qwen3(changes: dict[str, Any], moe: bool = False) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(QWEN)
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16,
        "out_hidden_size": TEXT["hidden_size"], "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
    config_class = Qwen3VLMoeConfig if moe else Qwen3VLConfig
    model_class = Qwen3VLMoeForConditionalGeneration if moe else Qwen3VLForConditionalGeneration
    text = text_config(tokenizer, changes, rope_parameters=M_ROPE, **(experts if moe else {}))
    config = config_class(text_config=text, vision_config=vision, **_special_ids(tokenizer))
    processor = Qwen3VLProcessor(
        image_processor=_image_processor(16), tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16), chat_template=QWEN_CHAT,
    )  # fmt: skip
    return model_class(config), processor


def _qwen3_moe(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    return _qwen3(changes, moe=True)


def _qwen2_5(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(QWEN)
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "window_size": 56,
        "out_hidden_size": TEXT["hidden_size"], "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = text_config(tokenizer, changes, rope_parameters=M_ROPE)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_special_ids(tokenizer))
    processor = Qwen2_5_VLProcessor(
        image_processor=_image_processor(14), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=14), chat_template=QWEN_CHAT,
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config), processor


BUILDERS = {"Qwen2.5-VL": _qwen2_5, "Qwen3-VL": _qwen3, "Qwen3-VL-MoE": _qwen3_moe}
