"""Tiny models of the families whose views of an image have grids of different shapes: LFM2-VL."""

from typing import Any

from torch import nn
from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration, Lfm2VlImageProcessor, Lfm2VlProcessor

from gaze_lens.testing.parts import byte_tokenizer, chat_template, text_config

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PLACES = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 7) for column in range(1, 7))
LFM2 = (
    "<|pad|>", "<|startoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_start|>", "<|image_end|>",
    "<|img_thumbnail|>", *PLACES,
)  # fmt: skip


def _lfm2_vl(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 32 pixels in patches of 8, four of which make a token; every other layer is a convolution. Images
    of more than half the pixels of 48 tokens are cut into tiles. The chat template writes the begin token."""
    tokenizer = byte_tokenizer(LFM2, pad="<|pad|>", bos_token="<|startoftext|>")
    text = text_config(tokenizer, changes, model_type="lfm2", layer_types=["conv", "full_attention"] * 2)
    config = Lfm2VlConfig(
        text_config={**text, "bos_token_id": tokenizer.bos_token_id, "block_auto_adjust_ff_dim": False},
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
        image_processor=images, tokenizer=tokenizer, chat_template="{{ bos_token }}" + chat_template("<image>")
    )
    return Lfm2VlForConditionalGeneration(config), processor


BUILDERS = {"LFM2-VL": _lfm2_vl}
