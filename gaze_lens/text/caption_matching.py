"""Compares texts by their words: the similarity of two texts, and the caption that fits a text best.

    best_match("a red ring above a pink bar", picture.captions)          # "panel 4", or None
    similarities(text, picture.captions, "rouge-l")                      # {"panel 1": 0.31, ...}
    repeats(text, baseline)                                              # whether the words are nearly the same

Words are compared without case or punctuation. A word counts as often as it occurs in both texts.
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
    """A text without case, extra space or a full stop at its end, for exact comparison."""
    return " ".join(text.lower().split()).rstrip(". ")


def shared_words(answer: Words, caption: Words) -> float:
    """The number of words that both have."""
    return float((Counter(answer) & Counter(caption)).total())


def token_f1(answer: Words, caption: Words) -> float:
    """F1: the harmonic mean of the share of the answer's words in the caption and the reverse share; 0-1."""
    return _harmonic(shared_words(answer, caption), answer, caption)


def rouge_l(answer: Words, caption: Words) -> float:
    """As `token_f1`, with the longest common subsequence instead of the shared words (Lin 2004, ROUGE-L, F1); 0-1."""
    longest = [0] * (len(caption) + 1)
    for word in answer:
        before = [0, *longest]
        longest = [0] * (len(caption) + 1)
        for k, other in enumerate(caption, 1):
            longest[k] = before[k] + 1 if word == other else max(before[k + 1], longest[k - 1])
    return _harmonic(longest[-1], answer, caption)


def _harmonic(common: float, answer: Words, caption: Words) -> float:
    return 2 * common / (len(answer) + len(caption)) if common else 0.0


SCORES: dict[str, Callable[[Words, Words], float]] = {
    "shared words": shared_words, "f1": token_f1, "rouge-l": rouge_l
}  # fmt: skip


def similarities(text: str, captions: Mapping[str, str], score: str = "shared words") -> dict[str, float]:
    """The similarity of a text to each caption, by "shared words", "f1" or "rouge-l".

    Words that every caption has do not distinguish captions and are removed (where there are two captions or more).
    Raises InputError for no captions, or an unknown score.
    """
    if score not in SCORES:
        raise InputError(f"The score {score!r} is not known; give one of {', '.join(map(repr, SCORES))}.")
    answer, distinct = _distinctive(text, captions)
    return {name: SCORES[score](answer, caption) for name, caption in distinct.items()}


def best_match(
    text: str,
    captions: Mapping[str, str],
    *,
    score: str = "shared words",
    margin: float = 0.0,
    target: str | None = None,
) -> str | None:
    """Forced choice: the name whose caption fits `text` best, or None.

    A caption that is the text itself (`plain`) wins, whatever else has the same words in another order. Where several
    regions have that caption, nothing tells them apart: it is the target if that is one of them.
    Else None where the best similarity exceeds the second by no more than `margin`, where the text shares fewer than
    two different words with the best caption ("red red red"; one where that caption has only one distinctive word), and
    for junk. Other arguments and errors as for `similarities`.

    >>> captions = {"panel 1": "red ring above pink bar.", "panel 2": "blue moon above green bar."}
    >>> best_match("A red ring, above something.", captions)
    'panel 1'
    """
    values = similarities(text, captions, score)
    exact = [name for name, caption in captions.items() if plain(caption) == plain(text) != ""]
    if len(exact) == 1 or target in exact:
        return target if target in exact else exact[0]
    answer, distinct = _distinctive(text, captions)
    best = max(values, key=values.__getitem__)
    lead = lead_of(values)
    clear = lead is None or lead > margin
    least = 1 if len(set(distinct[best])) == 1 else 2
    return best if clear and len(set(answer) & set(distinct[best])) >= least and not is_junk(text) else None


def lead_of(values: Mapping[str, float]) -> float | None:
    """The difference of the largest and the second largest value; None for a single value."""
    ordered = sorted(values.values(), reverse=True)
    return next((first - second for first, second in pairwise(ordered)), None)


def is_junk(text: str) -> bool:
    """Whether a text of eight words or more is repetitive: fewer than a quarter of its words are different words.

    Gandikota and Bau 2026 count such an answer as a miss, whatever it matches.

    >>> is_junk("orange orange orange orange cross orange cross orange orange")
    True
    """
    listed = words(text)
    return len(listed) >= 8 and len(set(listed)) < len(listed) / 4


def repeats(text: str, other: str, *, least: float = 0.85) -> bool:
    """Whether two texts have nearly the same words: the Jaccard index of their sets of words is at least `least`.

    Gandikota and Bau 2026 count a steered answer that repeats the unsteered one as a miss. True for two empty texts.
    """
    mine, theirs = set(words(text)), set(words(other))
    return len(mine & theirs) >= least * len(mine | theirs)


def _distinctive(text: str, captions: Mapping[str, str]) -> tuple[Words, dict[str, Words]]:
    """The words of a text and of captions, without those that every caption has."""
    if not captions:
        raise InputError("There are no captions to choose from; an empty mapping was given.")
    listed = {name: words(caption) for name, caption in captions.items()}
    first, *others = (Counter(caption) for caption in listed.values())
    common = first if others else Counter()
    for other in others:
        common &= other
    return _without(words(text), common), {name: _without(caption, common) for name, caption in listed.items()}


def _without(sequence: Sequence[str], common: Counter[str]) -> Words:
    """The words in order, without the first `common[word]` occurrences of each."""
    counts, rest = Counter(common), []
    for word in sequence:
        if counts[word] > 0:
            counts[word] -= 1
        else:
            rest.append(word)
    return rest
