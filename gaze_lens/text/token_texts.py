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
        # Sentencepiece tokenizers drop the space at the beginning of a single token.
        texts.append(" " + text if str(name).startswith("▁") and not text.startswith(" ") else text)
        open_ids = []
    return texts
