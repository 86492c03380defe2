"""A prompt as a short list of tokens: its text tokens one by one, its image tokens pooled by region.

tokens_of(inputs, ["panel 1", (0, 0, 50, 50)], range(-5, 0), row=0)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.inputs.region_names import names_of
from gaze_lens.inputs.vlm_inputs import VLMInputs, label_of
from gaze_lens.regions.layout import Region
from gaze_lens.show.labels import visible


@dataclass(frozen=True)
class Token:
    """One row and column of a pooled pattern.

    queries: positions whose attention is averaged; none where an image is reached by cross-attention, so that it has no
        queries. keys: positions, or indices of the image's keys in cross-attention layers, whose attention is summed.
    pooled: whether they are image tokens.
    """

    label: str
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    pooled: bool


def tokens_of(
    inputs: VLMInputs, regions: Sequence[Any] | None, positions: Sequence[int] | None, row: int
) -> list[Token]:
    """The tokens of a row in the order of the prompt; image regions first where they are no positions of it.

    Raises InputError for a row that is not there and positions that are no text of it.
    """
    if row not in range(inputs.n_rows):
        raise InputError(f"There is no row {row} in these inputs: expected 0 to {inputs.n_rows - 1}.")
    text = _text(inputs, positions, row)
    image = _images(inputs, regions, row)
    if inputs.layout.cross_attention:
        return image + text
    return sorted(image + text, key=lambda token: min(token.keys))


def _text(inputs: VLMInputs, positions: Sequence[int] | None, row: int) -> list[Token]:
    length, text = inputs.layout.length, inputs.layout.text[row]
    selected = text if positions is None else sorted({p + length * (p < 0) for p in positions})
    others = [position for position in selected if position not in text]
    if others or not selected:
        raise InputError(
            f"Positions {others[:5]} are no text tokens of row {row}: expected at least one of {_ranges(text)}, or "
            "negative, -1 the last. Image tokens are shown by regions=."
        )
    ids = inputs.input_ids[row].tolist()
    return [Token(visible(inputs.tokenizer.decode(ids[p])), (p,), (p,), pooled=False) for p in selected]


def _images(inputs: VLMInputs, regions: Sequence[Any] | None, row: int) -> list[Token]:
    """The regions, image by image, and the rest of each image."""
    named = _regions(inputs, regions, row)
    in_regions = {position for _, positions in named for position in positions}
    images = [tokens for tokens in inputs.image_tokens if tokens.row == row]
    tokens = []
    for image in images:
        positions_of_image = set(image.positions.tolist())
        name = f"image {image.image + 1}" if len(images) > 1 else "image"
        name = image.moment.name if image.moment is not None else name
        inside = [(label, positions) for label, positions in named if positions[0] in positions_of_image]
        rest = tuple(sorted(positions_of_image - in_regions))
        if rest:
            inside.append(((f"rest of {name}" if len(images) > 1 else "rest") if inside else name, rest))
        for label, positions in inside:
            queries = () if inputs.layout.cross_attention else positions
            tokens.append(Token(f"[{label}]", queries, positions, pooled=True))
    return tokens


def _regions(inputs: VLMInputs, regions: Sequence[Any] | None, row: int) -> list[tuple[str, tuple[int, ...]]]:
    """(name, keys) of the regions asked for, or of all that have a name."""
    if regions is None:
        pairs = names_of(inputs.pictures[row]).items()
        return [(name, inputs.positions_of(own, row=row, image=index)) for name, (index, own) in pairs]
    named = []
    for where in [regions] if isinstance(regions, str | Region) else regions:
        if isinstance(where, Region):
            where.check(inputs.layout)
            where.refuse_weights("a figure of attention")
            named.append((where.name, where.positions[row]))
        else:
            named.append((label_of(where), inputs.positions_of(where, row=row)))
    return named


def _ranges(positions: Sequence[int]) -> str:
    """Positions in words: "0 to 5 and 30 to 41"."""
    ends = [i for i in range(1, len(positions)) if positions[i] != positions[i - 1] + 1]
    parts = zip([0, *ends], [*ends, len(positions)], strict=True)
    return " and ".join(f"{positions[start]} to {positions[stop - 1]}" for start, stop in parts)
