"""The tokens of a text in a prompt, found in the text that the tokenizer decodes.

span_of(tokenizer, ids, "fourth")     # range(17, 18): indices into ids
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from gaze_lens.errors import RegionError

LETTER = r"[^\W\u2e80-\U0003ffff]"  # of scripts that put spaces between words


def span_of(tokenizer: Any, ids: Sequence[int], text: str, *, occurrence: int | None = None) -> range:
    """The indices of the tokens that contain a text, with the white space of these tokens.

    occurrence: which one, zero-based, where the text occurs several times; -1 is the last.
    Raises RegionError where it does not occur, where it occurs several times and no occurrence is given, and where it
    begins or ends inside a token.
    """
    if not text:
        raise RegionError("A span of no characters was asked for; give a text, such as 'fourth'.")
    whole = _text(tokenizer, ids)
    starts = [start for start in range(len(whole)) if whole.startswith(text, start)]
    if not starts:
        raise RegionError(f"{text!r} is not in the prompt, which reads {_shortened(whole)!r}.")
    if occurrence is None and len(starts) > 1:
        raise RegionError(
            f"{text!r} is {len(starts)} times in the prompt; say which with occurrence=0 to {len(starts) - 1}, or give "
            f"more of the text around it. The prompt reads {_shortened(whole)!r}."
        )
    if occurrence is not None and not -len(starts) <= occurrence < len(starts):
        raise RegionError(f"{text!r} is {len(starts)} times in the prompt; there is no occurrence={occurrence}.")
    return _tokens_of(tokenizer, ids, whole, starts[occurrence or 0], text)


def word_spans(tokenizer: Any, ids: Sequence[int], word: str) -> list[range]:
    """The indices of the tokens of every occurrence of a word, or of several words; none inside a longer word.

    Raises RegionError where there is none, and where one begins or ends inside a token.
    """
    if not word.strip():
        raise RegionError(f"The word {word!r} was asked for; give a text that is not blank, such as 'dog'.")
    whole = _text(tokenizer, ids)
    matches = re.finditer(f"(?<!{LETTER}){re.escape(word)}(?!{LETTER})", whole)
    starts = [match.start() for match in matches]
    if not starts:
        raise RegionError(f"The word {word!r} is not in the text, which reads {_shortened(whole)!r}.")
    return [_tokens_of(tokenizer, ids, whole, start, word) for start in starts]


def _tokens_of(tokenizer: Any, ids: Sequence[int], whole: str, start: int, text: str) -> range:
    """The indices of the tokens of a text that begins at a character of the whole."""

    def n_begun(token: int) -> int:  # characters of the tokens up to this one, with one that it only begins
        return len(_text(tokenizer, ids[: token + 1]))

    def n_complete(token: int) -> int:  # without one that it only begins: a character may have several tokens
        decoded = _text(tokenizer, ids[: token + 1])
        while not whole.startswith(decoded):
            decoded = decoded[:-1]
        return len(decoded)

    tokens = range(len(ids))
    first = bisect_left(tokens, start + 1, key=n_begun)
    last = bisect_left(tokens, start + len(text), key=n_complete)
    covered = whole[n_complete(first - 1) if first else 0 : n_begun(last)]
    if covered.strip() != text.strip():
        pieces = [_text(tokenizer, [token]) for token in ids[first : last + 1]]
        raise RegionError(
            f"{text!r} cuts a token in two: it stands in the tokens {pieces}, and a token is looked at whole. Give the "
            f"text of whole tokens, {covered.strip()!r}."
        )
    return range(first, last + 1)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:120]} ... {text[-170:]}"
