"""Where heads look in a picture while the model describes it, span by span of the text, as maps over image tokens.

maps = gl.tracking.track_maps(model, inputs, heads, max_new_tokens=150)
spans = maps.over(maps.sentences())                   # or maps.over(maps.phrases(["a brown dog", "a red ball"]))
spans.table(); spans.to_csv("spans.csv"); gl.show.span_maps(spans)

Gandikota and Bau 2026, 6.4: the mean value-weighted attention of the gaze heads over each span.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.positions import Positions
from gaze_lens.attention.region_reader import RegionReader
from gaze_lens.attention.value_norms import ValueNorms
from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.continuation import refuse_held
from gaze_lens.model.generation import Generation
from gaze_lens.model_protocol import Model
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.files import write_whole
from gaze_lens.text.token_spans import Span, by_phrases, by_sentences
from gaze_lens.text.token_texts import pieces

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class SpanMaps:
    """`maps.over(spans)`: for each span of the text, the mean attention of the heads to each image token.

    maps: attention mass, 0-1, times value norms if `weighted`; the tokens of all images one after the other.
    """

    spans: tuple[Span, ...]
    maps: Float[Tensor, "span token"]
    image_tokens: tuple[ImageTokens, ...]
    pictures: tuple[Picture, ...]
    heads: HeadSet
    weighted: bool

    def on_regions(self) -> "DataFrame":
        """How much of each span's attention lies on each named region. A row for each span and region.

        Columns: span, text, region, attention (the sum over the region's tokens; NaN for a region without a token),
        largest (whether it is the largest of the span).
        """
        import pandas

        rows = []
        for index, (span, values) in enumerate(zip(self.spans, self.maps, strict=True)):
            named = dict(self._named(values))
            top = max((value for value in named.values() if value == value), default=None)
            rows += [(index, span.text, name, value, value == top) for name, value in named.items()]
        return pandas.DataFrame(rows, columns=["span", "text", "region", "attention", "largest"])

    def _named(self, values: Float[Tensor, " token"]) -> list[tuple[str, float]]:
        """Each region's name and the sum over its tokens."""
        parts = values.split([len(tokens) for tokens in self.image_tokens])
        sums = []
        for part, tokens, picture in zip(parts, self.image_tokens, self.pictures, strict=True):
            for name, shape in picture.regions.items():
                try:
                    inside = torch.isin(tokens.positions, tokens.select(shape))
                    sums.append((name, part[inside].sum().item()))
                except RegionError:
                    sums.append((name, float("nan")))
        return sums

    def table(self) -> "DataFrame":
        """A row for each span and image token.

        Columns: span, text, start, stop (tokens of the text, stop excluded), image, row, column (of the token's grid,
        -1 without one), x0, y0, x1, y1 (original pixels), attention.
        """
        import pandas

        places = [
            (tokens.image, *cell, *box)
            for tokens in self.image_tokens
            for cell, box in zip(tokens.cells.tolist(), tokens.boxes.tolist(), strict=True)
        ]
        rows = [
            (index, span.text, span.start, span.stop, *place, value)
            for index, (span, values) in enumerate(zip(self.spans, self.maps.tolist(), strict=True))
            for place, value in zip(places, values, strict=True)
        ]
        columns = ["span", "text", "start", "stop", "image", "row", "column", "x0", "y0", "x1", "y1", "attention"]
        return pandas.DataFrame(rows, columns=columns)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """`spans.to_csv("spans.csv")`: the table; complete or not there at all."""
        write_whole(path, self.table().to_csv(index=False).encode())


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """`track_maps(model, inputs, heads)`: the heads' mean attention to each image token, step by step.

    The numbers of a step are those of the query that produced its token; it is at the position before the token.
    maps: attention mass, 0-1, times value norms if `weighted`; the tokens of all images one after the other.
    tokens: the text of each generated token, "" for a special one such as that which ends the text.
    """

    maps: Float[Tensor, "step token"]
    tokens: tuple[str, ...]
    image_tokens: tuple[ImageTokens, ...]
    pictures: tuple[Picture, ...]
    heads: HeadSet
    weighted: bool
    generation: Generation

    def sentences(self) -> tuple[Span, ...]:
        """The sentences of the text. Raises InputError for a text without any."""
        return by_sentences(self.tokens)

    def phrases(self, phrases: Sequence[str]) -> tuple[Span, ...]:
        """Spans where phrases stand, which a person or a language model chose.

        Raises InputError for a phrase that the text does not have.
        """
        return by_phrases(self.tokens, phrases)

    def over(self, spans: Sequence[Span]) -> SpanMaps:
        """The mean over the steps of each span. Raises InputError for no spans, and for spans outside the text."""
        if not spans or not all(0 <= span.start < span.stop <= len(self.tokens) for span in spans):
            raise InputError(
                f"{list(spans)[:3]} were given as spans of a text of {len(self.tokens)} tokens; give at least one, "
                "inside the text, such as maps.sentences()."
            )
        means = torch.stack([self.maps[span.start : span.stop].mean(0) for span in spans])
        return SpanMaps(tuple(spans), means, self.image_tokens, self.pictures, self.heads, self.weighted)


def track_maps(
    model: Model, inputs: VLMInputs, heads: HeadSet | Sequence[Any], *, weighted: bool = True, **options: Any
) -> AttentionMaps:
    """`track_maps(model, inputs, heads, max_new_tokens=150)`: generate, and record the heads' mean map at every step.

    inputs: one row, with an image. heads: a HeadSet, or what makes one.
    weighted: multiply the attention on each image token by the norm of its value vector, as `gl.track` does.
    options: for `model.generate` (fwd_hooks, max_new_tokens, ...). Attention is read after other hooks have changed it.
    In memory are heads x steps x image tokens numbers of four bytes.
    Raises InputError for several rows and for inputs without an image, and the errors of `gl.track`.
    """
    if not isinstance(inputs, VLMInputs) or inputs.n_rows != 1 or not inputs.image_tokens:
        raise InputError("track_maps follows one text about a picture; give what model.prepare(picture, prompt) made.")
    heads = HeadSet.of(heads, model)
    if weighted:
        refuse_held(model, options, "The length of value vectors")
    layout = inputs.layout
    keys = torch.cat([tokens.positions for tokens in inputs.image_tokens]).cpu()
    n_keys = layout.n_keys if layout.cross_attention else layout.length
    norms = ValueNorms(model, heads.by_layer(), n_keys=n_keys) if weighted else None

    def reduce(layer: int, rows: Float[Tensor, "head query key"]) -> tuple[Tensor]:
        return ((norms.weigh(layer, heads.by_layer()[layer], rows, keys) if norms else rows).cpu(),)

    reader = RegionReader(heads, keys, layout.cross_attention, reduce, purpose="track_maps follows one text")
    hooks = [*options.pop("fwd_hooks", ()), *reader.hooks(Positions.since(inputs.last_position))]
    generation = model.generate(inputs, fwd_hooks=[*hooks, *(norms.hooks() if norms else [])], **options)
    (rows,) = reader.values(range(inputs.last_position, inputs.last_position + generation.n_steps))
    return AttentionMaps(
        rows.mean(0),
        _texts(inputs.tokenizer, generation.tokens[0].tolist()),
        tuple(inputs.image_tokens),
        tuple(inputs.pictures[0]),
        heads,
        weighted,
        generation,
    )


def _texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token, without special tokens."""
    special = {*tokenizer.all_special_ids}
    return tuple("" if token in special else text for token, text in zip(ids, pieces(tokenizer, ids), strict=True))
