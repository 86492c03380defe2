"""Data sets that the `datasets` library reads: from the Hugging Face hub, from a folder, or your own `Dataset`.

strips = read_dataset("baulab/openai-comic-strips")              # the paper's: six panels a row, with captions
strips = read_dataset("openai-comic-strips")                     # the same, downloaded into that folder
pages = read_dataset("me/pages", columns="image", panels=gutters(6))
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from gaze_lens.comics.strips import strip
from gaze_lens.data.pages import Panels, read_page
from gaze_lens.data.pictures import Pictures, check_limit, collected
from gaze_lens.errors import InputError
from gaze_lens.regions.picture import Picture

PUBLIC = "baulab/openai-comic-strips"
SAVED = ("state.json", "dataset_dict.json")  # files that `save_to_disk` writes into a folder


def read_dataset(
    source: Any = PUBLIC,
    *,
    split: str = "train",
    columns: str | Sequence[str] | None = None,
    panels: Panels | None = None,
    captions: Sequence[str] | None = None,
    names: str | None = None,
    limit: int | None = None,
) -> Pictures:
    """The rows of a data set as pictures with regions "panel 1", "panel 2", ...

    source: a name on the hub, a folder (of Parquet files, or from `save_to_disk`), or a `datasets.Dataset`.
    columns: the columns of the panels, left to right; by default panel_1, panel_2, ... Or one column of whole pages;
        then `panels` says where their panels are, as for `read_page`.
    captions: the columns of the panels' captions; by default caption_1, caption_2, ... where all exist.
    names: the column of the pictures' names; by default comic_id where it exists, else the number of the row.
    limit: use only this number of first rows.
    Rows in which an image is missing are left out; an image is read when its picture is requested. Raises InputError,
    with the command that downloads the data, where the hub cannot be reached; and for columns that do not exist.
    """
    check_limit(limit)
    table = _table(source, split)
    table = table if limit is None else table.select(range(min(limit, len(table))))
    images = _image_columns(table, columns, panels)
    texts = _caption_columns(table, images) if captions is None else list(captions)
    _check_columns(table, [*images, *texts, *([names] if names else [])])
    labels = _labels(table, names)
    table = _undecoded(table.select_columns([*images, *texts]), images)
    missing = _rows_without_image(table, images)
    readers, left_out = {}, defaultdict(list)
    for row, label in enumerate(labels):
        if row in missing:
            left_out["an image is missing"].append(label)
        else:
            readers[label] = partial(_picture, table, row, images, texts, panels)
    name = str(source) if isinstance(source, str | Path) else "the data set given"
    return collected(readers, left_out, source=name, expected="rows with images")


def _table(source: Any, split: str) -> datasets.Dataset:
    """The rows of a split."""
    table = _load(source, split) if isinstance(source, str | Path) else source
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise InputError(f"The data set has no split '{split}'; it has {', '.join(table)}. Give split=.")
        table = table[split]
    if not isinstance(table, datasets.Dataset):
        raise InputError(
            f"A {type(table).__name__} was given; expected a name on the hub, a folder, or a datasets.Dataset (not "
            "one that streams: pictures are read in any order)."
        )
    return table


def _load(source: str | Path, split: str) -> Any:
    try:
        if any((Path(source) / name).is_file() for name in SAVED):
            return datasets.load_from_disk(str(source))
        return datasets.load_dataset(str(source), split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        hint = "Give a folder of Parquet files or one from save_to_disk, and a split that is in it."
        if not Path(source).exists():
            folder = str(source).split("/")[-1]
            hint = (
                f"There is no such folder here. Where there is a network, download it once: hf download {source} "
                f"--repo-type dataset --local-dir {folder}; then read_dataset('{folder}')."
            )
        raise InputError(f"The data set {source}, split '{split}', cannot be loaded ({error}). {hint}") from error


def _image_columns(table: datasets.Dataset, columns: str | Sequence[str] | None, panels: Panels | None) -> list[str]:
    if columns is None and panels is None:
        columns = _numbered(table, "panel")
    if isinstance(columns, str) is (panels is None) or not columns:
        raise InputError(
            f"columns={columns!r} and panels={panels!r} were given or found; expected the columns of the panels, left "
            "to right, as a list; or one column of whole pages and panels= that says where their panels are. The data "
            f"set has the columns {', '.join(table.column_names)}."
        )
    return [columns] if isinstance(columns, str) else list(columns)


def _caption_columns(table: datasets.Dataset, images: list[str]) -> list[str]:
    captions = _numbered(table, "caption")
    return captions if images == _numbered(table, "panel") and len(captions) == len(images) else []


def _numbered(table: datasets.Dataset, word: str) -> list[str]:
    """The columns panel_1, panel_2, ... in the order of their numbers."""
    return sorted((name for name in table.column_names if re.fullmatch(rf"{word}_\d+", name)), key=_number)


def _number(column: str) -> int:
    return int(column.rsplit("_", 1)[1])


def _check_columns(table: datasets.Dataset, columns: list[str]) -> None:
    if unknown := [name for name in columns if name not in table.column_names]:
        available = ", ".join(table.column_names)
        raise InputError(f"The data set has no column {', '.join(unknown)}; it has {available}.")


def _labels(table: datasets.Dataset, column: str | None) -> list[str]:
    """A name for every row; a repeated value gets the number of its row added."""
    column = column or ("comic_id" if "comic_id" in table.column_names else None)
    if column is None:
        return [str(row) for row in range(len(table))]
    values = map(str, table.select_columns([column])[:][column])
    earlier: set[str] = set()
    labels = []
    for row, value in enumerate(values):
        labels.append(f"{value} (row {row})" if value in earlier else value)
        earlier.add(value)
    return labels


def _undecoded(table: datasets.Dataset, images: list[str]) -> datasets.Dataset:
    """The same rows with images as the bytes of their files, so that `read_image` decodes them like all others."""
    for column in images:
        feature = table.features[column]
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        elif feature != datasets.Value("binary"):
            raise InputError(f"Column {column} holds {feature}; expected images, or the bytes of image files.")
    return table


def _rows_without_image(table: datasets.Dataset, images: list[str]) -> set[int]:
    missing, start = set(), 0
    for batch in table.select_columns(images).with_format("arrow").iter(batch_size=100):
        for column in batch.columns:
            missing |= {start + row for row, null in enumerate(column.is_null().to_pylist()) if null}
        start += len(batch)
    return missing


def _picture(table: datasets.Dataset, row: int, images: list[str], texts: list[str], panels: Panels | None) -> Picture:
    record = table[row]
    files = [_file(record[column]) for column in images]
    captions = [record[column] or "" for column in texts] if texts else None
    return strip(files, captions=captions) if panels is None else read_page(files[0], panels, captions=captions)


def _file(value: bytes | dict[str, Any]) -> bytes | str:
    """The bytes of an image file, or its path where the data set only has that."""
    if isinstance(value, bytes):
        return value
    return value["path"] if value["bytes"] is None else value["bytes"]
