"""Whether a text gives the answer to a question: a yes or no, one of several choices, or some words."""

import re
from dataclasses import dataclass

from gaze_lens.data.questions import Question
from gaze_lens.errors import JudgeError
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement
from gaze_lens.text.caption_matching import Words, plain, words

LETTER = re.compile(r"\s*\(?([A-Z])\s*(?:[.):,]|$)")  # "B", "(B)", "B. a dog"; not "A dog"


@dataclass(frozen=True)
class AnswerMatch(Judge):
    """`AnswerMatch()`: the text gives the answer of its `gl.data.Question`.

    Of several choices, it gives the one that it is, whose letter or words it begins with, or that alone occurs in it.
    Without choices, the answer's words must stand in it, in order; with exact=True, the text must be the answer. Case
    and punctuation do not count. "It is not red" has the word "red": ask for short answers.
    """

    exact: bool = False

    def judge(self, description: Description) -> Judgement:
        """`match` is the choice that the text gives, or None. Raises JudgeError for a picture without a question."""
        question = description.picture
        if not isinstance(question, Question):
            raise JudgeError("AnswerMatch judges answers to the questions of gl.data.read_questions; give those.")
        given = _choice(description.text, question.choices or (question.answer,), exact=self.exact)
        return Judgement(given, given == question.answer)


def _choice(text: str, choices: tuple[str, ...], *, exact: bool) -> str | None:
    """The choice that a text gives, or None."""
    same = [choice for choice in choices if plain(choice) == plain(text)]
    letter = LETTER.match(text)
    if same or exact:
        return same[0] if same else None
    if letter and len(choices) > 1 and ord(letter[1]) - 65 < len(choices):
        return choices[ord(letter[1]) - 65]
    said = words(text)
    if len(choices) > 1:
        first = [choice for choice in choices if said[: len(words(choice))] == words(choice)]
        if first:
            return max(first, key=lambda choice: len(words(choice)))
    inside = [choice for choice in choices if _stands_in(words(choice), said)]
    return inside[0] if len(inside) == 1 else None


def _stands_in(part: Words, whole: Words) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1)) and bool(part)
