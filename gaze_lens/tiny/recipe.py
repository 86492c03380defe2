"""The embedded model's numbers, and how its model and processor are built (untrained).

    model, processor = build(seed=0)

The model is Hugging Face's `Qwen3VLForConditionalGeneration`; patch 8 and merge 2 give one image token per 16 x 16
pixels.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from gaze_lens import comics
from gaze_lens.shapes import COLOURS, SHAPES

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Widths and depths; the defaults are the shipped model's."""

    width: int = 128
    layers: int = 6
    heads: int = 12
    kv_heads: int = 4
    head_width: int = 32
    mlp: int = 384
    vision_width: int = 64
    vision_layers: int = 2
    vision_heads: int = 4
    vision_mlp: int = 192
    patch: int = 8
    vocabulary: int = 704


def texts() -> list[str]:
    """Every wording that the tokenizer should know as whole words."""
    places = [" ".join(pair) for pair in product(("top", "middle", "bottom"), ("left", "middle", "right"))]
    lines = [comics.OPEN, comics.THIS, comics.NARRATE, comics.NARRATE_ANY_ORDER, comics.NARRATE_FREELY]
    lines += [comics.ONE_THING, comics.LIST_THINGS]
    lines += [comics.ask(i) for i in range(len(comics.ORDINALS))]
    lines += [f"Describe the {word} panel." for word in comics.ORDINALS]
    lines += [comics.ask_place(place) for place in places]
    lines += [f"Panel {i}: red. Panel {i}: red. Describe panel {i}." for i in range(1, 10)]
    lines += [f"{c} {s} above {c} {s}. {c} {s}, and {c} {s}" for c in COLOURS for s in SHAPES]
    lines += ["user\n", "assistant\n", "system\nYou are a helpful assistant."]
    return lines * 20


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on `texts()`: any prompt can be tokenised, the recipe's own words into one token each."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=4096,
        additional_special_tokens=list(SPECIAL[1:]),
    )


def build_processor(size: Size) -> Qwen3VLProcessor:
    """Processor for pictures of 16 x 16 to 1,024 x 1,024 pixels; sides that are multiples of 16 stay as they are."""
    pixels = {
        "patch_size": size.patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": 16 * 16, "longest_edge": 1024 * 1024},
    }
    tokenizer = build_tokenizer(size.vocabulary)
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(**pixels), tokenizer, Qwen3VLVideoProcessor(**pixels), chat_template=CHAT
    )


def text_config(size: Size, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The language model's part."""
    third = size.head_width // 6
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_width,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "mrope_section": [size.head_width // 2 - 2 * third, third, third],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def vision_config(size: Size) -> dict[str, Any]:
    """The vision tower's part."""
    return {
        "depth": size.vision_layers,
        "hidden_size": size.vision_width,
        "intermediate_size": size.vision_mlp,
        "num_heads": size.vision_heads,
        "patch_size": size.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": size.width,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0],
    }


def build_config(size: Size, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The Hugging Face configuration for these sizes."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    return Qwen3VLConfig(
        text_config=text_config(size, tokenizer),
        vision_config=vision_config(size),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build(size: Size | None = None, *, seed: int = 0) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """An untrained model in float32 with its processor; greedy decoding is its default."""
    size = size or Size()
    processor = build_processor(size)
    tokenizer = processor.tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(build_config(size, tokenizer))
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128
    )
    return model, processor
