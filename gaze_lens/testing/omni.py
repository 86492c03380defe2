"""Tiny models of the thinkers of Qwen's Omni models: the part that reads pictures, sound and text, and writes text.

gaze_lens gives them pictures and text only.
"""

from typing import Any

from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from gaze_lens.testing.grids import M_ROPE, QWEN3_EXPERTS, QWEN3_VISION
from gaze_lens.testing.parts import TEXT, byte_tokenizer, chat_template, text_config

CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NAMES = ("image_token", "video_token", "audio_token", "vision_bos_token", "vision_eos_token", "audio_bos_token",
         "audio_eos_token")  # fmt: skip
QWEN2_5 = (
    "<|IMAGE|>", "<|VIDEO|>", "<|AUDIO|>", "<|vision_bos|>", "<|vision_eos|>", "<|audio_bos|>", "<|audio_eos|>",
)  # fmt: skip
QWEN3 = (
    "<|image_pad|>", "<|video_pad|>", "<|audio_pad|>", "<|vision_start|>", "<|vision_end|>", "<|audio_start|>",
    "<|audio_end|>",
)  # fmt: skip
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
AUDIO = {"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32}


def _tokenizer(tokens: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return byte_tokenizer(CHAT, extra_special_tokens=dict(zip(NAMES, tokens, strict=True)))


def _ids(tokenizer: Any) -> dict[str, int]:
    """The ids of special tokens, under their names in the configs."""
    return {
        "vision_start_token_id": tokenizer.vision_bos_token_id, "vision_end_token_id": tokenizer.vision_eos_token_id,
        "audio_start_token_id": tokenizer.audio_bos_token_id, "audio_end_token_id": tokenizer.audio_eos_token_id,
        "user_token_id": tokenizer.convert_tokens_to_ids("u"),
    }  # fmt: skip


def _processor(kind: type, tokenizer: Any, patch: int, chat: str) -> Any:
    size = {"shortest_edge": 4 * patch * patch, "longest_edge": 64 * patch * patch}
    return kind(
        image_processor=Qwen2VLImageProcessor(patch_size=patch, merge_size=2, size=size), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=patch),
        feature_extractor=WhisperFeatureExtractor(feature_size=AUDIO["num_mel_bins"]), chat_template=chat,
    )  # fmt: skip


def _qwen2_5(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = _tokenizer(QWEN2_5)
    vision = {
        "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14, "window_size": 56,
        "out_hidden_size": TEXT["hidden_size"], "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5OmniThinkerConfig(
        text_config=text_config(tokenizer, changes, rope_parameters=M_ROPE), vision_config=vision,
        audio_config={**AUDIO, "output_dim": TEXT["hidden_size"]}, image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id, audio_token_index=tokenizer.audio_token_id, **_ids(tokenizer),
    )  # fmt: skip
    chat = SYSTEM + chat_template("<|vision_bos|><|IMAGE|><|vision_eos|>")
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    return model, _processor(Qwen2_5OmniProcessor, tokenizer, 14, chat)


def _qwen3(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    tokenizer = _tokenizer(QWEN3)
    experts = {**QWEN3_EXPERTS, "decoder_sparse_step": 1}
    config = Qwen3OmniMoeThinkerConfig(
        text_config=text_config(tokenizer, changes, rope_parameters=M_ROPE, **experts),
        vision_config={**QWEN3_VISION, "depth": 3, "deepstack_visual_indexes": [0, 1]},
        audio_config={**AUDIO, "output_dim": TEXT["hidden_size"], "downsample_hidden_size": 16},
        image_token_id=tokenizer.image_token_id, video_token_id=tokenizer.video_token_id,
        audio_token_id=tokenizer.audio_token_id, **_ids(tokenizer),
    )  # fmt: skip
    chat = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    return Qwen3OmniMoeThinkerForConditionalGeneration(config), _processor(Qwen3OmniMoeProcessor, tokenizer, 16, chat)


BUILDERS = {"Qwen2.5-Omni": _qwen2_5, "Qwen3-Omni": _qwen3}
