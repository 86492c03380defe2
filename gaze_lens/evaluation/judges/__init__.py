"""Judges: which region of a picture does a text describe, and is that the target?

    judge = CaptionMatch(score="f1")                     # or ExactDescription(), LikelihoodJudge(model), ...
    judge.judge(Description(text, "panel 4", picture))   # Judgement(match='panel 4', correct=True, ...)
    judge.judge_all(descriptions)                        # what cannot be judged is an error, not a miss

Any class with these two methods is a judge; a subclass of `Judge` needs only the first.
"""

from gaze_lens.errors import JudgeError
from gaze_lens.evaluation.judges.answers import AnswerMatch
from gaze_lens.evaluation.judges.calibration import calibrated, recognised
from gaze_lens.evaluation.judges.captions import CaptionMatch, ExactDescription, NamesOnly
from gaze_lens.evaluation.judges.judge import Description, Judge, Judgement
from gaze_lens.evaluation.judges.language_model import LanguageModelJudge
from gaze_lens.evaluation.judges.likelihood import LikelihoodJudge

__all__ = [
    "AnswerMatch", "CaptionMatch", "Description", "ExactDescription", "Judge", "JudgeError", "Judgement",
    "LanguageModelJudge", "LikelihoodJudge", "NamesOnly", "calibrated", "recognised",
]  # fmt: skip
