"""Sizes, tokenizer and configuration of the trained models, and what the trainer needs from an architecture.

    model, processor = QWEN3_VL.build(Size(), seed=0)      # training.qwen3_vl, training.llava

Both architectures have one image token per 16 x 16 pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from gaze_lens import comics
from gaze_lens.comics.drawing import COLOURS, SHAPES
from training.batches import Frame


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
    """The texts whose words get one token each."""
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


def build_tokenizer(vocabulary: int, special: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on `texts()`: any prompt can be tokenized, and each word of `texts()` is one token.

    special: <|endoftext|>, used for padding, <|im_start|>, <|im_end|>, and the tokens of an image.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
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
        additional_special_tokens=list(special[1:]),
    )


def text_config(size: Size, tokenizer: PreTrainedTokenizerFast, **rope: Any) -> dict[str, Any]:
    """The language model's part of the configuration. rope: what the architecture adds to `rope_parameters`."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_width,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, **rope},
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def greedy(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Greedy decoding as a model's default."""
    return GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128
    )


@dataclass(frozen=True)
class Architecture:
    """What the trainer needs to know about a Hugging Face model class.

    build: makes an untrained model in float32 and its processor, from sizes and a seed.
    frame: the text around an image.
    encode_images: runs the vision tower on pictures of one size [row, height, width, 3], uint8. It returns the image
        tokens [row, token, d_model], and a list of DeepStack's features of the same shape, empty if there are none.
    tower_parameters: the parameters of the vision tower, without the projector.
    """

    name: str
    build: Callable[[Size, int], tuple[nn.Module, Any]]
    frame: Frame
    encode_images: Callable[[nn.Module, Tensor], tuple[Tensor, list[Tensor]]]
    tower_parameters: Callable[[nn.Module], list[nn.Parameter]]
