"""Shares of right answers with bootstrap intervals over pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gaze_lens.errors import InputError
from gaze_lens.evaluation.answers import Answer
from gaze_lens.evaluation.statistics import mean


@dataclass(frozen=True)
class Accuracy:
    """The share of right answers, 0-1, with a percentile bootstrap interval over pictures; n answers."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.n}"

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def accuracy(
    answers: Sequence[Answer], *, exact: bool = False, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Accuracy:
    """The share of answers that hit their target (word for word where `exact`).

    Pictures are resampled, not answers: those of one picture hang together.
    """
    if not answers:
        raise InputError("There are no answers to count; give at least one.")
    right = [found.exact if exact else found.hit for found in answers]
    share = mean(right, [found.picture for found in answers], level=level, resamples=resamples, seed=seed)
    return Accuracy(share.value, share.low, share.high, share.n)
