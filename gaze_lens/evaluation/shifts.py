"""What steering does to a number, such as an expected score: its shift, and whether the region decides its direction.

shift = score_shift(right, wrong, unsteered, pictures)
print(shift)                                      # shifts, their difference with p, share of direction flips
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gaze_lens.errors import InputError
from gaze_lens.evaluation.statistics import Difference, Estimate, Labels, Values, difference, mean


@dataclass(frozen=True)
class ScoreShift:
    """Shifts of a number under steering, with intervals and tests over pictures.

    right, wrong: the shift from the unsteered run, when steered to the right region and to a wrong one.
    between: the first less the second.
    flips: the share of cases that the two steerings shift in opposite directions. Directions at random, each up or
        down, would give one half: read it beside the p-value of `between`.
    """

    right: Difference
    wrong: Difference
    between: Difference
    flips: Estimate

    def __str__(self) -> str:
        lines = (f"{name:<8} {getattr(self, name)}" for name in ("right", "wrong", "between", "flips"))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """For JSON."""
        return asdict(self)


def score_shift(
    right: Values, wrong: Values, unsteered: Values, pictures: Labels, *, least: float = 1e-4, level: float = 0.95,
    resamples: int = 10_000, seed: int = 0,
) -> ScoreShift:  # fmt: skip
    """How steering to the right region, and to a wrong one, shifts a number: a ScoreShift.

    right, wrong, unsteered: the number of each case in three runs: `gl.metrics.expected_score(...)(logits).tolist()`.
    pictures: the picture of each case, as any label; cases of one picture are resampled together.
    least: shifts that are not larger, in either direction, are rounding, and no flip. Half precision needs more.
    The p-values are two-sided, from flipping the signs of pictures. Raises InputError for runs of different length, no
    cases, numbers that are not finite, and a negative `least`.
    """
    if not 0 <= least < float("inf"):
        raise InputError(f"least={least} was given; give the size of a shift that is only rounding, 0 or more.")
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    toward = difference(right, unsteered, pictures, **options)
    away = difference(wrong, unsteered, pictures, **options)
    between = difference(right, wrong, pictures, **options)
    signs = [_directions(values, unsteered, least) for values in (right, wrong)]
    return ScoreShift(toward, away, between, mean(signs[0] * signs[1] < 0, pictures, **options))


def _directions(values: Values, unsteered: Values, least: float) -> np.ndarray:
    """For each case 1, -1, or 0 where the shift is only rounding."""
    shift = np.asarray(values, dtype=float) - np.asarray(unsteered, dtype=float)
    return np.sign(shift) * (np.abs(shift) > least)
