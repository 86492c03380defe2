"""The image-attention viewer: hover over a word to see where the heads looked, over the image to see from which words.

viewer = gl.show.attention(model, inputs, heads, max_new_tokens=60)
viewer                                          # in Jupyter: drag a box, and the heads are steered to it
viewer.save("attention.html")                   # one file, which loads nothing
"""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.steering import MODES, Mode, boost_and_suppress, steer
from gaze_lens.model_protocol import Model
from gaze_lens.regions.layout import Group, Region
from gaze_lens.runs.files import write_whole
from gaze_lens.show.interactive.keys import Keys, keys_of
from gaze_lens.show.interactive.packing import packed_rows
from gaze_lens.show.interactive.page import arrays_of, header_of, page
from gaze_lens.show.interactive.recording import Recording, check, record
from gaze_lens.show.interactive.words import special_ids
from gaze_lens.show.pages.templates import render
from gaze_lens.text.token_texts import pieces

STRENGTHS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 10_000.0)


@dataclass(frozen=True, eq=False)
class Steered:
    """A steered answer.

    positions: of the tokens steered to. words: the answer's tokens as text. attention: of each word to every key of
    the viewer, mean over the heads, 0-1.
    """

    region: str
    positions: tuple[int, ...]
    words: tuple[str, ...]
    attention: Float[np.ndarray, "word key"]


def attention(
    model: Model,
    inputs: VLMInputs,
    heads: HeadSet | Sequence[Any],
    *,
    scores: Any = None,
    spans: Sequence[Any] = (),
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
    prompt_words: int = 64,
    **options: Any,
) -> "AttentionViewer":
    """`gl.show.attention(model, inputs, heads)`: an interactive view of where heads look, word by word.

    inputs: one prompt, about images, passages, both, or neither. An answer is generated, unless the prompt was
        prepared with `answers=`: then that answer is read.
    heads: the heads that are recorded and steered: a HeadSet, or what makes one (["L3H5", (2, 1)]).
    scores: HeadScores, or an array [layer, head], by which the grid of heads is coloured.
    spans: texts of the prompt that are shown as named regions: what `inputs.span` returns or takes, or regions of text.
    fwd_hooks: run under these, a steering for example.
    prompt_words: how many of the prompt's last text tokens are recorded, besides the answer.
    options: for `model.generate` (max_new_tokens, ...), here and when the viewer steers.
    Of every pattern only the rows of recorded words are stored, and of these the columns of image tokens; where the
    prompt has no image, or passages or spans, the columns of its text too. A byte for each value.
    Raises as `recording.record`; InputError for scores of another shape, RegionError for spans that are not there.
    """
    check(inputs, options)
    keys = keys_of(inputs, spans)
    recording = record(model, inputs, heads, keys=keys, fwd_hooks=fwd_hooks, prompt_words=prompt_words, **options)
    header = header_of(model, inputs, recording, scores, keys)
    return AttentionViewer(model, inputs, recording, header, keys, tuple(fwd_hooks), options)


