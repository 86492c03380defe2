"""Spans of a generated text, each about one thing: by sentences, or by phrases. Tokens count from 0.

by_sentences(tokens)                              # (Span("A dog.", 0, 3), Span("It runs.", 3, 6))
by_phrases(tokens, ["a dog", "a red ball"])

`tokens` are texts whose concatenation is the whole text. A span has the tokens of which any character is in it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from gaze_lens.errors import InputError
from gaze_lens.text.sentences import sentences


@dataclass(frozen=True)
class Span:
    """A part of a text: its characters, and its tokens from `start` to `stop`, which is excluded."""

    text: str
    start: int
    stop: int


def by_sentences(tokens: Sequence[str]) -> tuple[Span, ...]:
    """The sentences of the text; see `gaze_lens.text.sentences`. Raises InputError for a text without any."""
    text = "".join(tokens)
    found = sentences(text)
    if not found:
        raise InputError(f"The text {text[:60]!r} has no sentence to make a span of.")
    return tuple(_span(tokens, one.start, one.stop) for one in found)


def by_phrases(tokens: Sequence[str], phrases: Sequence[str]) -> tuple[Span, ...]:
    """The places of phrases in the text, in the order of the phrases; upper and lower case do not matter.

    A phrase that the text has several times is looked for after the one before it, and else from the beginning.
    Raises InputError for a phrase that the text does not have, and for no phrases.
    """
    text = "".join(tokens)
    lower, after, spans = text.lower(), 0, []
    if len(lower) != len(text):  # in some scripts, lower case has more characters
        lower = text
    for phrase in phrases:
        wanted = phrase if lower is text else phrase.lower()
        start = lower.find(wanted, after)
        start = lower.find(wanted) if start < 0 else start
        if start < 0 or not phrase.strip():
            raise InputError(f"The phrase {phrase!r} is not in the text {text[:200]!r}; give phrases word for word.")
        after = start + len(phrase)
        spans.append(_span(tokens, start, after))
    if not spans:
        raise InputError("No phrases were given; give at least one, word for word from the text.")
    return tuple(spans)


def _span(tokens: Sequence[str], start: int, stop: int) -> Span:
    """The span of some characters. A token without characters belongs to the one before it."""
    starts = list(accumulate(map(len, tokens), initial=0))[:-1]
    first, last = bisect_right(starts, start) - 1, bisect_right(starts, stop - 1) - 1
    return Span("".join(tokens)[start:stop], first, last + 1)
