"""Checks that two batches of prompts have the same layout, and finds the same groups of positions in both.

check_aligned(clean, corrupted)
aligned_groups(clean, corrupted, ["panel 4", "last"])
aligned_groups(clean, corrupted, {"word": (clean.span("fourth"), corrupted.span("second"))})
"""

from collections.abc import Mapping
from itertools import groupby, zip_longest
from typing import Any

import torch

from gaze_lens.errors import InputError
from gaze_lens.inputs.position_groups import Group, groups
from gaze_lens.inputs.vlm_inputs import VLMInputs

ALTERNATIVE = "or pass align=True, and patch by regions and groups that are equally large on both sides"


def check_aligned(clean: VLMInputs, corrupted: VLMInputs) -> None:
    """`check_aligned(clean, corrupted)`: InputError that names the first difference between two layouts.

    The layouts of inputs of one model are the same if they have the same number of rows, images of equal size and
    tokens, and runs of text of equal length at the same positions. The tokens of the text may differ.
    """
    check_model(clean, corrupted)
    for row in range(clean.n_rows):
        _check_images(clean, corrupted, row)
        _check_texts(clean, corrupted, row)
    if clean.layout != corrupted.layout:
        raise InputError(
            f"Images and texts are equally long, but do not stand at the same positions of {clean.layout.length} in "
            f"the clean and {corrupted.layout.length} in the corrupted inputs. Put the images at the same places in "
            f"both prompts, prepare both with the same rows (padding), {ALTERNATIVE}."
        )


def check_model(clean: VLMInputs, corrupted: VLMInputs) -> None:
    """InputError where two inputs were prepared by different models or have different numbers of rows."""
    kinds = clean.layout.cross_attention, corrupted.layout.cross_attention
    same = clean.tokenizer is corrupted.tokenizer or clean.tokenizer.get_vocab() == corrupted.tokenizer.get_vocab()
    if not same or kinds[0] != kinds[1]:
        raise InputError(
            "The clean and the corrupted inputs were prepared by different models: their tokenizers differ, or only "
            "one reaches its images by cross-attention. Prepare both with the model that is to be patched."
        )
    if clean.n_rows != corrupted.n_rows:
        raise InputError(
            f"The clean inputs have {clean.n_rows} rows and the corrupted ones {corrupted.n_rows}; expected a "
            "corrupted row for every clean one, in the same order."
        )


def _check_images(clean: VLMInputs, corrupted: VLMInputs, row: int) -> None:
    """InputError where a row's images differ in number, size or tokens."""
    sides = [[tokens for tokens in inputs.image_tokens if tokens.row == row] for inputs in (clean, corrupted)]
    if len(sides[0]) != len(sides[1]):
        raise InputError(
            f"Row {row} has {len(sides[0])} images in the clean inputs and {len(sides[1])} in the corrupted ones; "
            "expected equally many. Give a change that keeps every image."
        )
    for ours, theirs in zip(*sides, strict=True):
        same = ours.size == theirs.size and len(ours) == len(theirs)
        if not (same and torch.allclose(ours.boxes, theirs.boxes, equal_nan=True)):
            texts = [f"{len(side)} tokens ({side.size[0]} x {side.size[1]} pixels)" for side in (ours, theirs)]
            raise InputError(
                f"Image {ours.image} of row {row} has {texts[0]} in the clean inputs and {texts[1]} in the corrupted "
                f"ones: expected pictures of one size, so that every token covers the same. Resize one, {ALTERNATIVE}."
            )


def _check_texts(clean: VLMInputs, corrupted: VLMInputs, row: int) -> None:
    """InputError where a span of a row's text, or its answer, is longer on one side than on the other."""
    ours, theirs = text_spans(clean, row), text_spans(corrupted, row)
    empty: list[int] = []
    for index, (mine, other) in enumerate(zip_longest(ours, theirs, fillvalue=empty)):
        if len(mine) != len(other):
            places = _first_difference(clean, mine, corrupted, other, row)
            raise InputError(
                f"Text span {index} of row {row} has {len(mine)} tokens in the clean inputs and {len(other)} in the "
                f"corrupted ones; the first difference is at {places}. Choose "
                f"words of equally many tokens, {ALTERNATIVE}."
            )
    lengths = [inputs.layout.length - inputs.answers[row] for inputs in (clean, corrupted)]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"The answer of row {row} has {lengths[0]} tokens in the clean inputs and {lengths[1]} in the corrupted "
            f"ones: expected equally many. Give both the same answer, {ALTERNATIVE}."
        )


def text_spans(inputs: VLMInputs, row: int) -> list[list[int]]:
    """The positions of each run of text in a row: before its first image, between images (or tiles), after them."""
    runs = groupby(enumerate(inputs.layout.text[row]), key=lambda item: item[1] - item[0])
    return [[position for _, position in run] for _, run in runs]


def _first_difference(clean: VLMInputs, ours: list[int], corrupted: VLMInputs, theirs: list[int], row: int) -> str:
    """The first difference of two spans of text: "position 31 ('fourth') and position 31 ('twenty')"."""
    tokens = [inputs.input_ids[row].tolist() for inputs in (clean, corrupted)]
    pairs = list(zip(ours, theirs, strict=False))  # one is longer
    n_equal = next((n for n, (a, b) in enumerate(pairs) if tokens[0][a] != tokens[1][b]), len(pairs))
    places = [
        f"position {span[n_equal]} ({token_text(inputs, row, span[n_equal])})" if n_equal < len(span) else "the end"
        for inputs, span in ((clean, ours), (corrupted, theirs))
    ]
    return " and ".join(places)


def token_text(inputs: VLMInputs, row: int, position: int) -> str:
    """The text of a token, in quotes."""
    return repr(inputs.tokenizer.decode(int(inputs.input_ids[row, position])))


def aligned_groups(clean: VLMInputs, corrupted: VLMInputs, positions: Any) -> list[tuple[Group, Group]]:
    """`aligned_groups(clean, corrupted, ["panel 4", "last"])`: the same groups of positions on both sides.

    positions: as for `groups`; or, in a list or mapping, a tuple (of clean, of corrupted) where the two differ. A
        `Group` or `Region` of either side is used for both where the layouts are equal.
    Raises InputError where a group has different numbers of positions in a row on the two sides.
    """
    sides = groups(clean, _side(positions, 0)), groups(corrupted, _side(positions, 1))
    pairs = list(zip(*sides, strict=True))
    for ours, theirs in pairs:
        for row, (mine, other) in enumerate(zip(ours.rows, theirs.rows, strict=True)):
            if len(mine) != len(other):
                raise InputError(
                    f"Group '{ours.name}' has {len(mine)} positions in row {row} of the clean inputs and {len(other)} "
                    "in the corrupted ones; expected equally many. Choose groups that are equally large on both sides."
                )
    return pairs


def _side(positions: Any, side: int) -> Any:
    """The positions of one side: from a tuple (of clean, of corrupted), its element."""
    if isinstance(positions, Mapping):
        return {name: _of_side(which, side) for name, which in positions.items()}
    listed = positions if isinstance(positions, list | tuple) else [positions]
    return [_of_side(which, side) for which in listed]


def _of_side(which: Any, side: int) -> Any:
    return which[side] if isinstance(which, tuple) and len(which) == 2 else which
