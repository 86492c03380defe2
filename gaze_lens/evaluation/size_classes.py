"""Accuracy by the size of the target: the small, medium and large objects of COCO.

results = gl.evaluate(model, photos, conditions, protocol=regions(comics.MAIN_OBJECT))
accuracy_by_size(results)          # conditions x (large, medium, small, all), with intervals

Gandikota and Bau 2026, table 1. Sizes are those of COCO: an area below 32 x 32 pixels is small, below 96 x 96 medium.
The area is that of the region's box, clipped to the picture.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from gaze_lens.errors import InputError
from gaze_lens.evaluation.results import Results
from gaze_lens.evaluation.statistics import mean

if TYPE_CHECKING:
    from pandas import DataFrame

COCO_SIZES: Mapping[str, float] = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}
ALL = "all"


def accuracy_by_size(results: Results, *, sizes: Mapping[str, float] = COCO_SIZES) -> "DataFrame":
    """`accuracy_by_size(results)`: the share of answers that describe their target, by condition and size of target.

    sizes: name -> the area, in square pixels, below which a region has this size; ascending, the last infinite.
    A row for each condition and size, the largest first, then all. Columns: condition, size, accuracy, low, high (95 %,
    bootstrap over pictures), n (answers), pictures. Sizes that no judged answer has are there with n = 0 and NaN.
    Raises InputError for sizes that do not ascend to infinity, and for passages of text.
    """
    limits = list(sizes.values())
    if not limits or sorted(set(limits)) != limits or limits[-1] != float("inf") or ALL in sizes:
        raise InputError(f"sizes={dict(sizes)} was given; give ascending areas by name, the last float('inf').")
    table = results.answers.assign(size=[_size(results, *key, sizes) for key in _targets(results)])
    rows = []
    for condition in results.names:
        of_condition = table[table.condition == condition].dropna(subset="correct")
        for size in (*reversed(list(sizes)), ALL):
            some = of_condition if size == ALL else of_condition[of_condition["size"] == size]
            rows.append({"condition": condition, "size": size, **_numbers(some, results.generations.run["seed"])})
    return pd.DataFrame(rows)


def _targets(results: Results) -> list[tuple[str, str]]:
    return list(zip(results.answers.picture, results.answers.target, strict=True))


def _size(results: Results, picture: str, target: str, sizes: Mapping[str, float]) -> str:
    """The name of the size of a target."""
    line = results.generations.pictures[picture]
    if "size" not in line:
        raise InputError("Passages of text have no size in pixels; give results about pictures.")
    (width, height), (x0, y0, x1, y1) = line["size"], line["regions"][target]
    area = max(0.0, min(width, x1) - max(0.0, x0)) * max(0.0, min(height, y1) - max(0.0, y0))
    return next(name for name, limit in sizes.items() if area < limit)


def _numbers(rows: "DataFrame", seed: int) -> dict[str, float]:
    if rows.empty:
        return {"accuracy": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0, "pictures": 0}
    estimate = mean(rows.correct.to_numpy(), rows.picture.tolist(), seed=seed)
    return {
        "accuracy": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n,
        "pictures": estimate.n_strips,
    }  # fmt: skip
