"""Pairs of clean and corrupted inputs that differ in one thing and have the same layout.

pair = gl.counterfactual(model, strip, "What happens in the fourth panel from the left?", changes.ordinal("second"))
print(pair)                  # row 0: position 36 ' fourth' -> ' second'
gl.patch(model, *pair.encoded(model), what="z", metric=metric)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gaze_lens.counterfactuals.changes import Change, FeatureChange, PictureChange, QuestionChange
from gaze_lens.counterfactuals.feature_changes import change_features, levels_of
from gaze_lens.counterfactuals.pixels import inside
from gaze_lens.errors import InputError
from gaze_lens.inputs.alignment import check_aligned, check_model, text_spans, token_text
from gaze_lens.inputs.prompts import each_prompt, rewritten
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture

SHOWN = 4  # rows, and differences in a row, that a pair lists


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """`Pair(clean, corrupted)`: the inputs of two runs of one model. `print(pair)` shows the differences, and
    `clean, corrupted = pair` unpacks it.

    align: allow different layouts; patching then needs groups of positions that are equally large on both sides
        (regions, spans), see `aligned_groups`.
    Raises InputError that names the first difference of the layouts.
    """

    clean: VLMInputs
    corrupted: VLMInputs
    align: bool = False

    def __post_init__(self) -> None:
        (check_model if self.align else check_aligned)(self.clean, self.corrupted)

    def encoded(self, model: Model) -> "Pair":
        """`pair.encoded(model)`: both with encoded images; images that they share are encoded once.

        Of text alone there is nothing to encode.
        """
        if not self.clean.maps:
            return self
        clean = model.encode(self.clean)
        return Pair(clean, model.encode(self.corrupted, reuse=clean), self.align)

    def __iter__(self) -> Iterator[VLMInputs]:
        return iter((self.clean, self.corrupted))

    def __repr__(self) -> str:
        layout = self.clean.layout
        lines = [f"Pair of {layout.n_rows} rows x {layout.length} positions"]
        for row in range(min(layout.n_rows, SHOWN)):
            texts = differences(self.clean, self.corrupted, row)
            more = [f"{len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
            lines.append(f"  row {row}: {'; '.join([*texts[:SHOWN], *more]) or 'no difference'}")
        return "\n".join(lines + [f"  and {layout.n_rows - SHOWN} more rows"] * (layout.n_rows > SHOWN))


def counterfactual(
    model: Model,
    pictures: Any,
    prompts: Any,
    change: Any,
    *,
    answers: str | Sequence[str] | None = None,
    image: int | None = None,
    align: bool = False,
) -> Pair:
    """`counterfactual(model, strip, question, changes.swap("panel 1", "panel 4"))`: unchanged and changed inputs.

    pictures, prompts, answers: as for `model.prepare`; both sides get the same answers (teacher forcing).
    change: one of `gl.changes`, or any function Picture -> Picture; or a list with one for each row.
    image: the zero-based index of the image that is changed; needed where a row has several.
    align: allow different layouts; see `Pair`.
    A change of features returns encoded inputs; other changes return pixels (encode with `pair.encoded(model)`).
    Raises InputError where a row does not change, or the layouts differ.
    """
    clean = model.prepare(pictures, prompts, answers=answers)
    changes = list(change) if isinstance(change, list | tuple) else [change] * clean.n_rows
    _check(clean, changes, image)
    cache: dict[tuple[int, int], Picture] = {}
    edited: list[list[Any]] = [
        _pictures(row, one, image, cache) for row, one in zip(clean.pictures, changes, strict=True)
    ]
    listed = each_prompt(prompts, clean.n_rows)
    edits = [one.edit if isinstance(one, QuestionChange) else str for one in changes]
    new_prompts = [rewritten(prompt, edit) for prompt, edit in zip(listed, edits, strict=True)]
    if clean.passages:  # which no change edits
        edited = [row if one is None else [*row, one] for row, one in zip(edited, clean.passages, strict=True)]
    corrupted = model.prepare(edited, new_prompts, answers=answers)
    if any(isinstance(one, FeatureChange) for one in changes):
        clean = model.encode(clean)
        in_features = [one if isinstance(one, FeatureChange) else None for one in changes]
        corrupted = change_features(model.encode(corrupted, reuse=clean), in_features, image=image)
    pair = Pair(clean, corrupted, align)
    for row in range(clean.n_rows):
        if not differences(clean, corrupted, row):
            raise InputError(
                f"The change leaves row {row} as it is: nothing in its text or images differs. Give a change that "
                "does something there, or leave the row out."
            )
    return pair


def _check(clean: VLMInputs, changes: Sequence[Any], image: int | None) -> None:
    """InputError where there is not one valid change for each row, or `image` is not one of a row's images."""
    if len(changes) != clean.n_rows:
        raise InputError(f"{len(changes)} changes were given for {clean.n_rows} rows; give one, or one for each row.")
    for row, (change, pictures) in enumerate(zip(changes, clean.pictures, strict=True)):
        if isinstance(change, QuestionChange):
            continue
        if not (isinstance(change, FeatureChange) or callable(change)):
            raise InputError(f"{change!r} is no change; expected one of gl.changes or a function Picture -> Picture.")
        if image not in range(len(pictures)) and (image is not None or len(pictures) != 1):
            raise InputError(
                f"Row {row} has {len(pictures)} images and image={image} was given; expected which one to change, "
                "image=0, image=1, ... (where there is only one, it need not be said)."
            )


