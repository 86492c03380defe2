"""Tiny models of the families that cut an image into tiles or crops of the same size.

SmolVLM's processor needs the package num2words (`pip install "gaze-lens[smolvlm]"`); without it, Hugging Face's class
raises an ImportError that says so.
"""

from typing import Any

from torch import nn
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4ImageProcessor,
    Llama4Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from gaze_lens.testing.parts import (
    BEGIN,
    byte_tokenizer,
    chat_template,
    either_images_first,
    parts,
    text_config,
    trimmed,
    with_video,
)

CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
AYA_BEGIN = f"{BEGIN}<|im_start|>system\nBe safe.<|im_end|>\n"  # whatever the conversation begins with
PLACES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _internvl(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 32 pixels in patches of 8, four of which make a token."""
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = byte_tokenizer(CHAT, extra_special_tokens=named)
    config = InternVLConfig(
        text_config=text_config(tokenizer, changes, model_type="qwen2"),
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.context_image_token_id, image_seq_length=4, downsample_ratio=0.5,
    )  # fmt: skip
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=_square(32), max_patches=6), tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=_square(32)), image_seq_length=4,
        chat_template=chat_template(with_video("<IMG_CONTEXT>\n", "<video>\n")),
    )  # fmt: skip
    return InternVLForConditionalGeneration(config), processor


def _aya(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 28 pixels in patches of 7, four of which make a token; full attention after three sliding layers."""
    tiles = tuple(f"TILE_{number}" for number in range(1, 13))
    own = ("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL")
    tokenizer = byte_tokenizer((*CHAT, *own, *tiles), begin="<BOS_TOKEN>")
    config = AyaVisionConfig(
        text_config=text_config(tokenizer, changes, model_type="cohere2", sliding_window=24),
        vision_config={**SIGLIP, "image_size": 28, "patch_size": 7},
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"), downsample_factor=2,
    )  # fmt: skip
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(size=_square(28), max_patches=6), tokenizer=tokenizer,
        patch_size=7, img_size=28, downsample_factor=2,
        chat_template=chat_template("<image>", either_images_first, begin=AYA_BEGIN),
    )  # fmt: skip
    return AyaVisionForConditionalGeneration(config), processor


def _cohere2(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 32 pixels in patches of 8, four of which make a token; full attention after three sliding layers."""
    named = {
        "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }  # fmt: skip
    tokenizer = byte_tokenizer(CHAT, begin="<BOS_TOKEN>", extra_special_tokens=named)
    config = Cohere2VisionConfig(
        text_config=text_config(tokenizer, changes, model_type="cohere2", sliding_window=24),
        vision_config={**SIGLIP, "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.image_token_id, downsample_factor=2, alignment_intermediate_size=64,
    )  # fmt: skip
    # The image processor's patch_size is the number of tokens to a tile's side.
    images = Cohere2VisionImageProcessor(size=_square(32), max_patches=6, patch_size=2)
    processor = Cohere2VisionProcessor(
        image_processor=images, tokenizer=tokenizer, chat_template=chat_template("<|IMG_PATCH|>", begin=BEGIN)
    )
    return Cohere2VisionForConditionalGeneration(config), processor


def _gemma3(changes: dict[str, Any], pan_and_scan: bool = False) -> tuple[nn.Module, Any]:
    """Views of 32 pixels, 8 x 8 patches pooled to 4 x 4 tokens; every third layer has full attention."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = byte_tokenizer(CHAT, begin="<bos>", sentencepiece=True, extra_special_tokens=named)
    text = text_config(tokenizer, changes, sliding_window=24, sliding_window_pattern=3, query_pre_attn_scalar=16)
    config = Gemma3Config(
        text_config=text, vision_config={**SIGLIP, "image_size": 32, "patch_size": 4}, mm_tokens_per_image=16,
        image_token_index=tokenizer.image_token_id, boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )  # fmt: skip
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size=_square(32)), tokenizer=tokenizer, image_seq_length=16,
        chat_template=chat_template("<start_of_image>", trimmed, begin=BEGIN),
    )  # fmt: skip
    if pan_and_scan:
        settings = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 20}
        processor.images_kwargs = {**processor.images_kwargs, **settings}
    return Gemma3ForConditionalGeneration(config), processor


def _gemma3_pan_and_scan(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    return _gemma3(changes, pan_and_scan=True)


def _idefics3(changes: dict[str, Any], smol: bool = False) -> tuple[nn.Module, Any]:
    """Tiles of 32 pixels in patches of 8, four of which make a token; SmolVLM: 34 pixels, 2 of them outside patches."""
    own = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>", *PLACES)
    begin: dict[str, Any] = {"bos_token": "<|begin|>"} if smol else {"begin": "<|begin_of_text|>"}
    tokenizer = byte_tokenizer((*CHAT, *own), **begin)
    side = 34 if smol else 32
    config_class, model_class, processor_class, images_class = (
        (SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor, SmolVLMImageProcessor)
        if smol
        else (Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, Idefics3ImageProcessor)
    )
    config = config_class(
        text_config=text_config(tokenizer, changes, model_type="llama"),
        vision_config={**VISION, "image_size": side, "patch_size": 8}, scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    images = images_class(size={"longest_edge": 3 * side}, max_image_size={"longest_edge": side})
    videos = {"video_processor": SmolVLMVideoProcessor()} if smol else {}
    processor = processor_class(
        image_processor=images,
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=chat_template("<image>", parts, begin=BEGIN),
        **videos,
    )
    return model_class(config), processor


def _smolvlm(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    return _idefics3(changes, smol=True)


def _llama4(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 28 pixels in patches of 7, four of which make a token. Chunks of 64 positions, the fourth layer without
    RoPE and chunks, experts in every other layer. Pixels are not normalised, as the processor makes them bfloat16."""
    own = (
        "<|image|>", "<|patch|>", "<|image_start|>", "<|image_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
    )  # fmt: skip
    tokenizer = byte_tokenizer((*CHAT, *own), begin="<|begin_of_text|>")
    ids = dict(zip(own, tokenizer.convert_tokens_to_ids(list(own)), strict=True))
    experts = {"interleave_moe_layer_step": 2, "num_local_experts": 4, "intermediate_size_mlp": 96}
    vision = {
        **VISION, "image_size": 28, "patch_size": 7, "pixel_shuffle_ratio": 0.5, "vision_output_dim": 32,
        "projector_input_dim": 32, "projector_output_dim": 32, "intermediate_size": 128,
    }  # fmt: skip
    config = Llama4Config(
        text_config=text_config(tokenizer, changes, attention_chunk_size=64, **experts), vision_config=vision,
        image_token_index=ids["<|patch|>"], boi_token_index=ids["<|image_start|>"],
        eoi_token_index=ids["<|image_end|>"],
    )  # fmt: skip
    images = Llama4ImageProcessor(size=_square(28), max_patches=6, do_normalize=False)
    processor = Llama4Processor(
        image_processor=images, tokenizer=tokenizer, patch_size=7, chat_template=chat_template("<|image|>", begin=BEGIN)
    )
    return Llama4ForConditionalGeneration(config), processor


BUILDERS = {
    "InternVL": _internvl, "AyaVision": _aya, "Cohere2Vision": _cohere2, "Gemma 3": _gemma3,
    "Gemma 3 pan and scan": _gemma3_pan_and_scan, "Idefics3": _idefics3, "SmolVLM": _smolvlm, "Llama 4": _llama4,
}  # fmt: skip
