"""Photographs with boxes or masks of objects, from COCO's instances_*.json.

photos = read_coco("annotations/instances_val2017.json", "val2017", min_area=32 * 32, unique=True, n_objects=(2, 6))
photos[0].regions                 # {"dog": Box(...), "bench": Box(...)}; captions are the names of the categories
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gaze_lens.data.coco_objects import Choice, choose, shape_of
from gaze_lens.data.coco_records import LeftOut, Record, category_names, named, object_fault, sound_images
from gaze_lens.data.folders import existing, fault
from gaze_lens.data.pictures import Pictures, Reader, check_limit, collected
from gaze_lens.errors import ImageError, InputError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image, read_size
from gaze_lens.regions.shapes import Shape
from gaze_lens.runs.files import read_json


def read_coco(
    annotations: str | Path,
    images: str | Path,
    *,
    categories: Sequence[str] | None = None,
    min_area: float = 0.0,
    min_box: float = 0.0,
    unique: bool = False,
    n_objects: tuple[int, int] = (1, 1000),
    crowds: bool = False,
    masks: bool = False,
    seed: int | None = None,
    limit: int | None = None,
) -> Pictures:
    """The images with objects, by file name without suffix; regions "dog", "dog 2", ..., captions "dog".

    annotations: the JSON file, with images, annotations and categories. images: the folder of the image files.
    categories: only objects of these become regions; by default, of all. min_area: the smallest COCO "area", in square
    pixels. min_box: the smallest area of an object's box (the paper takes 750). unique: only objects whose category
    occurs once in the image, where crowds and small objects count.
    n_objects: (least, most) regions that an image may have after these choices. crowds: keep objects with `iscrowd`.
    masks: regions are the outlines (polygons, or run-length encoded masks), not the boxes.
    seed: images in random order; by default, in the order of the file. limit: the largest number of images.
    Objects without area or outside their image are left out, and so are images that are missing, cannot be read, lie
    outside the folder, or have another size than the file says (its boxes are in pixels of the upright image). So are
    records whose values have wrong types. `left_out` lists all. Boxes are clipped to the image.
    Raises InputError for a file of another format, unknown categories, and where no image is left.
    """
    check_limit(limit)
    content = _load(Path(annotations))
    left_out: LeftOut = defaultdict(list)
    names = category_names(content["categories"], left_out)
    _check_categories(categories, set(names.values()))
    choice = Choice(names, None if categories is None else set(categories), min_area, unique, crowds, masks, min_box)
    folder = existing(images, "the image files")
    records = sound_images(content["images"], left_out)
    objects = _by_image(content["annotations"], {record["id"] for record in records}, left_out)
    readers: dict[str, Reader] = {}
    for record in _in_order(records, seed):
        if len(readers) == limit:
            break
        name = str(Path(record["file_name"]).with_suffix(""))
        name = f"{name} ({record['id']})" if name in readers else name
        size = record["width"], record["height"]
        selected = choose(objects[record["id"]], choice, size, name, left_out)
        path = folder / record["file_name"]
        if reason := _image_fault(path, size, len(selected), n_objects):
            left_out[reason].append(name)
        else:
            readers[name] = partial(_picture, path, size, selected, choice)
    return collected(readers, left_out, source=str(annotations), expected="images with the objects asked for")


def _load(path: Path) -> Mapping[str, Sequence[Record]]:
    expected = "COCO's instances_*.json, with the lists images, annotations and categories"
    content = read_json(path, expected)
    required = {"images": ("id", "file_name", "width", "height"), "categories": ("id", "name"), "annotations": None}
    for part, keys in required.items():
        records = content.get(part) if isinstance(content, dict) else None
        if not isinstance(records, list) or not (keys is None or all(_has(record, keys) for record in records)):
            members = f" whose members all have {', '.join(keys)}" if keys else ""
            raise InputError(f"{path} has no list '{part}'{members}; expected {expected}.")
    return content


def _has(record: Any, keys: Sequence[str]) -> bool:
    return isinstance(record, dict) and all(key in record for key in keys)


def _check_categories(categories: Sequence[str] | None, available: set[str]) -> None:
    if isinstance(categories, str):
        raise InputError(f"categories={categories!r} was given; give a list: [{categories!r}].")
    for name in categories or ():
        if name not in available:
            similar = ", ".join(get_close_matches(name, available, n=3) or sorted(available)[:10])
            raise InputError(f"The file has no category '{name}'; it has {len(available)}, such as {similar}.")


def _by_image(annotations: Sequence[Any], image_ids: set[Any], left_out: LeftOut) -> Mapping[Any, list[Record]]:
    """Image id -> its annotations."""
    objects = defaultdict(list)
    for place, annotation in enumerate(annotations):
        if reason := object_fault(annotation):
            left_out[f"an object {reason}"].append(named(annotation, place))
        elif annotation["image_id"] not in image_ids:
            left_out["an object belongs to no image"].append(named(annotation, place))
        else:
            objects[annotation["image_id"]].append(annotation)
    return objects


def _in_order(records: Sequence[Record], seed: int | None) -> list[Record]:
    if seed is None:
        return list(records)
    return [records[index] for index in np.random.default_rng(seed).permutation(len(records))]


def _image_fault(path: Path, size: tuple[int, int], count: int, n_objects: tuple[int, int]) -> str | None:
    least, most = n_objects
    if not least <= count <= most:
        return "an image has fewer or more objects than asked for"
    if reason := fault([path]):
        return reason
    return None if read_size(path) == size else "an image is not as large as the annotations say"


def _picture(path: Path, size: tuple[int, int], objects: Sequence[Record], choice: Choice) -> Picture:
    image = read_image(path)
    if image.size != size:
        raise ImageError(f"{path} has {image.size} pixels; the annotations are for {size}.")
    regions: dict[str, Shape] = {}
    captions: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for annotation in objects:
        category = choice.names[annotation["category_id"]]
        counts[category] += 1
        name = category if counts[category] == 1 else f"{category} {counts[category]}"
        regions[name], captions[name] = shape_of(annotation, size, masks=choice.masks), category
    return Picture(image, regions, captions)