def _pictures(
    row: Sequence[Picture], change: Change, image: int | None, cache: dict[tuple[int, int], Picture]
) -> list[Picture]:
    """A row's pictures, one of them changed; a picture that several rows share is changed once."""
    if isinstance(change, QuestionChange | FeatureChange):
        return list(row)
    index = image or 0
    key = id(row[index]), id(change)
    if key not in cache:
        cache[key] = _edited(row[index], change)
    return [cache[key] if n == index else picture for n, picture in enumerate(row)]


def _edited(picture: Picture, change: PictureChange) -> Picture:
    edited = change(picture)
    if not isinstance(edited, Picture):
        raise InputError(f"The change returned {type(edited).__name__}; expected a gl.Picture of the same size.")
    return edited


def differences(clean: VLMInputs, corrupted: VLMInputs, row: int) -> list[str]:
    """Descriptions of the differences in a row: tokens of the text with their positions, images with their regions."""
    texts = _text_differences(clean, corrupted, row)
    pictures = zip(clean.pictures[row], corrupted.pictures[row], strict=False)
    for image, (ours, theirs) in enumerate(pictures):
        names = _changed_regions(ours, theirs)
        texts += [f"image {image + 1} differs in {', '.join(names)}"] if names else []
    return texts + _feature_differences(clean, corrupted, row)


def _text_differences(clean: VLMInputs, corrupted: VLMInputs, row: int) -> list[str]:
    lengths = [[len(span) for span in text_spans(inputs, row)] for inputs in (clean, corrupted)]
    if lengths[0] != lengths[1]:
        return [f"its text has {sum(lengths[0])} tokens -> {sum(lengths[1])} tokens"]
    pairs = zip(clean.layout.text[row], corrupted.layout.text[row], strict=True)
    before, after = (inputs.input_ids[row].tolist() for inputs in (clean, corrupted))
    return [
        f"position {ours} {token_text(clean, row, ours)} -> {token_text(corrupted, row, theirs)}"
        for ours, theirs in pairs
        if before[ours] != after[theirs]
    ]


def _changed_regions(clean: Picture, corrupted: Picture) -> list[str]:
    """The regions in which two pictures differ; or "size", or "pixels outside its named regions"."""
    if clean.image.size != corrupted.image.size:
        return ["size"]
    changed = (np.asarray(clean.image) != np.asarray(corrupted.image)).any(-1)
    if not changed.any():
        return []
    names = [name for name in clean.regions if (changed & inside(clean, name)).any()]
    return names or ["pixels outside its named regions"]


def _feature_differences(clean: VLMInputs, corrupted: VLMInputs, row: int) -> list[str]:
    """The numbers of tokens in a row's images with other features for the same pixels; needs encoded inputs."""
    if clean.features is None or corrupted.features is None:
        return []
    texts = []
    for index, tokens in enumerate(clean.image_tokens):
        sides = clean.features.images[index], corrupted.features.images[index]
        if tokens.row == row and any("edited" in side for side in sides):
            pairs = zip(*(levels_of(side, tokens) for side in sides), strict=True)
            n_changed = np.any([(a != b).any(-1).cpu().numpy() for a, b in pairs], axis=0).sum()
            texts += [f"image {tokens.image + 1} has other features in {n_changed} tokens"] if n_changed else []
    return texts
