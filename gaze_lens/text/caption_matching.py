"""Texts by their words: how alike two of them are, and which of several captions one fits best.

    best_match("a red ring above a pink bar", picture.captions)          # "panel 4", or None
    similarities(text, picture.captions, "rouge-l")                      # {"panel 1": 0.31, ...}
    repeats(text, baseline)                                              # the same words again?

Words are compared without case or punctuation, and counted as often as they occur in both.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from gaze_lens.errors import InputError

Words = list[str]


def words(text: str) -> Words:
    """The words of a text, lower case.

    >>> words("A red ring, above!")
    ['a', 'red', 'ring', 'above']
    """
    return re.findall(r"\w+", text.lower())


def plain(text: str) -> str:
    """A text without case, extra space or a full stop at its end: what an exact comparison sees."""
    return " ".join(text.lower().split()).rstrip(". ")


def shared_words(said: Words, caption: Words) -> float:
    """How many words both have."""
    return float((Counter(said) & Counter(caption)).total())


def token_f1(said: Words, caption: Words) -> float:
    """Harmonic mean of the share of the words said that the caption has, and the other way round; 0-1."""
    return _harmonic(shared_words(said, caption), said, caption)


def rouge_l(said: Words, caption: Words) -> float:
    """The same with the longest common subsequence in place of the shared words (Lin 2004, ROUGE-L, F1); 0-1."""
    longest = [0] * (len(caption) + 1)
    for word in said:
        before = [0, *longest]
        longest = [0] * (len(caption) + 1)
        for k, other in enumerate(caption, 1):
            longest[k] = before[k] + 1 if word == other else max(before[k + 1], longest[k - 1])
    return _harmonic(longest[-1], said, caption)


def _harmonic(common: float, said: Words, caption: Words) -> float:
    return 2 * common / (len(said) + len(caption)) if common else 0.0


SCORES: dict[str, Callable[[Words, Words], float]] = {
    "shared words": shared_words, "f1": token_f1, "rouge-l": rouge_l
}  # fmt: skip


def similarities(text: str, captions: Mapping[str, str], score: str = "shared words") -> dict[str, float]:
    """How well a text fits each caption, by "shared words", "f1" or "rouge-l".

    Words that every caption has say nothing, and are left out (where there are two captions or more).
    Raises InputError for no captions, or an unknown score.
    """
    if score not in SCORES:
        raise InputError(f"The score {score!r} is not known; give one of {', '.join(map(repr, SCORES))}.")
    said, told = _telling(text, captions)
    return {name: SCORES[score](said, caption) for name, caption in told.items()}


def best_match(
    text: str, captions: Mapping[str, str], *, score: str = "shared words", margin: float = 0.0
) -> str | None:
    """Forced choice: the name whose caption fits `text` best, or None.

    None where the best is not better than the second by more than `margin`, where fewer than two different words are
    shared with the best ("red red red"; one, where its caption has no more than one of its own), and for junk.
    Arguments and errors as for `similarities`.

    >>> captions = {"panel 1": "red ring above pink bar.", "panel 2": "blue moon above green bar."}
    >>> best_match("A red ring, above something.", captions)
    'panel 1'
    """
    found = similarities(text, captions, score)
    said, told = _telling(text, captions)
    best = max(found, key=found.__getitem__)
    lead = lead_of(found)
    clear = lead is None or lead > margin
    least = 1 if len(set(told[best])) == 1 else 2
    return best if clear and len(set(said) & set(told[best])) >= least and not is_junk(text) else None


def lead_of(values: Mapping[str, float]) -> float | None:
    """By how much the largest value exceeds the second; None for a single one."""
    ordered = sorted(values.values(), reverse=True)
    return next((first - second for first, second in pairwise(ordered)), None)


def is_junk(text: str) -> bool:
    """Whether a text goes round in circles: of eight words or more, fewer than a quarter are different ones.

    Gandikota and Bau 2026 count junk as a miss, whatever it matches.

    >>> is_junk("orange orange orange orange cross orange cross orange orange")
    True
    """
    said = words(text)
    return len(said) >= 8 and len(set(said)) < len(said) / 4


def repeats(text: str, other: str, *, least: float = 0.85) -> bool:
    """Whether two texts have nearly the same words: Jaccard index of their sets of words of `least` or more.

    Gandikota and Bau 2026 count a steered answer that repeats the unsteered one as a miss. Two empty texts repeat.
    """
    mine, theirs = set(words(text)), set(words(other))
    return len(mine & theirs) >= least * len(mine | theirs)


def _telling(text: str, captions: Mapping[str, str]) -> tuple[Words, dict[str, Words]]:
    """The words of a text and of captions, less those that every caption has."""
    if not captions:
        raise InputError("There are no captions to choose from; an empty mapping was given.")
    told = {name: words(caption) for name, caption in captions.items()}
    first, *others = (Counter(caption) for caption in told.values())
    common = first if others else Counter()
    for other in others:
        common &= other
    return _without(words(text), common), {name: _without(caption, common) for name, caption in told.items()}


def _without(sequence: Sequence[str], common: Counter[str]) -> Words:
    """The words in order, without the first occurrences of those that are counted."""
    left, kept = Counter(common), []
    for word in sequence:
        if left[word] > 0:
            left[word] -= 1
        else:
            kept.append(word)
    return kept
