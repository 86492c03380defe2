"""Judges that compare a text with the captions of a picture's regions. They need no model.

CaptionMatch()         the region whose caption is most similar to the text
ExactDescription()     the text is a region's caption, word for word
NamesOnly()            captions are names of categories, such as "dog"; the text holds one of them
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement
from gaze_lens.runs.digests import digest
from gaze_lens.runs.files import to_json
from gaze_lens.text.caption_matching import SCORES, best_match, lead_of, plain, similarities

IRREGULAR_PLURALS = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "wolf": "wolves", "calf": "calves", "leaf": "leaves",
    "loaf": "loaves", "shelf": "shelves", "scarf": "scarves",
}  # fmt: skip


def captions_of(description: Description) -> Mapping[str, str]:
    """The captions to choose from. Raises JudgeError if the target has none, because it could never be right."""
    captions = description.picture.captions
    if description.target not in captions:
        names = ", ".join(captions) or "no region"
        raise JudgeError(
            f"The picture has no caption for '{description.target}' (it has for {names}); give captions, or use a "
            "judge that looks at the picture."
        )
    return captions


@dataclass(frozen=True)
class ExactDescription(Judge):
    """The text is right if it is the target's caption, apart from case, spaces and the full stop.

    For synthetic strips, whose captions are complete. The match is the first region with that caption.
    """

    def judge(self, description: Description) -> Judgement:
        """Raises JudgeError if the target has no caption."""
        captions, text = captions_of(description), plain(description.text)
        correct = text == plain(captions[description.target])
        same = [name for name, caption in captions.items() if plain(caption) == text]
        return Judgement(description.target if correct else next(iter(same), None), correct)


@dataclass(frozen=True)
class CaptionMatch(Judge):
    """Forced choice: the region whose caption fits the text best; see `gaze_lens.text.caption_matching.best_match`.

    score: "shared words" (their number), "f1" (token F1) or "rouge-l" (F1 by the longest common subsequence).
    margin: by how much, in that score, the best must be ahead of the second; with less there is no match. A text that
        is a caption, word for word, matches it whatever the margin.
    Raises InputError for another score, or a negative margin.
    """

    score: str = "shared words"
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.score not in SCORES or self.margin < 0:
            raise InputError(
                f"CaptionMatch(score={self.score!r}, margin={self.margin}) was given; give a score of "
                f"{', '.join(map(repr, SCORES))}, and a margin of 0 or more."
            )

    def judge(self, description: Description) -> Judgement:
        """The detail holds the score of every caption. Raises JudgeError if the target has no caption."""
        captions = captions_of(description)
        scores = similarities(description.text, captions, self.score)
        options: dict[str, Any] = {"score": self.score, "margin": self.margin, "target": description.target}
        match = best_match(description.text, captions, **options)
        return Judgement(match, match == description.target, lead_of(scores), {self.score: scores})


class NamesOnly(Judge):
    """For photographs: the text is right if it names the target's category, such as "dog", and no other region's.

    The captions are the names of the categories. They are found as complete words, in any case, singular or plural
    ("people" is "person"). A name inside a longer one does not count: "teddy bear" is no "bear", if both are captions.
    Regions with the same caption cannot be told apart: naming it is right for each of them.

    synonyms: category -> other names for it ({"person": ["man", "woman"]}); `gl.data.COCO_SYNONYMS` has those of COCO.
    others: whether a text that names another region's category, too, is right.
    """

    def __init__(self, *, synonyms: Mapping[str, Sequence[str]] | None = None, others: bool = False) -> None:
        if any(isinstance(listed, str) for listed in (synonyms or {}).values()):
            raise InputError("synonyms= has a text in place of a list; give {'person': ['man', 'woman']}.")
        self.synonyms = {category: list(listed) for category, listed in (synonyms or {}).items()}
        self.others = others

    def __repr__(self) -> str:
        settings = [f"synonyms={digest(to_json(self.synonyms))[:8]!r}"] * bool(self.synonyms)
        return f"{type(self).__name__}({', '.join(settings + ['others=True'] * self.others)})"

    def judge(self, description: Description) -> Judgement:
        """The detail holds the categories that the text names. Raises JudgeError if the target has no caption."""
        captions = captions_of(description)
        names = categories_named(description.text, set(captions.values()), self.synonyms)
        detail, own = {"named": names}, captions[description.target]
        if names == [own] or (self.others and own in names):
            return Judgement(description.target, correct=True, detail=detail)
        match = next((region for region, caption in captions.items() if [caption] == names), None)
        return Judgement(match, correct=False, detail=detail)


def categories_named(text: str, names: set[str], synonyms: Mapping[str, Sequence[str]]) -> list[str]:
    """The categories whose name, or synonym, a text holds, in alphabetical order.

    >>> categories_named("A man with two puppies.", {"person", "dog", "cat"}, {"person": ["man"], "dog": ["puppy"]})
    ['dog', 'person']
    """
    owners = {other: name for name in names for other in synonyms.get(name.rstrip("."), ())} | {n: n for n in names}
    return sorted({owners[name] for name in named(text, set(owners))})


def named(text: str, names: set[str]) -> list[str]:
    """The names that a text holds, in alphabetical order.

    >>> named("Two Dogs and a teddy bear.", {"dog", "bear", "teddy bear", "cat"})
    ['dog', 'teddy bear']
    """
    rest, matches = text.lower(), []
    for name in sorted(names, key=lambda name: (-len(name), name)):  # longest first, and each is cut out of the text
        *first, last = name.lower().rstrip(".").split()
        pattern = r"\b" + r"\s+".join([*map(re.escape, first), _singular_or_plural(last)]) + r"\b"
        if re.search(pattern, rest):
            matches.append(name)
            rest = re.sub(pattern, "|", rest)
    return sorted(matches)


def _singular_or_plural(word: str) -> str:
    """A regular expression for both forms of a word."""
    forms = [rf"{re.escape(word)}(?:e?s)?"]
    if word in IRREGULAR_PLURALS:
        forms.append(IRREGULAR_PLURALS[word])
    if re.search("[^aeiou]y$", word):
        forms.append(re.escape(word[:-1]) + "ies")
    return f"(?:{'|'.join(forms)})"
