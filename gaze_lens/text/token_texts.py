"""The text of each token of a text, so that the pieces join to it."""

from collections.abc import Sequence
from typing import Any


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character that several tokens make up stands at the last of them."""
    texts, open_ids = [], []
    for index, (token, name) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True)):
        open_ids.append(token)
        text = tokenizer.decode(open_ids)
        # UTF-8 has no longer characters; one that the text breaks off in stays a replacement sign.
        if text.endswith("\ufffd") and len(open_ids) < 4 and index + 1 < len(ids):
            texts.append("")
            continue
        # Sentencepiece tokenizers drop the space that a single token begins with.
        texts.append(" " + text if str(name).startswith("▁") and not text.startswith(" ") else text)
        open_ids = []
    return texts
