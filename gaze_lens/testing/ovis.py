"""A tiny Ovis2."""

from typing import Any

from torch import nn
from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Ovis2ImageProcessor, Ovis2Processor

from gaze_lens.testing.parts import byte_tokenizer, chat_template, text_config

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>",
    "<IMG_ROW>", "<IMG_END>",
)  # fmt: skip


def _ovis2(changes: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Tiles of 32 pixels in patches of 8, four of which make a token."""
    tokenizer = byte_tokenizer(SPECIAL)
    ids = tokenizer.convert_tokens_to_ids
    text = text_config(tokenizer, changes, model_type="qwen2")
    config = Ovis2Config(
        text_config=text,
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8, "hidden_stride": 2, "vocab_size": 40,
        },
        image_token_id=ids("<IMG_ATOM>"), visual_indicator_token_ids=[ids(name) for name in SPECIAL[5:]],
        vocab_size=text["vocab_size"], hidden_size=text["hidden_size"], tie_word_embeddings=False,
    )  # fmt: skip
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessor(
            size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=6
        ),
        tokenizer=tokenizer, chat_template=chat_template("<image>\n"), image_seq_length=4,
    )  # fmt: skip
    return Ovis2ForConditionalGeneration(config), processor


BUILDERS = {"Ovis2": _ovis2}
