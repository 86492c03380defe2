"""McNemar's test: is one condition right more often than another, on the same questions?"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gaze_lens.errors import InputError
from gaze_lens.evaluation.records import Record
from gaze_lens.runs.journal import Line


@dataclass(frozen=True)
class McNemar:
    """`n` pairs, of which in some only the first, or only the second, is right. p: two-sided, exact."""

    only_first: int
    only_second: int
    n: int
    p: float

    def __str__(self) -> str:
        return (
            f"only the first right {self.only_first}, only the second {self.only_second}, of {self.n}; p = {self.p:.2g}"
        )

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def mcnemar(first: Sequence[float], second: Sequence[float]) -> McNemar:
    """McNemar's exact test on pairs of right (1) and wrong (0) answers. McNemar 1947.

    Were the two equally good, each pair in which one alone is right would be either's with a chance of one half; p is
    the probability of a split that is at least as uneven. Raises InputError for no pairs, or other numbers.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs or not {value for pair in pairs for value in pair} <= {0, 1}:
        raise InputError(f"{len(pairs)} pairs were given; give one or more, of 0 and 1.")
    one, other = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    tail = sum(math.comb(one + other, k) for k in range(min(one, other) + 1))
    return McNemar(one, other, len(pairs), min(1.0, 2 * tail / 2 ** (one + other)))


def likeliest(record: Record, question: Line) -> tuple[str, str, int, str, float, float]:
    """Of an answer with likelihoods: picture, condition, draw, the most probable choice, whether that is right, and by
    how many nats the right one is ahead of the best other one. A tie is not right."""
    right = question["choices"].index(question["answer"])
    others = [value for index, value in enumerate(record.likelihoods) if index != right]
    lead = record.likelihoods[right] - max(others)
    best = question["choices"][max(range(len(record.likelihoods)), key=record.likelihoods.__getitem__)]
    return record.picture, record.condition, record.draw, best, float(lead > 0), lead
