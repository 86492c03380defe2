"""Where words are in a prompt: a text span's tokens, found through the tokenizer's own text.

span_of(tokenizer, ids, "fourth")     # (17,): the tokens, of those given, whose text holds it
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from gaze_lens.errors import RegionError


def span_of(tokenizer: Any, ids: Sequence[int], text: str, *, occurrence: int | None = None) -> range:
    """The indices of the tokens that hold a text, with the white space that belongs to them.

    occurrence: which one where it is there several times, zero-based; -1 is the last.
    Raises RegionError where it is not there, or several times and no occurrence is given.
    """
    if not text:
        raise RegionError("A span of no characters was asked for; give a text, such as 'fourth'.")
    whole = _text(tokenizer, ids)
    starts = [at for at in range(len(whole)) if whole.startswith(text, at)]
    if not starts:
        raise RegionError(f"{text!r} is not in the prompt, which reads {_shortened(whole)!r}.")
    if occurrence is None and len(starts) > 1:
        raise RegionError(
            f"{text!r} is {len(starts)} times in the prompt; say which with occurrence=0 to {len(starts) - 1}, or give "
            f"more of the text around it. The prompt reads {_shortened(whole)!r}."
        )
    if occurrence is not None and not -len(starts) <= occurrence < len(starts):
        raise RegionError(f"{text!r} is {len(starts)} times in the prompt; there is no occurrence={occurrence}.")
    start = starts[occurrence or 0]

    def begun(token: int) -> int:  # characters that it and the tokens before it are part of
        return len(_text(tokenizer, ids[: token + 1]))

    def ended(token: int) -> int:  # characters that are whole then: several tokens may make up one
        said = _text(tokenizer, ids[: token + 1])
        while not whole.startswith(said):
            said = said[:-1]
        return len(said)

    tokens = range(len(ids))
    first = bisect_left(tokens, start + 1, key=begun)
    return range(first, bisect_left(tokens, start + len(text), key=ended) + 1)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:120]} ... {text[-170:]}"
