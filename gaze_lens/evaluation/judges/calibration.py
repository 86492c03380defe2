"""Is a judge fit to judge? It is asked about captions whose region is known.

judge = calibrated(LikelihoodJudge(second_model), strips)      # JudgeError if it recognises fewer than 90 %
recognised(judge, strips)                                      # the share
"""

from collections.abc import Sequence

from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges.judge import Description, Judge
from gaze_lens.regions.segments import Source

LEAST = 0.9


def recognised(judge: Judge, pictures: Sequence[Source]) -> float:
    """The share of all captions of the pictures, 0-1, whose region the judge names. An error of the judge is a miss.

    Raises InputError where there are no captions.
    """
    known = [Description(text, name, picture) for picture in pictures for name, text in picture.captions.items()]
    if not known:
        raise InputError(
            "A judge is tried out on captions that are known, and the pictures have none; give pictures with captions "
            "(in a folder, p1.txt beside p1.png)."
        )
    return sum(bool(one.correct) for one in judge.judge_all(known, progress=False)) / len(known)


def calibrated(judge: Judge, pictures: Sequence[Source], *, least: float = LEAST) -> Judge:
    """The judge itself, if it recognises at least this share of the captions. Raises JudgeError if it does not."""
    share = recognised(judge, pictures)
    if share < least:
        raise JudgeError(
            f"{judge!r} recognises {share:.0%} of the captions of {len(pictures)} pictures, expected {least:.0%} or "
            "more: what it says of answers would be worth little. Take another judge, or another model for it."
        )
    return judge