@dataclass(frozen=True, eq=False, repr=False)
class AttentionViewer:
    """The viewer, which notebooks show and which can be saved as a page.

    recording: what was recorded; `recording.attention()` is [head, word, key].
    header: everything else in the page, as JSON. keys: what attention was recorded to.
    """

    model: Model
    inputs: VLMInputs
    recording: Recording
    header: Mapping[str, Any]
    keys: Keys
    fwd_hooks: tuple[tuple[Any, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> tuple[str, ...]:
        """The answer's tokens, as text."""
        return tuple(word["text"] for word in self.header["words"] if word["kind"] == "answer")

    @property
    def can_steer(self) -> bool:
        """Whether the answer was generated: one from `answers=` cannot be steered."""
        return self.recording.start == self.inputs.layout.length

    def steer(self, where: Any, *, image: int | None = None, mode: Mode | None = None) -> Steered:
        """`viewer.steer("panel 4")`: the answer when the viewer's heads are steered to a region.

        where, image: as for `inputs.region`, or the name of one of the viewer's spans. mode: as for `gl.steer`.
        Raises RegionError for regions that hold no token, InputError for an answer from `answers=`.
        """
        if not self.can_steer:
            raise InputError("This answer was given, not generated; prepare the prompt without answers= to steer.")
        region = self._region(where, image)
        hooks = [*self.fwd_hooks, *steer(self.recording.heads, region, mode=mode)]
        inputs = self.inputs if self.fwd_hooks or not self.inputs.maps else self._encoded  # a hook may be on the tower
        recording = record(
            self.model, inputs, self.recording.heads, keys=self.keys, fwd_hooks=hooks, prompt_words=0, **self.options
        )
        special = special_ids(self.inputs.tokenizer)
        written = [step for step, token in enumerate(recording.answer) if token not in special]
        return Steered(region.name, region.positions[0], self._text(recording.answer), recording.mean()[written])

    def _region(self, where: Any, image: int | None) -> Region:
        """What is steered to. The page counts the prompt's text as the image after its last one."""
        if image == len(self.inputs.pictures[0]):
            image = None
        if isinstance(where, str) and where in self.keys.regions and image is None:
            return self.keys.regions[where]
        if not isinstance(where, Group):
            return self.inputs.region(where, image=image)
        segments = self.inputs.layout.all_segments
        inside = segments and set(where.rows[0]) <= set(segments[0])
        return self.inputs.region(where, around=Group("the segments", segments, where.layout) if inside else "text")

    @cached_property
    def _encoded(self) -> VLMInputs:
        """The inputs with their images encoded, once for all steered answers."""
        return self.model.encode(self.inputs)

    def _text(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Tokens as text, without special tokens."""
        special = special_ids(self.inputs.tokenizer)
        return tuple(pieces(self.inputs.tokenizer, [token for token in tokens if token not in special]))

    def to_html(self, *, steered: Sequence[str] = (), mode: Mode | None = None) -> str:
        """The page as text; arguments as for `save`."""
        header = dict(self.header)
        if steered:
            mode = boost_and_suppress() if mode is None else mode
            header["steering"] = {**self._steering(), "answers": self._answers(steered, mode), "given": _describe(mode)}
        return page(header, arrays_of(header, self.recording), title=str(self).splitlines()[0])

    def save(self, path: str | os.PathLike[str], *, steered: Sequence[str] = (), mode: Mode | None = None) -> None:
        """`viewer.save("attention.html", steered=list(strip.regions))`: one file, written whole or not at all.

        steered: names of regions; the page shows the answer steered to each when it is clicked. Without them, a page
            has nothing to steer with. mode: as for `gl.steer`.
        Raises InputError for another suffix than .html, RegionError for a name that no picture has.
        """
        if Path(path).suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{path} cannot be written: expected a name that ends in .html.")
        write_whole(path, self.to_html(steered=steered, mode=mode).encode())

    def _answers(self, names: Sequence[str], mode: Mode) -> list[dict[str, Any]]:
        if isinstance(names, str):
            raise InputError(f"steered={names!r} was given; expected a list of names, such as [{names!r}].")
        regions = self.header["regions"]
        unknown = sorted(set(names) - {region["name"] for region in regions})
        if unknown:
            expected = ", ".join(region["name"] for region in regions) or "none"
            raise RegionError(f"No picture has a region {', '.join(map(repr, unknown))}: expected some of {expected}.")
        selected = [(region["name"], region["image"]) for region in regions if region["name"] in names]
        return [
            {"region": name, "image": image, **message(self.steer(name, image=image, mode=mode))}
            for name, image in selected
        ]

    def _steering(self) -> dict[str, Any]:
        """What a page needs in order to show steered answers."""
        heads = self.recording.heads
        return {"heads": str(heads), "n": len(heads), "baseline": self._text(self.recording.answer), "live": False}

    @cached_property
    def widget(self) -> Any:
        """The viewer as an anywidget, for notebooks; needs the extra `notebooks`.

        Raises InputError where anywidget is not installed.
        """
        if importlib.util.find_spec("anywidget") is None:
            raise InputError(
                "The live viewer needs anywidget: pip install 'gaze-lens[notebooks]'. Without it, save the viewer as a "
                "page: viewer.save('attention.html')."
            )
        from gaze_lens.show.interactive.widget import AttentionWidget

        controls = {"modes": [mode.__name__ for mode in MODES], "strengths": STRENGTHS, "answers": [], "live": True}
        header = {**self.header, "steering": {**self._steering(), **controls} if self.can_steer else None}
        return AttentionWidget(self, header, arrays_of(header, self.recording))

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget for Jupyter; where anywidget is not installed, the page in a frame, which cannot steer."""
        if importlib.util.find_spec("anywidget") is not None:
            return self.widget._repr_mimebundle_(**options)
        frame = render("frame.html", page=self.to_html(), can_steer=self.can_steer)
        return {"text/plain": str(self), "text/html": frame}

    def _display_(self) -> Any:
        """What marimo shows."""
        return self.widget

    def __str__(self) -> str:
        heads, shape = self.recording.heads, self.recording.levels.shape
        who = f"{len(heads)} heads look" if len(heads) > 1 else f"{heads} looks"
        size = f"{shape[1]} words x {shape[2]} tokens"
        return f"Where {who}, word by word ({size})\n{''.join(self._text(self.recording.answer))}"

    def __repr__(self) -> str:
        return f"AttentionViewer: {str(self).splitlines()[0]}"


def message(steered: Steered) -> dict[str, Any]:
    """What the page is told of a steered answer."""
    return {"words": steered.words, "attention": packed_rows(steered.attention)}


def _describe(mode: Mode) -> str:
    """The four numbers of a mode as a sentence."""
    return (
        f"added to scores, in logits, {mode.target:g} on the region, {mode.others:g} on the rest of the image or text "
        f"that it is a part of, "
        f"{mode.prompt:g} on the prompt and {mode.generated:g} on the answer"
    )
