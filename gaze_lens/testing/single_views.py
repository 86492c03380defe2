"""Tiny models of the families with one view of the whole image, stretched: PaliGemma (1 and 2) and Gemma 4."""

from typing import Any

from torch import nn
from transformers import (
    Gemma2Config,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4TextConfig,
    Gemma4VideoProcessor,
    Gemma4VisionConfig,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from gaze_lens.testing.parts import BEGIN, byte_tokenizer, chat_template, text_config, trimmed_text_of_system

CHAT = ("<pad>", "<|im_start|>", "<|im_end|>")
GEMMA4 = (*CHAT, "<boi>", "<image>", "<eoi>", "<boa>", "<audio>", "<eoa>")
SIDE, PATCH = 84, 14  # pixels of PaliGemma's image and of its patches
GEMMA4_PATCH, POOL = 8, 3


def _paligemma(changes: dict[str, Any], text_class: type = GemmaConfig, **more: Any) -> tuple[nn.Module, Any]:
    tokenizer = byte_tokenizer(
        ("<pad>", "<bos>", "<eos>"), end="<eos>", pad="<pad>", bos_token="<bos>", sentencepiece=True
    )
    image_processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    image_processor.image_seq_length = (SIDE // PATCH) ** 2
    processor = PaliGemmaProcessor(image_processor=image_processor, tokenizer=tokenizer)
    text = text_config(tokenizer, changes, **more)
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": PATCH, "vision_use_head": False,
    }  # fmt: skip
    config = PaliGemmaConfig(
        text_config=text_class(**text), vision_config=SiglipVisionConfig(**vision), hidden_size=text["hidden_size"],
        projection_dim=text["hidden_size"], image_token_index=processor.image_token_id, vocab_size=len(tokenizer),
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration(config), processor


def _paligemma2(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    return _paligemma(changes, Gemma2Config, query_pre_attn_scalar=16, sliding_window=32, attn_logit_softcapping=2.0)


def _gemma4(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    named = {"boi_token": "<boi>", "image_token": "<image>", "eoi_token": "<eoi>", "boa_token": "<boa>"}
    named |= {"audio_token": "<audio>", "eoa_token": "<eoa>"}
    tokenizer = byte_tokenizer(GEMMA4, pad="<pad>", begin="<bos>", sentencepiece=True, extra_special_tokens=named)
    sizes = {"patch_size": GEMMA4_PATCH, "pooling_kernel_size": POOL}
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(), tokenizer=tokenizer,
        image_processor=Gemma4ImageProcessor(max_soft_tokens=70, **sizes),
        video_processor=Gemma4VideoProcessor(max_soft_tokens=70, **sizes),
        chat_template=chat_template("\n\n<image>\n\n", trimmed_text_of_system, begin=BEGIN),
    )  # fmt: skip
    own = {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 32, "num_kv_shared_layers": 2,
        "global_head_dim": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tokenizer),
        "use_bidirectional_attention": "vision",
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16,
        "num_key_value_heads": 2, "position_embedding_size": 256, **sizes,
    }  # fmt: skip
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items() if name[:3] != "eoa"}
    config = Gemma4Config(
        text_config=Gemma4TextConfig(**text_config(tokenizer, changes, **own)), audio_config=None,
        vision_config=Gemma4VisionConfig(**vision), **ids,
        eoa_token_index=tokenizer.convert_tokens_to_ids("<eoa>"), video_token_id=processor.video_token_id,
    )  # fmt: skip
    return Gemma4ForConditionalGeneration(config), processor


BUILDERS = {"PaliGemma": _paligemma, "PaliGemma 2": _paligemma2, "Gemma 4": _gemma4}
