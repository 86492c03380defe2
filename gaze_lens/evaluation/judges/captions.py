"""Judges that compare a text with the captions of a picture's regions; they need no model."""

from collections.abc import Mapping
from dataclasses import dataclass

from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement
from gaze_lens.text.caption_matching import SCORES, best_match, lead_of, plain, similarities


def captions_of(description: Description) -> Mapping[str, str]:
    """The captions to choose from. Raises JudgeError where the target has none: it could never be right."""
    captions = description.picture.captions
    if description.target not in captions:
        known = ", ".join(captions) or "no region"
        raise JudgeError(
            f"The picture has no caption for '{description.target}' (it has for {known}); give captions, or use a "
            "judge that looks at the picture."
        )
    return captions


@dataclass(frozen=True)
class ExactDescription(Judge):
    """Right is the target's whole caption and nothing else, but for case, spaces and the full stop.

    For synthetic strips, whose captions say all there is to say. The match is the first region whose caption it is.
    """

    def judge(self, description: Description) -> Judgement:
        """Raises JudgeError where the target has no caption."""
        captions, said = captions_of(description), plain(description.text)
        correct = said == plain(captions[description.target])
        same = [name for name, caption in captions.items() if plain(caption) == said]
        return Judgement(description.target if correct else next(iter(same), None), correct)


@dataclass(frozen=True)
class CaptionMatch(Judge):
    """Forced choice: the region whose caption fits the text best; see `gaze_lens.text.caption_matching.best_match`.

    score: "shared words" (how many), "f1" (token F1) or "rouge-l" (F1 by the longest common subsequence).
    margin: by how much, in that score, the best has to be ahead of the second; less is no match.
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
        """The detail holds the score of every caption. Raises JudgeError where the target has no caption."""
        captions = captions_of(description)
        scores = similarities(description.text, captions, self.score)
        match = best_match(description.text, captions, score=self.score, margin=self.margin)
        return Judgement(match, match == description.target, lead_of(scores), {self.score: scores})
