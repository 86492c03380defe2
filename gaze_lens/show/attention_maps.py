"""The attention of heads over pictures, and over text, for one token or for a word.

gl.show.attention_map(model, inputs, heads)                       # what the last prompt token looks at
gl.show.attention_map(model, told, ["L20H3"], word="dog")         # what it looked at when it wrote "dog"
gl.show.attention_map(model, inputs, heads, fwd_hooks=gl.steer(heads, inputs.region("panel 4")))
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.positions import Positions
from gaze_lens.attention.region_reader import RegionReader, keep_rows
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.inputs.word_positions import word_positions
from gaze_lens.model_protocol import Model
from gaze_lens.regions.layout import Group
from gaze_lens.regions.segments import Passages
from gaze_lens.show.interactive.words import special_ids
from gaze_lens.show.labels import visible
from gaze_lens.show.map_figure import HeadRows, PromptText, draw
from gaze_lens.show.picture_axes import Sheet
from gaze_lens.show.plot import Plot, figure_style
from gaze_lens.text.token_texts import pieces

Queries = tuple[tuple[int, ...], ...]  # for each occurrence of a word, the positions that are looked from


def attention_map(
    model: Model,
    inputs: VLMInputs,
    heads: Any,
    *,
    position: int | None = None,
    word: str | Group | None = None,
    occurrence: int | None = None,
    image: int | None = None,
    row: int = 0,
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
) -> Plot:
    """`gl.show.attention_map(model, told, ["L20H3"], word="dog")`: where heads look, their mean and each by itself.

    inputs: prompts with images, passages, both, or neither. Pictures are shown under heat maps. The prompt's text is
        shown tinted where it has passages, or no image.
    heads: a HeadSet, or what makes one; the mean is of all of them; of more than eight, the first eight are shown
        one by one.
    position: column of the padded prompt, the query; negative from the end; the last prompt token by default.
    word: in place of it, a word of the answer of inputs with `answers=`, else of the prompt; or a span, `inputs.span`.
        Shown is the mean over its tokens, and over all its occurrences; where there are several, also each of them.
        A token of the answer looks from the position before it, where it is predicted. occurrence: this one alone,
        zero-based.
    image: only this image of the row, zero-based.
    row: of the batch. fwd_hooks: run under these, a steering for example.
    Only single rows of the pattern are computed.
    data: "attention" [head, key], mass, 0-1; "by_occurrence" [occurrence, head, key]; "positions", of the queries of
        each occurrence; "on_image" [head]; "on_regions" [head, region]; "heads"; "regions", of images, then segments.
    Raises HeadError for no heads or heads outside the model; InputError for a position that is padding or outside
    the prompt, and for an image or occurrence that is not there; RegionError for a word that is not there.
    """
    heads = HeadSet.of(heads, model)
    queries = _queries(inputs, position, word, occurrence, row)
    tokens = tuple(tokens for tokens in inputs.image_tokens if tokens.row == row)
    shown = range(len(tokens)) if image is None else [image]
    if image is not None and image not in range(len(tokens)):
        raise InputError(f"Row {row} has no image {image}: expected 0 to {len(tokens) - 1}, zero-based.")
    text = _prompt_text(inputs, row)
    both = [
        read_rows(model, inputs, heads, queries=queries, row=row, fwd_hooks=fwd_hooks, of_text=of_text)
        for of_text in ([False, True] if inputs.layout.cross_attention and text and tokens else [bool(not tokens)])
    ]
    pictures = [inputs.pictures[row][index] for index in shown]
    mean = ", mean of heads" if len(heads) > 1 else ""
    names = [f"{_ordinal(k)} of {len(queries)}{mean}" for k in range(1, len(queries) + 1)]
    more = tuple(zip(names, both[0], both[-1], strict=True)) if len(queries) > 1 else ()
    head_rows = HeadRows(
        tuple(map(str, heads)), both[0].mean(0), tuple(tokens[index] for index in shown),
        Sheet.of(pictures) if pictures else None, text, both[-1].mean(0), more,
    )  # fmt: skip
    title = f"Where {len(heads)} heads look" if len(heads) > 1 else f"Where {heads} looks"
    title += f" from {_from(inputs, queries, word, row)}"
    with figure_style():
        figure = draw(head_rows, title)
    data = {"attention": head_rows.rows.numpy(), "by_occurrence": both[0].numpy(), "positions": queries}
    data |= {"on_image": head_rows.on_image, "on_regions": head_rows.on_regions}
    return Plot(figure, {**data, "heads": head_rows.heads, "regions": head_rows.names}, _words(head_rows, title))


@torch.no_grad()
def read_rows(
    model: Model,
    inputs: VLMInputs,
    heads: HeadSet,
    *,
    queries: Queries,
    row: int,
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
    of_text: bool = False,
) -> Float[Tensor, "occurrence head key"]:
    """The attention of heads from some queries to every key of the prompt, 0-1, mean over those of an occurrence.

    Where the image is reached by cross-attention: to every key of the image, and 0 from heads of other layers; or
    of_text: to every position of the prompt, and 0 from heads of the layers that see the image.
    """
    layout, positions = inputs.layout, sorted({position for some in queries for position in some})
    if of_text and layout.cross_attention:
        reader = RegionReader(heads, torch.arange(layout.length), False, keep_rows, row=row)
    else:
        reader = RegionReader.of_prompt(heads, layout, keep_rows, row=row)
    hooks = [*fwd_hooks, *reader.hooks(Positions.of(positions))]
    model.run_with_hooks(inputs, fwd_hooks=hooks, return_type=None, logits_to_keep=inputs.last_logits, use_cache=False)
    (rows,) = reader.values(positions)
    return torch.stack([rows[:, [positions.index(position) for position in some]].mean(1) for some in queries])


def _queries(
    inputs: VLMInputs, position: int | None, word: str | Group | None, occurrence: int | None, row: int
) -> Queries:
    if not 0 <= row < inputs.n_rows:
        raise InputError(f"There is no row {row} in these inputs: expected 0 to {inputs.n_rows - 1}.")
    if word is None:
        if occurrence is not None:
            raise InputError(f"occurrence={occurrence} was given without word=; say of which word.")
        return ((_position(inputs, position, row),),)
    if position is not None:
        raise InputError(f"position={position} and word={word!r} were both given; give one of them.")
    return word_positions(inputs, word, row=row, occurrence=occurrence)


def _position(inputs: VLMInputs, position: int | None, row: int) -> int:
    length = inputs.layout.length
    absolute = length - 1 if position is None else position + length * (position < 0)
    tokens = inputs.layout.text[row] + (() if inputs.layout.cross_attention else inputs.layout.images[row])
    if absolute not in tokens:
        first = min(tokens)
        raise InputError(
            f"Position {position} is no token of row {row}: expected {first} to {length - 1}, or negative, -1 the last."
        )
    return absolute


def _prompt_text(inputs: VLMInputs, row: int) -> PromptText | None:
    """The text of a row that has passages, or no image, and its answer where it has one; else None."""
    passages = next((source for source in inputs.sources[row] if isinstance(source, Passages)), None)
    if passages is None and inputs.pictures[row]:
        return None
    positions = inputs.text_positions[row]
    ids = inputs.input_ids[row, list(positions)].tolist()
    segments = {name: inputs.positions_of(name, row=row) for name in passages.names} if passages else {}
    inside = {position for some in segments.values() for position in some} or set(positions[1:])
    special = special_ids(inputs.tokenizer)
    telling = tuple(p for p, token in zip(positions, ids, strict=True) if p in inside and token not in special)
    return PromptText(tuple(pieces(inputs.tokenizer, ids)), positions, segments, telling or positions)


def _from(inputs: VLMInputs, queries: Queries, word: str | Group | None, row: int) -> str:
    """What is looked from, in words."""
    if word is None:
        return _token(inputs, queries[0][0], row)
    name = visible(word if isinstance(word, str) else word.name)
    each = f"{len(queries)} times, " if len(queries) > 1 else ""
    n_tokens = sum(map(len, queries))
    size = f"{n_tokens} tokens" if n_tokens > 1 else f"position {queries[0][0]}"
    return f"“{name}” ({each}{size})"


def _token(inputs: VLMInputs, position: int, row: int) -> str:
    """A position in words."""
    word = visible(inputs.tokenizer.decode(int(inputs.input_ids[row, position])))
    last = position == inputs.answers[row] - 1
    return f"the last prompt token (“{word}”, position {position})" if last else f"“{word}” (position {position})"


def _ordinal(k: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(k, f"{k}th")


def _words(head_rows: HeadRows, title: str) -> str:
    lines = [title]
    names = head_rows.names
    for head, image, regions in zip(head_rows.heads, head_rows.on_image, head_rows.on_regions, strict=True):
        shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(names, regions, strict=True))
        on_image = f"  image {image:.2f}" if head_rows.tokens else ""
        lines.append(f"{head:>8}{on_image}" + f" ({shares})" * bool(shares))
    return "\n".join(lines)
