"""Judges: which region of a picture does a text describe, and is it the one that it should be about?

    judge = CaptionMatch(score="f1")                     # or ExactDescription(), LikelihoodJudge(model), ...
    judge.judge(Description(text, "panel 4", picture))   # Judgement(match='panel 4', correct=True, ...)
    judge.judge_all(descriptions)                        # one that cannot be judged is an error, not a miss

Any other judge is a class with these two methods; one that subclasses `Judge` writes only the first.
"""

from gaze_lens.errors import JudgeError
from gaze_lens.evaluation.judges.captions import CaptionMatch, ExactDescription
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement
from gaze_lens.evaluation.judges.language_model import LanguageModelJudge
from gaze_lens.evaluation.judges.likelihood import LikelihoodJudge
from gaze_lens.evaluation.judges.naming import NamesOnly

__all__ = [
    "CaptionMatch", "Description", "ExactDescription", "Judge", "JudgeError", "Judgement", "LanguageModelJudge",
    "LikelihoodJudge", "NamesOnly",
]  # fmt: skip
