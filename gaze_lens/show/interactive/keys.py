"""What the viewer shows attention to: the tokens of a prompt's images, and where it is about text, those of its text.

keys = keys_of(inputs, spans)
keys.positions; keys.n_image; keys.regions["segment 2"]
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.layout import Group, Region
from gaze_lens.regions.segments import Passages
from gaze_lens.show.interactive.words import special_ids


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys of one prompt, those of its images first.

    positions: columns of the prompt; with cross-attention, of image tokens the indices of their keys.
    cross_attention: which of them are keys of cross-attention layers.
    n_image: how many belong to images; the others are the prompt's text, from its first token on, or there are none.
    regions: name -> region of text: the segments, then the spans.
    subject: what attention is summed over, in words. measured: indices of those keys. scaled: indices of the keys
        whose attention sets the scale of colours: none that is a special token, nor the first of the text, on which
        heads rest that look at nothing.
    """

    positions: Int[Tensor, " key"]
    cross_attention: Bool[Tensor, " key"]
    n_image: int
    regions: Mapping[str, Region]
    subject: str
    measured: Int[Tensor, " measured"]
    scaled: Int[Tensor, " scaled"]

    @property
    def text(self) -> tuple[int, ...]:
        """The positions of text among them."""
        return tuple(self.positions[self.n_image :].tolist())

    def indices(self, region: Region) -> list[int]:
        """Where the tokens of a region of text are among the keys."""
        at = {position: self.n_image + index for index, position in enumerate(self.text)}
        return [at[position] for position in region.positions[0] if position in at]


def keys_of(inputs: VLMInputs, spans: Sequence[Any] = ()) -> Keys:
    """The keys of a prompt. Text is among them if it has no image, or has passages, or spans were given."""
    of_images = [tokens.positions.cpu() for tokens in inputs.image_tokens]
    image = torch.cat(of_images) if of_images else torch.zeros(0, dtype=torch.long)
    regions = {**_segments(inputs), **_spans(inputs, spans)}
    about_text = bool(regions) or not of_images
    text = [p for p in inputs.text_positions[0] if p < inputs.answers[0]] if about_text else []
    subject, measured = _subject(inputs)
    special, ids = special_ids(inputs.tokenizer), inputs.input_ids[0].tolist()
    telling = [p for p in text[1:] if p in measured and ids[p] not in special] or sorted(measured)
    positions = torch.cat([image, torch.tensor(text, dtype=torch.long)])

    def indices(of_text: Container[int]) -> Int[Tensor, " index"]:
        chosen = [len(image) + i for i, position in enumerate(text) if position in of_text]
        return torch.tensor([*range(len(image)), *chosen])

    cross_attention = (torch.arange(len(positions)) < len(image)) & inputs.layout.cross_attention
    return Keys(positions, cross_attention, len(image), regions, subject, indices(measured), indices(telling))


def _segments(inputs: VLMInputs) -> dict[str, Region]:
    passages = next((source for source in inputs.sources[0] if isinstance(source, Passages)), None)
    return {} if passages is None else {name: inputs.region(name) for name in passages.names}


def _spans(inputs: VLMInputs, spans: Sequence[Any]) -> dict[str, Region]:
    """The regions of spans by their names; those of one name are numbered."""
    if isinstance(spans, str | Group | Region):
        raise InputError(f"spans={spans!r} was given; expected a list: spans=[inputs.span('the red car')].")
    regions: dict[str, Region] = {}
    taken = set(inputs.region_names(0))
    for span in spans:
        group = inputs.span(span) if isinstance(span, str) else span
        region = inputs.region(group) if isinstance(group, Group) else group
        if not isinstance(region, Region) or region.around is None:
            raise InputError(
                f"{span!r} was given as a span; expected text of the prompt, inputs.span(...), or a region of text."
            )
        region.check(inputs.layout)
        if max(region.positions[0]) >= inputs.answers[0]:
            raise InputError(f"The span {region.name!r} lies in the answer; the viewer shows attention to the prompt.")
        name = _free(region.name, taken)
        taken.add(name)
        regions[name] = region
    return regions


def _free(name: str, taken: set[str]) -> str:
    """The name, or where it is taken the name with the next number."""
    number = 1
    while (candidate := name if number == 1 else f"{name} ({number})") in taken:
        number += 1
    return candidate


def _subject(inputs: VLMInputs) -> tuple[str, set[int]]:
    """What attention is summed over, in words, and the positions of text that belong to it."""
    n_images = len(inputs.image_tokens)
    images = ["all images" if n_images > 1 else "the image"] * (n_images > 0)
    segments = {position for region in _segments(inputs).values() for position in region.positions[0]}
    if segments:
        return " and ".join([*images, "the segments"]), segments
    return (images[0], set()) if images else ("the prompt", set(inputs.text_positions[0]))
