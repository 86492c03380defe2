"""Tiny models of two families with unique layouts: Molmo2, and Mllama with its cross-attention layers."""

from typing import Any

from torch import nn
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
)

from gaze_lens.testing.parts import BEGIN, TEXT, byte_tokenizer, chat_template, no_system, text_config

CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MLLAMA = (*CHAT, "<|image|>", "<|python_tag|>")
MOLMO2 = (
    *CHAT, "<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>",
    "<im_end>", "<frame_end>", "<im_low>",
)  # fmt: skip


def _mllama(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Up to four tiles of 56 pixels in patches of 14; layers 1 and 3 of five attend to them."""
    tokenizer = byte_tokenizer(MLLAMA, begin="<|begin_of_text|>")
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "image_size": 56, "patch_size": 14, "intermediate_layers_indices": [0],
        "vision_output_dim": 64,
    }  # fmt: skip
    text = text_config(tokenizer, {"num_hidden_layers": 5, "cross_attention_layers": [1, 3], **changes})
    image = tokenizer.convert_tokens_to_ids("<|image|>")
    model = MllamaForConditionalGeneration(
        MllamaConfig(text_config=text, vision_config=vision, image_token_index=image)
    )
    for name, parameter in model.named_parameters():
        if "gate" in name and parameter.numel() == 1:  # 0 at initialization, which would block all cross-attention
            nn.init.constant_(parameter, 0.5)
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessor(size={"height": 56, "width": 56}), tokenizer=tokenizer,
        chat_template=chat_template("<|image|>", no_system, begin=BEGIN),
    )  # fmt: skip
    return model, processor


def _molmo2(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Crops of 56 pixels in 7 x 7 patches of 8, of which the outermost overlap; windows of 2 x 2 patches."""
    tokenizer = byte_tokenizer(MOLMO2)
    ids = dict(zip(MOLMO2, tokenizer.convert_tokens_to_ids(list(MOLMO2)), strict=True))
    width = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    config = Molmo2Config(
        text_config=text_config(tokenizer, changes, additional_vocab_size=8),
        vision_config={
            **width, "intermediate_size": 48, "num_hidden_layers": 2, "image_size": [56, 56], "patch_size": 8
        },
        adapter_config={
            **width, "intermediate_size": 48, "text_hidden_size": TEXT["hidden_size"], "vision_feature_layer": [1, 0]
        },
        image_patch_id=ids["<im_patch>"], image_start_token_id=ids["<im_start>"], image_end_token_id=ids["<im_end>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"], frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
    )  # fmt: skip
    crops = {"size": {"height": 56, "width": 56}, "patch_size": 8, "overlap_margins": [1, 1], "max_crops": 6}
    processor = Molmo2Processor(
        image_processor=Molmo2ImageProcessor(**crops), tokenizer=tokenizer, video_processor=Molmo2VideoProcessor(),
        chat_template=chat_template("<|image|>"),
    )  # fmt: skip
    return Molmo2ForConditionalGeneration(config), processor


BUILDERS = {"Mllama": _mllama, "Molmo2": _molmo2}
