"""The tokenizer of a language model in the place of a processor.

processor = TextProcessor(tokenizer)
processor(text=["Hello"], padding=True, return_tensors="pt")
"""

import os
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase


class TextProcessor:
    """What gaze_lens asks of a processor, by a tokenizer alone."""

    image_processor = None

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        if tokenizer.pad_token is None:  # to pad batches; what is padded is masked
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def chat_template(self) -> Any:
        """The tokenizer's; None for a base model."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self.tokenizer.chat_template = template

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """As the tokenizer's."""
        return self.tokenizer.apply_chat_template(conversation, **options)

    def __call__(self, text: list[str], images: None = None, **options: Any) -> BatchEncoding:  # noqa: ARG002
        """Tensors of texts. A chat template wrote the special tokens; for a base model the tokenizer adds them."""
        options = {"add_special_tokens": self.chat_template is None, **options}
        return self.tokenizer(text, **options)

    def decode(self, *args: Any, **options: Any) -> str:
        """As the tokenizer's."""
        return str(self.tokenizer.decode(*args, **options))

    def batch_decode(self, *args: Any, **options: Any) -> list[str]:
        """As the tokenizer's."""
        return list(self.tokenizer.batch_decode(*args, **options))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)
