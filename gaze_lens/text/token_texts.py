"""The text of each token; concatenated, these give the whole text."""

from collections.abc import Sequence
from typing import Any


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character of several tokens is in the text of the last one."""
    texts, open_ids = [], []
    for index, (token, name) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True)):
        open_ids.append(token)
        text = tokenizer.decode(open_ids)
        # A UTF-8 character has at most four bytes. An incomplete one at the end stays a replacement character.
        if text.endswith("\ufffd") and len(open_ids) < 4 and index + 1 < len(ids):
            texts.append("")
            continue
        texts.append(_with_space(str(name), text))
        open_ids = []
    return texts


def single_tokens(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token by itself; a part of a character is a replacement character."""
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [_with_space(str(name), text) for name, text in zip(names, texts, strict=True)]


def _with_space(name: str, text: str) -> str:
    """Sentencepiece tokenizers drop the space at the beginning of a single token."""
    return " " + text if name.startswith("▁") and not text.startswith(" ") else text
