"""Lists of objects, steered to a part of the picture: are only the objects of that part named?

parts = [in_parts(photo, (1, 2)) for photo in photos]                  # regions "left" and "right"
generations = gl.evaluation.generate_answers(model, parts, conditions, protocol=regions(LIST, max_new_tokens=80))
table = objects_named(generations, photos)
table.groupby("condition")[["precision", "recall"]].mean()

Gandikota and Bau 2026, fig. 9: "list all objects", steered to a region, names the objects of that region only.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gaze_lens.data.picture_digests import names_of
from gaze_lens.errors import InputError
from gaze_lens.evaluation.judges.captions import categories_named
from gaze_lens.evaluation.records import Generations, Record
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box
from gaze_lens.whole_numbers import is_count

if TYPE_CHECKING:
    from pandas import DataFrame

ACROSS = {1: ("",), 2: ("left", "right"), 3: ("left", "middle", "right")}
DOWN = {1: ("",), 2: ("top", "bottom"), 3: ("top", "middle", "bottom")}


def in_parts(picture: Picture, shape: tuple[int, int] = (1, 2)) -> Picture:
    """`in_parts(photo, (1, 2))`: the same picture with equal parts as its regions, "left" and "right".

    shape: (rows, columns), up to (3, 3): "top left", "middle right", ... Raises InputError for other shapes, and for
    one part.
    """
    rows, columns = shape
    if not (is_count(rows) and is_count(columns)) or max(shape) > 3 or rows * columns < 2:
        raise InputError(f"shape={shape} was given; give (rows, columns), both 1 to 3, of two parts or more.")
    width, height = picture.image.width / columns, picture.image.height / rows
    regions = {
        f"{down} {across}".strip(): Box(column * width, row * height, (column + 1) * width, (row + 1) * height)
        for row, down in enumerate(DOWN[rows])
        for column, across in enumerate(ACROSS[columns])
    }
    return Picture(picture.image, regions, fit=picture.fit)


def objects_named(
    generations: Generations,
    pictures: Mapping[str, Picture] | Sequence[Picture],
    *,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    names: Sequence[str] = (),
) -> "DataFrame":
    """`objects_named(generations, photos)`: what each list names, inside the part that it was steered to and outside.

    generations: of pictures whose regions are parts (`in_parts`). pictures: the same with objects as regions, whose
        captions are their categories; by name, or in the order of the run.
    synonyms: as for `NamesOnly`. names: further categories to look for, which are outside everywhere.
    An object is in the part that holds the centre of its bounds. A category with an object inside counts as inside.
    Returns a row for each answer. Columns: picture, condition, draw, part, text; inside, outside, how many categories
    of either kind are named; there, how many categories are in the part; precision, inside / (inside + outside), NaN
    where nothing is named; recall, inside / there, NaN where there is none; only, 1 where something is named, and all
    of it is inside, else 0.
    Raises InputError for pictures that are missing, or have no captions.
    """
    import pandas

    by_name = pictures if isinstance(pictures, Mapping) else _in_order(generations, pictures)
    rows = []
    for record in generations.records:
        if record.skipped or record.failed:
            continue
        if record.picture not in by_name or not by_name[record.picture].captions:
            raise InputError(f"Picture '{record.picture}' is missing, or its objects have no captions.")
        rows.append(_row(generations, record, by_name[record.picture], synonyms or {}, names))
    columns = [
        "picture",
        "condition",
        "draw",
        "part",
        "text",
        "inside",
        "outside",
        "there",
        "precision",
        "recall",
        "only",
    ]
    return pandas.DataFrame(rows, columns=columns)


def _in_order(generations: Generations, pictures: Sequence[Picture]) -> dict[str, Picture]:
    """The pictures by the names that the run gave them."""
    if len(pictures) != generations.run["pictures"]:
        raise InputError(f"{len(pictures)} pictures were given for a run on {generations.run['pictures']}.")
    names = names_of(pictures)
    if not set(generations.pictures) <= set(names):  # the run was given a plain list
        names = [str(index) for index in range(len(pictures))]
    return {name: pictures[index] for index, name in enumerate(names) if name in generations.pictures}


def _row(
    generations: Generations, record: Record, picture: Picture, synonyms: Mapping[str, Sequence[str]],
    others: Sequence[str],
) -> tuple[Any, ...]:  # fmt: skip
    (part,) = record.targets
    x0, y0, x1, y1 = generations.pictures[record.picture]["regions"][part]
    there = set()
    for name, caption in picture.captions.items():
        box = picture.region(name).bounds
        x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        if x0 <= x < x1 and y0 <= y < y1:
            there.add(caption)
    named = set(categories_named(record.text, {*picture.captions.values(), *others}, synonyms))
    inside, outside = len(named & there), len(named - there)
    nan = float("nan")
    precision = inside / (inside + outside) if named else nan
    recall = inside / len(there) if there else nan
    only = float(bool(named) and not outside)
    return (record.picture, record.condition, record.draw, part, record.text, inside, outside, len(there), precision,
            recall, only)  # fmt: skip
