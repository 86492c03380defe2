"""Which region a text describes, token by token.

    by_markers(tokens, regions)                              # ("panel 1", "panel 1", ..., "panel 2", ...)
    by_words(tokens, regions, captions)                      # (None, "panel 1", None, ...)
    in_ranges(30, regions, [(range(0, 12), "panel 1")])

`tokens` are texts whose concatenation is the whole text. A character belongs to the token that it is in.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from gaze_lens.errors import InputError, RegionError
from gaze_lens.text import caption_matching

Described = tuple[str | None, ...]  # for each token the name of the region that it describes, or None


def by_markers(tokens: Sequence[str], regions: Sequence[str], markers: Mapping[str, str] | None = None) -> Described:
    """From each marker on, the region of the marker; None before the first. See `Trajectory.described_by_markers`."""
    markers = {name: name for name in regions} if markers is None else markers
    _check(markers, regions)
    texts = {name: " ".join(marker.lower().split()) for name, marker in markers.items()}
    if len(set(texts.values())) < len(texts) or not all(texts.values()):
        raise InputError(f"The markers are {dict(markers)}: expected a text for each region, and no two the same.")
    mentions = _mentions(tokens, {text: name for name, text in texts.items()})
    if not mentions:
        raise InputError(
            f"None of the markers {list(texts.values())} is in the text {_beginning(tokens)}: give "
            "markers={region: its marker}, or use described_by_words or described_in."
        )
    described: list[str | None] = [None] * len(tokens)
    for (start, _, name), (stop, _, _) in pairwise([*mentions, (len(tokens), 0, "")]):
        described[start:stop] = [name] * (stop - start)
    return tuple(described)


def by_words(
    tokens: Sequence[str],
    regions: Sequence[str],
    captions: Mapping[str, str],
    words: Mapping[str, Sequence[str]] | None = None,
) -> Described:
    """At each word that belongs to one region only, that region; else None. See `Trajectory.described_by_words`."""
    words_by_region = _own_words(captions) if words is None else words
    _check(words_by_region, regions)
    owners: dict[str, str] = {}
    for name, words_of_region in words_by_region.items():
        for word in words_of_region:
            if owners.setdefault(word.lower(), name) != name:
                raise InputError(f"{word!r} is a word of {owners[word.lower()]!r} and {name!r}: give it to one region.")
    mentions = _mentions(tokens, owners)
    if not mentions:
        raise InputError(
            f"None of the words {sorted(owners)} is in the text {_beginning(tokens)}: expected words that are one "
            "region's alone. Give words={region: its words}, or captions in the gl.Picture."
        )
    described: list[str | None] = [None] * len(tokens)
    for start, stop, name in mentions:
        described[start:stop] = [name] * (stop - start)
    return tuple(described)


def in_ranges(n_tokens: int, regions: Sequence[str], ranges: Sequence[tuple[range, str]]) -> Described:
    """In each range of tokens its region; None in no range. See `Trajectory.described_in`."""
    _check([name for _, name in ranges], regions)
    described: list[str | None] = [None] * n_tokens
    for steps, name in ranges:
        if not (steps and set(steps) <= set(range(n_tokens))):
            raise InputError(f"{steps} is no range of the text: expected some of its tokens, 0 to {n_tokens - 1}.")
        for step in steps:
            if described[step] is not None:
                raise InputError(f"Token {step} is in two of the ranges; give each token one region at most.")
            described[step] = name
    return tuple(described)


def _check(names: Sequence[str] | Mapping[str, object], regions: Sequence[str]) -> None:
    unknown = [name for name in names if name not in regions]
    if unknown:
        raise RegionError(f"{unknown} were not tracked: expected some of {list(regions)}.")


def _own_words(captions: Mapping[str, str]) -> dict[str, set[str]]:
    """For each region the words that are in its caption and in no other."""
    words = {name: set(caption_matching.words(caption)) for name, caption in captions.items()}
    return {name: words[name].difference(*(words[other] for other in words if other != name)) for name in words}


def _mentions(tokens: Sequence[str], owners: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """(first token, one past the last, region) of each mention of an owner's words, in the order of the text.

    owners: one or several words -> their region. Where two begin at one place, the longer one counts.
    """
    if not owners:
        return []
    starts = list(accumulate(map(len, tokens), initial=0))[:-1]
    texts = sorted(owners, key=len, reverse=True)
    pattern = "|".join("(" + r"\s+".join(map(re.escape, text.split())) + ")" for text in texts)
    matches = re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", "".join(tokens), re.IGNORECASE)
    return [
        (
            bisect_right(starts, match.start()) - 1,
            bisect_right(starts, match.end() - 1),
            owners[texts[(match.lastindex or 0) - 1]],  # one group always matches
        )
        for match in matches
    ]


def _beginning(tokens: Sequence[str]) -> str:
    text = "".join(tokens)
    return repr(text if len(text) <= 60 else text[:60] + "...")
