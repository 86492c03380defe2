"""`VLMInputs`: pictures and prompts as inputs of a model, with the position of every image token.

inputs = model.prepare(strip, ["What is going on?", "What is left out?"])
inputs.image_tokens[0]; inputs.region("panel 4"); inputs.str_tokens(row=1); inputs[0]
model(inputs); model.run_with_cache(inputs); patching.get_act_patch_resid_pre(model, inputs, cache, metric)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.errors import InputError, RegionError
from gaze_lens.families import PER_IMAGE, PER_VIDEO, Features, TokenMap
from gaze_lens.inputs.frame_regions import positions_in_videos
from gaze_lens.inputs.region_names import Named, in_image, names_of
from gaze_lens.inputs.token_ids import ActsAsTokenIds
from gaze_lens.regions.heat_map import HeatMap
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Group, Layout, Region
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.segments import Passages
from gaze_lens.regions.shapes import Box
from gaze_lens.regions.video import SampledVideo, Seconds, VideoFrames
from gaze_lens.runs.digests import digest
from gaze_lens.text.spans import span_of
from gaze_lens.text.token_texts import single_tokens


@dataclass(frozen=True, eq=False)
class VLMInputs(ActsAsTokenIds):
    """A batch of prompts about pictures; accepted wherever TransformerLens runs a model on tokens.

    Indices and comparisons are those of the token ids, names those of the tensors: `inputs[0]`,
    `inputs["pixel_values"]`.

    tensors: the arguments of the model's forward, `input_ids` `[row, position]` first. Rows are padded on the left.
    pictures: for each row, its pictures, and in the place of a video one of each of its moments.
    prompts: for each row, the text for the tokenizer.
    image_tokens: one `ImageTokens` per image, row by row.
    layout: the positions of images and text; regions are bound to it. If `layout.cross_attention`, the model reads the
        image by cross-attention, and the positions of image tokens are keys of the cross-attention layers.
    answers: for each row, the position of the answer's first token (the length where there is no answer).
    maps: one `TokenMap` per image, row by row, from which `image_tokens` was made.
    features: the encoded images that `model.encode` adds in place of the pixels, or None.
    passages: for each row, its `gl.passages`, or None; () where no row has any. `layout.segments` says where they are.
    videos: for each row, its videos, with the frames that the model sees; () where no row has any. The tokens of each
        moment are an `ImageTokens`, whose `moment` has their frames and time.
    """

    tensors: Mapping[str, Tensor]
    pictures: tuple[tuple[Picture, ...], ...]
    prompts: tuple[str, ...]
    image_tokens: tuple[ImageTokens, ...]
    layout: Layout
    answers: tuple[int, ...]
    tokenizer: Any = field(repr=False)
    maps: tuple[TokenMap, ...] = field(repr=False)
    features: Features | None = field(default=None, repr=False)
    passages: tuple[Passages | None, ...] = ()
    videos: tuple[tuple[SampledVideo, ...], ...] = ()

    @property
    def input_ids(self) -> Int[Tensor, "row position"]:
        """The token ids, padded on the left."""
        return self.tensors["input_ids"]

    @property
    def encoded_features(self) -> Features:
        """`features`; InputError where there are none."""
        if self.features is None:
            raise InputError("These inputs hold no encoded images; give model.encode(inputs).")
        return self.features

    @property
    def n_rows(self) -> int:
        """The number of prompts in the batch."""
        return len(self.prompts)

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        images = ", ".join(str(len(tokens)) for tokens in self.image_tokens) or "no"
        segments = f", {sum(map(len, self.layout.segments))} segments of text" if self.passages else ""
        return f"VLMInputs({self.n_rows} rows x {self.layout.length} positions, {images} image tokens{segments})"

    def region_names(self, row: int = 0) -> tuple[str, ...]:
        """`inputs.region_names()`: the named regions of a row's images, then its segments of text.

        A name that several images have is followed by its image: "panel 3 of image 2".
        """
        return tuple(names_of(self.sources[self._row(row)]))

    @property
    def sources(self) -> tuple[tuple[Named, ...], ...]:
        """For each row, what its prompt is about, which has named regions: its pictures and videos, then passages."""
        passages = self.passages or (None,) * self.n_rows
        rows = zip(map(self._seen, range(self.n_rows)), passages, strict=True)
        return tuple(seen if one is None else (*seen, one) for seen, one in rows)

    def _seen(self, row: int) -> tuple[Named, ...]:
        """A row's pictures and videos in the order of the prompt."""
        videos = [one.moment.video if isinstance(one, VideoFrames) else None for one in self.pictures[row]]
        seen: list[Named] = []
        for index, (picture, video) in enumerate(zip(self.pictures[row], videos, strict=True)):
            if video is None:
                seen.append(picture)
            elif video not in videos[:index]:
                seen.append(self.videos[row][video])
        return tuple(seen)

    def arguments(self, copies: int = 1) -> dict[str, Any]:
        """The keyword arguments of the model's forward, other than `input_ids`.

        copies: how often each row is run; copies of a row are adjacent, as beams are. More than one copy needs encoded
            images, which the copies share.
        """
        images = self.images_by_row(copies)
        if copies > 1 and self.maps and self.features is None:
            raise InputError("Copies of rows share encoded images; give model.encode(inputs) with copies=.")
        arguments = {name: tensor for name, tensor in self.tensors.items() if name != "input_ids"}
        if copies > 1:
            rows = [row for row in range(self.n_rows) for _ in range(copies)]
            arguments = {name: tensor[self.entries(name, rows)] for name, tensor in arguments.items()}
        if self.features is not None:
            arguments |= self.features.arguments(images)
        return arguments

    def entries(self, name: str, rows: Sequence[int]) -> list[int]:
        """For a forward of some rows, the entries of a tensor: of each row, or of each of its images or videos."""
        if not name.startswith((PER_IMAGE, *PER_VIDEO)):
            return list(rows)
        if name.startswith(PER_IMAGE):
            counts = [sum(not isinstance(one, VideoFrames) for one in pictures) for pictures in self.pictures]
        else:
            counts = [len(row) for row in self.videos]
        return [sum(counts[:row]) + index for row in rows for index in range(counts[row])]

    def images_by_row(self, copies: int = 1) -> list[list[int]]:
        """For `copies` of every row, the indices of its images among `maps`."""
        remaining = iter(range(len(self.maps)))
        rows = [[next(remaining) for _ in pictures] for pictures in self.pictures]
        return [row for row in rows for _ in range(copies)]

    def to(self, device: Any) -> "VLMInputs":
        """The same inputs with their tensors, and encoded images, on another device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        features = self.features and self.features.to(device)
        return replace(self, tensors=tensors, features=features)

    def clone(self) -> "VLMInputs":
        """The same inputs with copies of their tensors and encoded images."""
        tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, features=self.features and self.features.clone())

    @property
    def last_position(self) -> int:
        """The position of the last token, the same in every row; the answer's where there is one, else the prompt's."""
        return self.layout.length - 1

    @property
    def last_logits(self) -> Int[Tensor, " 1"]:
        """The value for `logits_to_keep` where attention is read and only the last logits are needed.

        The number 1 would keep the same logits, but lets Gemma 4 drop all other queries in its last layers.
        """
        return torch.tensor([self.last_position])

    @property
    def text_positions(self) -> tuple[tuple[int, ...], ...]:
        """For each row, the positions of all tokens that are neither image tokens nor padding.

        Where the model reads the image by cross-attention, its placeholder is one of them.
        """
        return self.layout.text

    @property
    def answer_positions(self) -> tuple[tuple[int, ...], ...]:
        """For each row, the positions whose next token belongs to the answer (empty without answers)."""
        last = self.layout.length - 1
        return tuple(tuple(range(start - 1, last)) if start <= last else () for start in self.answers)

    def region(
        self,
        where: Any,
        *,
        image: int | None = None,
        rule: str = "centre",
        around: Group | str | None = None,
        seconds: tuple[float, float] | None = None,
    ) -> Region:
        """The image tokens of a region, bound to this layout; or tokens of the text, of a `span` or a segment.

        where: the name of a picture's region or of a passage ("segment 1"), a shape, (x0, y0, x1, y1) or a point (x, y)
            in original pixels; or a list of these, one per row. Where a row has several images, "panel 3 of image 2",
            and "image 2" for all of it, counted from 1. A `HeatMap`, or one per row, gives tokens weights, for `steer`.
            Of a video, "frame 3" of the frames that were given, "video 1", a shape in all its frames,
            `gl.Seconds(2.0, 3.5)`, or {"frame 3": box, "frame 9": box}, a box that moves.
        seconds: of a video, only the tokens of this time; with rule="overlap" all whose frames are shown in it.
        image: the zero-based index of an image in its row; needed for a shape where a row has several images.
        rule: "centre" selects tokens whose centre lies in the region, "overlap" all that share area with it.
        around: only for a span: what the region is a part of, whose other tokens are its `others`: "text" for all text
            of the prompt, or a Group; nothing else unless given. A segment is a part of all segments of its prompt.
        Raises RegionError for unknown names, regions outside the image, and regions that contain no token.
        """
        if isinstance(where, Group) or around is not None:
            return self._region_of_text(where, around)
        per_row = isinstance(where, list) and not all(isinstance(value, Real) for value in where)
        wheres = where if per_row else [where] * self.n_rows
        if len(wheres) != self.n_rows:
            raise RegionError(f"{len(wheres)} regions were given for {self.n_rows} rows; give one, or one per row.")
        if any(isinstance(single, HeatMap) for single in wheres) and seconds is None:
            return self._weighted_region(wheres, image)
        positions = tuple(
            self.positions_of(single, row=row, image=image, rule=rule, seconds=seconds)
            for row, single in enumerate(wheres)
        )
        of_text = [image is None and self._segment(single, row) is not None for row, single in enumerate(wheres)]
        if any(of_text) and not all(of_text):
            raise RegionError(
                f"{wheres} name segments of text in some rows and regions of images in others; make a region of each."
            )
        around_all = self.layout.all_segments if any(of_text) else None
        name = ", ".join(dict.fromkeys(map(label_of, wheres)))
        return Region(
            name if seconds is None else f"{name} {label_of(Seconds(*seconds))}", positions, self.layout, around_all
        )

    def _weighted_region(self, heat_maps: list[Any], image: int | None) -> Region:
        """The region of one heat map per row: the tokens on which it is above 0, with its mean over each."""
        if not all(isinstance(heat_map, HeatMap) for heat_map in heat_maps):
            raise RegionError(
                "Heat maps were given for some rows, and other regions for others; make a region of each."
            )
        rows = []
        for row, heat_map in enumerate(heat_maps):
            tokens = self._tokens_for(row, heat_map, image)
            pairs = zip(tokens.positions.tolist(), tokens.weights(heat_map).tolist(), strict=True)
            rows.append({position: weight for position, weight in pairs if weight > 0})
        name = ", ".join(dict.fromkeys(heat_map.name for heat_map in heat_maps))
        weights = tuple(tuple(row.values()) for row in rows)
        return Region(name, tuple(map(tuple, rows)), self.layout, None, weights)

    def _region_of_text(self, where: Any, around: Group | str | None) -> Region:
        """The region of a Group of text."""
        if not isinstance(where, Group) or where.cross_attention:
            raise RegionError(
                f"around= was given for {where!r}; it says what a span of text is a part of: inputs.region(inputs.span("
                '"a cat"), around="text").'
            )
        where.check(self.layout)
        if isinstance(around, Group):
            around.check(self.layout)
            return Region(where.name, where.rows, self.layout, around.rows)
        if around not in (None, "text"):
            raise RegionError(f'around={around!r} was given; give "text", a Group such as inputs.span(...), or None.')
        return Region(where.name, where.rows, self.layout, where.rows if around is None else self.layout.text)

    def positions_of(
        self,
        where: Any,
        *,
        row: int = 0,
        image: int | None = None,
        rule: str = "centre",
        seconds: tuple[float, float] | None = None,
    ) -> tuple[int, ...]:
        """The positions of a region's tokens in one row; arguments and errors as for `region`."""
        if isinstance(where, HeatMap):
            raise RegionError("A heat map has no positions of its own; make a region of it: inputs.region(heat_map).")
        segment = self._segment(where, self._row(row)) if image is None and seconds is None else None
        if segment is not None:
            return self.layout.segments[row][segment]
        if image is not None and seconds is not None:
            raise RegionError(f"image={image} and seconds={seconds} were given; images have no time. Give one of them.")
        of_video = positions_in_videos(self, row, where, seconds=seconds, rule=rule) if image is None else None
        if of_video is not None:
            return of_video
        if seconds is not None:
            raise RegionError(f"{where!r} is no region of a video, and seconds={seconds} were given; leave them out.")
        own, image = in_image(where, self.pictures[row], image)
        tokens = self._tokens_for(row, own, image)
        if own is None and isinstance(where, str):  # "image 2"
            return tuple(tokens.positions.tolist())
        if not isinstance(own, str):
            return tuple(tokens.select(own, rule=rule).tolist())
        shape = self.pictures[row][tokens.image].region(own)
        try:
            return tuple(tokens.select(shape, rule=rule).tolist())
        except RegionError as error:
            raise RegionError(f"Region '{where}' in row {row}: {error}") from error

    def span(self, text: str | list[str], *, occurrence: int | None = None) -> Group:
        """`inputs.span("fourth")`: the tokens of a text in every prompt; a list has one text for each row.

        occurrence: which one, zero-based, where the text occurs several times; -1 is the last.
        Raises RegionError where it does not occur, or occurs several times and no occurrence is given.
        """
        texts = text if isinstance(text, list) else [text] * self.n_rows
        if len(texts) != self.n_rows:
            raise RegionError(f"{len(texts)} texts were given for {self.n_rows} rows; give one, or one per row.")
        spans = []
        for row, row_text in enumerate(texts):
            positions = self.layout.text[row]
            ids = self.input_ids[row, list(positions)].tolist()
            tokens = span_of(self.tokenizer, ids, row_text, occurrence=occurrence)
            spans.append(positions[tokens.start : tokens.stop])
        return Group(", ".join(dict.fromkeys(texts)), tuple(spans), self.layout)

    def _segment(self, where: Any, row: int) -> int | None:
        """The index of a row's segment by its name; None for anything else."""
        names = next((source.names for source in self.sources[row] if isinstance(source, Passages)), ())
        if not isinstance(where, str) or where not in names:
            return None
        if any(where in picture.regions for picture in self.pictures[row]):
            raise RegionError(
                f"{where!r} is the name of a segment of text and of a region of an image in row {row}; give the "
                "passages other names, gl.passages(texts, names=[...])."
            )
        return names.index(where)

    def _row(self, row: int) -> int:
        """The index of a row; InputError where there is no such row."""
        if row not in range(self.n_rows):
            raise InputError(f"There is no row {row}; these inputs have rows 0 to {self.n_rows - 1}.")
        return row

    def _tokens_for(self, row: int, where: Any, image: int | None) -> ImageTokens:
        """The tokens of the image that has a region; RegionError where no image of a row has it, or several have."""
        pictures = self.pictures[row]
        if not pictures and self.sources[row]:
            names = [name for source in self.sources[row] for name in source.regions]
            raise RegionError(f"Row {row} has no image, and no segment {where!r}; it has {names}.")
        if not pictures:
            raise RegionError(f"Row {row} has no image, so it has no region {where!r}. Prepare it with an image.")
        if image is not None and image not in range(len(pictures)):
            raise RegionError(f"Row {row} has no image {image}; give image=0 to image={len(pictures) - 1}.")
        allowed = {n: picture for n, picture in enumerate(pictures) if image in (None, n)}
        matches = [n for n, picture in allowed.items() if not isinstance(where, str) or where in picture.regions]
        if not matches:
            names = [name for picture in allowed.values() for name in picture.regions]
            raise RegionError(f"No picture of row {row} has a region {where!r}; it has {names or 'no named regions'}.")
        if len(matches) > 1:
            raise RegionError(
                f"Row {row} has {len(pictures)} images, and {where!r} may be in {len(matches)} of them; say which with "
                'image=0, image=1, ..., or by name: "panel 3 of image 2".'
            )
        return self._tokens(row, matches[0])

    def _tokens(self, row: int, image: int) -> ImageTokens:
        """The tokens of one image, by row and index in the row."""
        tokens = self._by_index.get((self._row(row), image))
        if tokens is None:
            raise InputError(f"There is no image {image} in row {row}; row {row} has {len(self.pictures[row])} images.")
        return tokens

    @cached_property
    def _by_index(self) -> dict[tuple[int, int], ImageTokens]:
        """(row, index of the image in the row) -> its tokens."""
        return {(tokens.row, tokens.image): tokens for tokens in self.image_tokens}

    def str_tokens(self, row: int = 0, *, collapse: bool = False) -> list[str]:
        """The tokens of a row as text, one for every position, padding included.

        collapse: for reading: without padding, and with a run of image tokens as one entry.
        An image that the model reads by cross-attention is shown as its placeholder.
        """
        ids = self.input_ids[self._row(row)].tolist()
        texts = single_tokens(self.tokenizer, ids)
        if not collapse:
            return texts
        strings: list[str] = []
        images = set() if self.layout.cross_attention else set(self.layout.images[row])
        for is_image, run in groupby(sorted(images | set(self.layout.text[row])), images.__contains__):
            positions = list(run)
            strings.extend([f"<image: {len(positions)} tokens>"] if is_image else [texts[p] for p in positions])
        return strings

    def heatmap(
        self, values: Float[Tensor, " position"], *, row: int = 0, image: int = 0
    ) -> Float[Tensor, "height width"]:
        """Values over a row's positions (such as one attention row) as a map of one of its images.

        Values of positions after the prompt (generated tokens) are ignored. Where the model reads the image by
        cross-attention, the values are over the keys of a cross-attention layer.
        """
        tokens = self._tokens(row, image)
        if len(values) < self.layout.n_keys:
            kind = "keys of the cross-attention layers" if self.layout.cross_attention else "positions"
            raise InputError(
                f"{len(values)} values were given for {self.layout.n_keys} {kind}; give one for every key, as in "
                "pattern[row, head, -1]. For one value per image token use image_tokens[i].heatmap."
            )
        return tokens.heatmap(values.cpu()[tokens.positions])


