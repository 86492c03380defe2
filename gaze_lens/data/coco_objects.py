"""Objects of COCO: which of an image's annotations become regions, and their shapes.

>>> decode_mask({"size": [2, 3], "counts": [1, 2, 3]}).astype(int).tolist()     # column by column, background first
[[0, 1, 0], [1, 0, 0]]
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from gaze_lens.data.coco_records import Record, is_number
from gaze_lens.errors import RegionError
from gaze_lens.regions.shapes import Box, Mask, Polygon, Shape, Union, misses


@dataclass(frozen=True)
class Choice:
    """Which objects become regions: see `read_coco`. names: category id -> name. categories: None for all."""

    names: Mapping[Any, str]
    categories: set[str] | None
    min_area: float
    unique: bool
    crowds: bool
    masks: bool
    min_box: float = 0.0


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
    box_area = annotation["bbox"][2] * annotation["bbox"][3]
    if box_area < choice.min_box:
        return "has a box smaller than min_box"
    area = annotation.get("area")
    if (box_area if area is None else area) < choice.min_area:
        return "is smaller than min_area"
    return _outline_fault(annotation.get("segmentation"), size) if choice.masks else None


def _box_fault(box: Sequence[float] | None, size: tuple[int, int]) -> str | None:
    if box is None or min(box[2:]) <= 0:
        return "has no area"
    x, y, width, height = box
    overlaps = x < size[0] and y < size[1] and x + width > 0 and y + height > 0
    return None if overlaps else "lies outside of its image"


def _outline_fault(segmentation: Any, size: tuple[int, int]) -> str | None:
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") != [size[1], size[0]]:
            return "has no mask of its image's size"
        try:
            runs = _run_lengths(segmentation)
        except RegionError:
            return "has a damaged mask"
        return None if sum(runs[1::2]) else "has a mask without pixels"
    polygons = _polygons(segmentation)
    if not polygons:
        return "has no outline"
    return "lies outside of its image" if misses(Union(polygons), *size) else None


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


def _polygons(parts: Any) -> list[Polygon]:
    """The parts of an outline as polygons; parts without area (points, lines) are dropped. None where one is damaged.

    parts: each a flat list x, y, x, y, ...
    """
    polygons = []
    for flat in parts if isinstance(parts, list) else ():
        if not isinstance(flat, list) or not all(map(is_number, flat)):
            return []
        with suppress(RegionError, ValueError):
            polygons.append(Polygon(list(zip(flat[::2], flat[1::2], strict=True))))
    return polygons


def decode_mask(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of {"size": [height, width], "counts": ...}: a list of run lengths, or COCO's compressed string.

    Raises RegionError for runs that are damaged, or do not fill the size.
    """
    height, width = rle["size"]
    runs = _run_lengths(rle)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _run_lengths(rle: Mapping[str, Any]) -> list[int]:
    """The runs of a mask, background first. They are added up in Python, whose integers do not overflow."""
    counts, (height, width) = rle.get("counts"), rle["size"]
    runs = _unpacked(counts.encode() if isinstance(counts, str) else counts) if counts else []
    whole = all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in runs)
    if not whole or sum(runs) != height * width:
        found = f"runs of {sum(runs)} pixels" if whole else "runs that are no numbers of pixels"
        raise RegionError(
            f"A run-length encoded mask has {found}; expected {height} x {width}. The annotation is damaged: leave it "
            "out."
        )
    return runs


def _unpacked(counts: Any) -> list[Any]:
    """The numbers of COCO's compressed string, as `rleFrString` in its maskApi.c reads them; of a list, itself.

    Each number is in groups of five bits, the lowest first, and from the fourth on is less that two places before it.
    pycocotools does not check the string: it writes beyond its memory for a damaged one.
    """
    if not isinstance(counts, bytes):
        return counts if isinstance(counts, list) else [None]
    runs: list[int] = []
    number, shift = 0, 0
    for byte in counts:
        group = byte - 48
        if not 0 <= group < 64 or shift > 60:
            return [None]
        number |= (group & 31) << shift
        shift += 5
        if not group & 32:
            number -= (group & 16) << (shift - 4)  # the highest bit is the sign
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number, shift = 0, 0
    return runs if shift == 0 else [None]
