"""Checks of the records in COCO's JSON: whether their values have the types that the format gives them.

A damaged record is left out and counted; the rest of the file is read.

>>> object_fault({"id": 7, "image_id": 1, "category_id": 2, "bbox": [0, 0, "9", 9]})
'has a box that is not four numbers'
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gaze_lens.utf8 import is_utf8, printable

Record = Mapping[str, Any]
LeftOut = dict[str, list[str]]


def is_id(value: Any) -> bool:
    """Whether a value can be an id: true and false, which are equal to 1 and 0, cannot."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # such as 10**400
        return False


def is_text(value: Any) -> bool:
    """Whether a value is text, not empty, that can be a name."""
    return isinstance(value, str) and value.strip() != "" and "\0" not in value and is_utf8(value)


def category_names(records: Sequence[Record], left_out: LeftOut) -> dict[Any, str]:
    """Category id -> name; ids with two names, and records of other types, are left out."""
    names: dict[Any, set[str]] = defaultdict(set)
    for record in records:
        if is_id(record["id"]) and is_text(record["name"]):
            names[record["id"]].add(record["name"])
        else:
            left_out["a category's id or name is damaged"].append(f"category {_short(record['id'])}")
    for key, of_id in names.items():
        if len(of_id) > 1:
            left_out["a category has two names"].append(f"category {_short(key)}")
    return {key: min(of_id) for key, of_id in names.items() if len(of_id) == 1}


def sound_images(records: Sequence[Record], left_out: LeftOut) -> list[Record]:
    """The records of images whose values can be used; the others are left out."""
    counts = Counter(record["id"] for record in records if is_id(record["id"]))
    sound = []
    for record in records:
        if reason := _image_fault(record, counts):
            left_out[f"an image {reason}"].append(f"image {_short(record['id'])}")
        else:
            sound.append(record)
    return sound


def _image_fault(record: Record, counts: Mapping[Any, int]) -> str | None:
    if not is_id(record["id"]):
        return "has a damaged id"
    if counts[record["id"]] > 1:
        return "has the id of another"
    if not all(is_number(record[side]) and record[side] > 0 for side in ("width", "height")):
        return "has a width or height that is no number of pixels"
    name = record["file_name"]
    if not is_text(name) or Path(name).name in ("", ".."):
        return "has a damaged file name"
    within = os.path.normpath(name)
    if os.path.isabs(within) or within.split(os.sep)[0] == os.pardir:
        return "has a file name outside of the folder"
    return None


def object_fault(annotation: Any) -> str | None:
    """What is wrong with the types of an annotation's values; None where nothing is. Outlines are not looked at."""
    if not isinstance(annotation, Mapping) or not is_id(annotation.get("id")):
        return "has no id"
    if not is_id(annotation.get("image_id")) or not is_id(annotation.get("category_id")):
        return "has a damaged image_id or category_id"
    box, area = annotation.get("bbox"), annotation.get("area")
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        return "has a box that is not four numbers"
    if area is not None and not is_number(area):
        return "has an area that is no number"
    if annotation.get("iscrowd") not in (None, 0, 1):
        return "has an iscrowd that is neither 0 nor 1"
    return None


def named(annotation: Any, place: int) -> str:
    """An annotation's name in `left_out`: its id, or its place in the file, from 0, where it has none."""
    known = isinstance(annotation, Mapping) and is_id(annotation.get("id"))
    return f"annotation {_short(annotation['id'])}" if known else f"annotation without id, at {place} of the list"


def _short(value: Any) -> str:
    """At most 40 characters of an id."""
    text = printable(value if isinstance(value, str) else ascii(value))
    return text if len(text) <= 40 else text[:37] + "..."
