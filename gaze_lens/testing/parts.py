"""Shared parts of the tiny models: a byte-level tokenizer, a chat template, and the language model's config."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
}  # fmt: skip


def byte_tokenizer(
    special: tuple[str, ...] = (), *, end: str = "<|im_end|>", pad: str = "<|endoftext|>", **options: Any
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token per byte, and the special tokens of a family.

    options: further arguments of `PreTrainedTokenizerFast`, such as `bos_token` or `extra_special_tokens`.
    """
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=end, pad_token=pad, padding_side="left", **options
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def chat_template(image: str) -> str:
    """A chat template that writes `image` where a message has an image."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def text_config(tokenizer: PreTrainedTokenizerFast, changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The arguments of a language model's config: common ones, overridden by the family's, then by `changes`."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    return {**TEXT, "vocab_size": len(tokenizer), **ids, **more, **changes}
