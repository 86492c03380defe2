"""Tiny models of the families whose views of an image have grids of different shapes: LFM2-VL, MiniCPM-V 4.6, 4.7."""

from typing import Any

from torch import nn
from transformers import (
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
    MiniCPMV4_7Config,
    MiniCPMV4_7ForConditionalGeneration,
    MiniCPMV4_7Processor,
)

from gaze_lens.testing.grids import LINEAR
from gaze_lens.testing.parts import BEGIN, byte_tokenizer, chat_template, text_config

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PLACES = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 7) for column in range(1, 7))
LFM2 = (
    "<|pad|>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_start|>", "<|image_end|>",
    "<|img_thumbnail|>", *PLACES,
)  # fmt: skip
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("image_start_token", "image_end_token", "slice_start_token", "slice_end_token")
MINICPM = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
    **dict(zip(MARKERS, ("<image>", "</image>", "<slice>", "</slice>"), strict=True)),
}  # fmt: skip


def _lfm2_vl(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 32 pixels in patches of 8, four of which make a token; every other layer is a convolution. Images
    of more than half the pixels of 48 tokens are cut into tiles."""
    tokenizer = byte_tokenizer(LFM2, pad="<|pad|>", begin="<|startoftext|>")
    text = text_config(tokenizer, changes, model_type="lfm2", layer_types=["conv", "full_attention"] * 2)
    config = Lfm2VlConfig(
        text_config={**text, "block_auto_adjust_ff_dim": False},
        vision_config={
            **VISION, "model_type": "siglip2_vision_model", "patch_size": 8, "num_patches": 64,
            "vision_use_head": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), projector_hidden_size=48,
    )  # fmt: skip
    images = Lfm2VlImageProcessor(
        tile_size=32, encoder_patch_size=8, max_tiles=6, min_image_tokens=4, max_image_tokens=48,
        max_pixels_tolerance=0.5,
    )  # fmt: skip
    processor = Lfm2VlProcessor(
        image_processor=images, tokenizer=tokenizer, chat_template=chat_template("<image>", begin=BEGIN)
    )
    return Lfm2VlForConditionalGeneration(config), processor


def _minicpm_4_6(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Views of some 9 tokens, a token of 4 x 4 patches of 4 pixels; up to 6 slices; Qwen3.5's language model."""
    return _minicpm(changes, MiniCPMV4_6ForConditionalGeneration, MiniCPMV4_6Config, MiniCPMV4_6Processor)


def _minicpm_4_7(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """As MiniCPM-V 4.6, and positions in two dimensions, by the tokens around the slices."""
    return _minicpm(changes, MiniCPMV4_7ForConditionalGeneration, MiniCPMV4_7Config, MiniCPMV4_7Processor)


def _minicpm(changes: dict[str, Any], model_class: Any, config_class: Any, processor_class: Any) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(CHAT, extra_special_tokens=MINICPM)
    ids = {f"{name.removesuffix('_token')}_id": getattr(tokenizer, f"{name}_id") for name in MARKERS}
    ids["newline_id"] = tokenizer.convert_tokens_to_ids("\u010a")  # a line break in a byte-level vocabulary
    sizes = {"patch_size": 4, "scale_resolution": 48, "max_slice_nums": 6}
    config = config_class(
        text_config={"model_type": "qwen3_5_text", **text_config(tokenizer, changes, **LINEAR)},
        vision_config={**VISION, "patch_size": 4, "image_size": 48}, insert_layer_id=0,
        image_token_id=tokenizer.image_token_id, video_token_id=tokenizer.video_token_id,
        **(ids if config_class is MiniCPMV4_7Config else {}),
    )  # fmt: skip
    processor = processor_class(
        image_processor=MiniCPMV4_6ImageProcessor(**sizes), tokenizer=tokenizer,
        video_processor=MiniCPMV4_6VideoProcessor(**sizes), chat_template=chat_template("<|image_pad|>\n"),
    )  # fmt: skip
    return model_class(config), processor


BUILDERS = {"LFM2-VL": _lfm2_vl, "MiniCPM-V 4.6": _minicpm_4_6, "MiniCPM-V 4.7": _minicpm_4_7}
