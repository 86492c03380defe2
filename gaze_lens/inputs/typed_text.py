"""Checks of the text that users type into prompts and answers.

check_typed_text(processor.tokenizer, [{"type": "text", "text": "What is this?"}])
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.utf8 import is_utf8


def check_typed_text(tokenizer: Any, parts: Iterable[Mapping[str, Any]]) -> None:
    """InputError for text that UTF-8 cannot hold, and a warning for text that the tokenizer reads as special tokens.

    parts: of a conversation. Such a token is what a chat template writes: <|im_end|> in a question would end the turn.
    """
    for text in (part.get("text") for part in parts):
        if not isinstance(text, str):
            continue
        check_utf8("prompt", text)
        if special := special_in(tokenizer, text):
            warnings.warn(
                f"The prompt {text[:60]!r} holds {', '.join(special)}, which the model reads as a special token of its "
                "chat template and not as text; leave it out unless you mean that.",
                stacklevel=2,
            )


def check_utf8(what: str, text: str) -> None:
    """InputError for a text with half of a surrogate pair, which no tokenizer reads."""
    if not is_utf8(text):
        raise InputError(
            f"The {what} {ascii(text)[:80]} holds half of a surrogate pair, which is no character; expected text that "
            "UTF-8 can hold. Leave it out."
        )


def special_in(tokenizer: Any, text: str) -> list[str]:
    """The special tokens that a tokenizer finds in a text, each once."""
    added = tokenizer.added_tokens_decoder
    ids = dict.fromkeys(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [
        added[token].content
        for token in ids
        if token in added and added[token].special and token != tokenizer.unk_token_id
    ]
