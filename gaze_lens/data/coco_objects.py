"""Objects of COCO: which of an image's annotations become regions, and their shapes.

>>> decode_mask({"size": [2, 3], "counts": [1, 2, 3]}).astype(int).tolist()     # column by column, background first
[[0, 1, 0], [1, 0, 0]]
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from gaze_lens.errors import InputError, RegionError
from gaze_lens.regions.shapes import Box, Mask, Polygon, Shape, Union

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """Which objects become regions: see `read_coco`. names: category id -> name. categories: None for all."""

    names: Mapping[Any, str]
    categories: set[str] | None
    min_area: float
    unique: bool
    crowds: bool
    masks: bool


def choose(
    annotations: Sequence[Record], choice: Choice, size: tuple[int, int], image: str, left_out: dict[str, list[str]]
) -> list[Record]:
    """The annotations of one image that become regions; the reasons why others do not are added to `left_out`.

    size: (width, height) of the image. Objects of categories that were not asked for are not in `left_out`.
    """
    counts = Counter(annotation.get("category_id") for annotation in annotations)
    objects = []
    for annotation in annotations:
        category = annotation.get("category_id")
        if choice.categories is not None and choice.names.get(category) not in choice.categories:
            continue
        repeated = choice.unique and counts[category] > 1
        if reason := _fault(annotation, choice, size, repeated):
            left_out[f"an object {reason}"].append(f"{image}: annotation {annotation['id']}")
        else:
            objects.append(annotation)
    return objects


def _fault(annotation: Record, choice: Choice, size: tuple[int, int], repeated: bool) -> str | None:
    if annotation.get("category_id") not in choice.names:
        return "has no known category"
    if annotation.get("iscrowd") and not choice.crowds:
        return "is a crowd"
    if repeated:
        return "is not the only one of its category"
    if reason := _box_fault(annotation.get("bbox"), size):
        return reason
    area = annotation.get("area")
    if (annotation["bbox"][2] * annotation["bbox"][3] if area is None else area) < choice.min_area:
        return "is smaller than min_area"
    return _mask_fault(annotation.get("segmentation"), size) if choice.masks else None


def _box_fault(box: Sequence[float] | None, size: tuple[int, int]) -> str | None:
    if box is None or len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        return "has no area"
    x, y, width, height = box
    overlaps = x < size[0] and y < size[1] and x + width > 0 and y + height > 0
    return None if overlaps else "lies outside of its image"


def _mask_fault(segmentation: Any, size: tuple[int, int]) -> str | None:
    if isinstance(segmentation, Mapping):
        if isinstance(segmentation.get("counts"), str | bytes):
            require_pycocotools()
        fits = list(segmentation.get("size", ())) == [size[1], size[0]] and segmentation.get("counts")
        return None if fits else "has no mask of its image's size"
    return None if _polygons(segmentation or ()) else "has no outline"


def shape_of(annotation: Record, size: tuple[int, int], *, masks: bool) -> Shape:
    """The object's box, clipped to the image; or its outline. size: (width, height) of the image."""
    if not masks:
        x, y, width, height = annotation["bbox"]
        return Box(max(x, 0), max(y, 0), min(x + width, size[0]), min(y + height, size[1]))
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, Mapping):
        return Mask(decode_mask(segmentation))
    polygons = _polygons(segmentation)
    return polygons[0] if len(polygons) == 1 else Union(polygons)


def _polygons(parts: Sequence[Sequence[float]]) -> list[Polygon]:
    """The parts of an outline as polygons; parts without area (points, lines) are dropped.

    parts: each a flat list x, y, x, y, ...
    """
    polygons = []
    for flat in parts:
        try:
            polygons.append(Polygon(list(zip(flat[::2], flat[1::2], strict=True))))
        except (RegionError, ValueError):
            continue
    return polygons


def decode_mask(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of {"size": [height, width], "counts": ...}: a list of run lengths, or COCO's compressed string.

    Raises RegionError where the runs do not fill the size, InputError where a compressed mask needs pycocotools and it
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