def label_of(where: Any) -> str:
    """The name of a region in messages and figures."""
    if isinstance(where, str):
        return where
    if isinstance(where, Seconds):
        return f"{where.start:g} to {where.end:g} s"
    if where is None or isinstance(where, Mapping):
        return "video" if where is None else "moving region"
    if isinstance(where, list | tuple) and all(isinstance(value, Real) for value in where):
        return f"{'point' if len(where) == 2 else 'box'} {' '.join(f'{value:g}' for value in where)}"
    return f"box {where.x0:g} {where.y0:g} {where.x1:g} {where.y1:g}" if isinstance(where, Box) else "shape"


def pixel_keys(inputs: VLMInputs) -> list[str]:
    """A key for each image, in order: equal keys mean equal pixels and equal token boxes.

    The boxes of equal pixels can differ: LLaVA-OneVision cuts tiles only of an image that is alone in its prompt.
    """
    shown = [_shown(picture) for pictures in inputs.pictures for picture in pictures]
    return [
        digest(repr(images[0].size), *(image.tobytes() for image in images), token_map.boxes.numpy().tobytes())
        for images, token_map in zip(shown, inputs.maps, strict=True)
    ]


def _shown(picture: Picture) -> tuple[Any, ...]:
    """The images that the tokens of a picture stand for: several of a video, in which frames are merged."""
    return picture.images if isinstance(picture, VideoFrames) else (picture.image,)
