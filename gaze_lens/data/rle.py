"""COCO's run-length encoded masks.

>>> decode({"size": [2, 3], "counts": [1, 2, 3]}).astype(int).tolist()     # down the columns, first the background
[[0, 1, 0], [1, 0, 0]]
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from gaze_lens.errors import InputError, RegionError


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of {"size": [height, width], "counts": ...}: a list of run lengths, or COCO's compressed string.

    Raises RegionError where the runs do not fill the size, InputError where a compressed one needs pycocotools and it
    is not installed.
    """
    height, width = rle["size"]
    if isinstance(rle["counts"], str | bytes):
        return require_pycocotools().decode(dict(rle)).astype(bool)
    runs = np.array(rle["counts"], dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise RegionError(
            f"A run-length encoded mask has runs of {runs.sum()} pixels; expected {height} x {width}. The annotation "
            "is damaged: leave it out."
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def require_pycocotools() -> Any:
    """`pycocotools.mask`. Raises InputError where it is not installed."""
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise InputError(
            "Compressed masks need pycocotools, which is not installed: pip install 'gaze-lens[data]'. Or take the "
            "boxes: masks=False."
        ) from error
    return mask
