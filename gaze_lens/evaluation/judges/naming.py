"""A judge for photographs: which category does a text name?"""

import re

from gaze_lens.evaluation.judges.captions import captions_of
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement

IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "wolf": "wolves", "calf": "calves", "leaf": "leaves",
    "loaf": "loaves", "shelf": "shelves", "scarf": "scarves",
}  # fmt: skip


class NamesOnly(Judge):
    """Right is a text that names the target's caption, such as "dog", and none of the other regions'.

    For photographs whose captions are the names of categories. Names are found as whole words, without case, in the
    singular or plural ("people" is "person"); within a longer name that is there, too ("bear" in "teddy bear"), a
    shorter one does not count. Regions with the same caption are told apart by nothing, and count as one.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def judge(self, description: Description) -> Judgement:
        """The detail holds the names found. Raises JudgeError where the target has no caption."""
        captions = captions_of(description)
        found = named(description.text, set(captions.values()))
        target = captions[description.target]
        if found == [target]:
            return Judgement(description.target, correct=True, detail={"named": found})
        match = next((name for name, caption in captions.items() if [caption] == found), None)
        return Judgement(match, correct=False, detail={"named": found})


def named(text: str, names: set[str]) -> list[str]:
    """The names that a text holds, in alphabetical order.

    >>> named("Two Dogs and a teddy bear.", {"dog", "bear", "teddy bear", "cat"})
    ['dog', 'teddy bear']
    """
    left, found = text.lower(), []
    for name in sorted(names, key=lambda name: (-len(name), name)):
        *first, last = name.lower().rstrip(".").split()
        pattern = r"\b" + r"\s+".join([*map(re.escape, first), _singular_or_plural(last)]) + r"\b"
        if re.search(pattern, left):
            found.append(name)
            left = re.sub(pattern, "|", left)
    return sorted(found)


def _singular_or_plural(word: str) -> str:
    """A pattern for both."""
    forms = [rf"{re.escape(word)}(?:e?s)?"]
    if word in IRREGULAR:
        forms.append(IRREGULAR[word])
    if re.search("[^aeiou]y$", word):
        forms.append(re.escape(word[:-1]) + "ies")
    return f"(?:{'|'.join(forms)})"
