"""What `gl.track` returns: where heads looked, token by token, with its tables and files.

trajectory.looked_at; trajectory.mean; trajectory.entropy
described = trajectory.described_by_markers()
trajectory.agreement(described); trajectory.segments(described)
trajectory.table(); trajectory.to_csv("steps.csv"); trajectory.save("trajectory.safetensors")
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from gaze_lens.deprecation import renamed_attribute, renamed_keyword
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.html_tables import html_table
from gaze_lens.model.generation import Generation
from gaze_lens.runs.files import write_whole
from gaze_lens.runs.tensor_files import TensorFile
from gaze_lens.tracking import described, schedule_agreement

if TYPE_CHECKING:
    from pandas import DataFrame

FILE = TensorFile("gaze_lens trajectory 1", kind="a trajectory", writer="Trajectory.save(path)", error=InputError)
NUMBERS, IDS = ("mass", "on_image", "entropy", "sink"), ("tokens", "sequences")


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """`trajectory = gl.track(model, inputs, heads)`: where the heads looked, token by token.

    The numbers of a step are those of the query that produced its token; it is at the position before the token.
    mass: attention mass on each region, 0-1 (times value norms if `weighted`).
    on_image: attention mass on all image tokens, 0-1 (times value norms if `weighted`); where the regions are of text,
        on all that they are a part of, such as all segments of `gl.passages`. So is the entropy.
    entropy: of the attention among the image tokens, in bits: 0 where all of it is on one token, log2 of their number
        where it is even; NaN where none is on the image.
    sink: attention mass on the first text token of the prompt, 0-1, never weighted; 0 in cross-attention layers, whose
        keys are no text.
    heads, regions: the names along these axes. tokens: the text of each generated token.
    generation: the whole record of the generation; in a loaded trajectory, its texts and tokens only.
    weighted: whether attention was multiplied by the norm of each token's value vector.
    captions: region -> its caption, for the regions that have one.
    Raises InputError where the shapes of the fields do not match.
    """

    mass: Float[Tensor, "step head region"]
    on_image: Float[Tensor, "step head"]
    entropy: Float[Tensor, "step head"]
    sink: Float[Tensor, "step head"]
    heads: HeadSet
    regions: tuple[str, ...]
    tokens: tuple[str, ...]
    generation: Generation
    weighted: bool = False
    captions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = len(self.tokens), len(self.heads), len(self.regions)
        shapes = {name: tuple(getattr(self, name).shape) for name in NUMBERS}
        if shapes != {name: expected if name == "mass" else expected[:2] for name in NUMBERS}:
            raise InputError(
                f"A trajectory of {expected[0]} tokens, {expected[1]} heads and {expected[2]} regions was given "
                f"numbers of shapes {shapes}: expected one for each, in this order. Make it with gl.track."
            )

    @cached_property
    def mean(self) -> Float[Tensor, "step region"]:
        """Mass by region, the mean over heads."""
        return self.mass.mean(1)

    @property
    def looked_at(self) -> tuple[str, ...]:
        """For each token, the region with the largest mean mass."""
        return tuple(self.regions[index] for index in self.mean.argmax(-1).tolist())

    def described_by_markers(self, markers: Mapping[str, str] | None = None) -> described.Described:
        """`trajectory.described_by_markers()`: the region that each token describes, by names of regions in the text.

        From a marker to the next one, the text describes the marker's region; before the first it describes none.
        markers: region -> its marker; by default its name, so that "Panel 4:" begins panel 4. Upper and lower case do
            not matter.
        Raises InputError where no marker is in the text, and for equal markers; RegionError for regions that were not
        tracked.
        """
        return described.by_markers(self.tokens, self.regions, markers)

    def described_by_words(self, words: Mapping[str, Sequence[str]] | None = None) -> described.Described:
        """`trajectory.described_by_words()`: the region that each token describes, by words of one region only.

        Only the tokens of these words describe a region.
        words: region -> its words; by default the words of its caption that are in no other caption, function words
            included.
        Raises InputError where no such word is in the text, and without captions or words; RegionError for regions that
        were not tracked.
        """
        return described.by_words(self.tokens, self.regions, self.captions, words)

    def described_in(self, ranges: Sequence[tuple[range, str]]) -> described.Described:
        """`trajectory.described_in([(range(0, 12), "panel 1")])`: the region that each token describes, by ranges.

        Raises InputError for ranges outside the text and for overlapping ones, RegionError for regions that were not
        tracked.
        """
        return described.in_ranges(len(self.tokens), self.regions, ranges)

    @renamed_keyword("told", "described_regions")
    def agreement(self, described_regions: Sequence[str | None]) -> schedule_agreement.Agreement:
        """`trajectory.agreement(trajectory.described_by_markers())`: do the heads look at what the text describes?

        described_regions: for each token a region or None. Tokens with None are left out.
        """
        return schedule_agreement.agreement(self.mass, self.regions, described_regions)

    @renamed_keyword("told", "described_regions")
    def segments(self, described_regions: Sequence[str | None]) -> "DataFrame":
        """`trajectory.segments(described_regions)`: a row for each segment of the text that describes one region.

        described_regions: for each token a region or None.
        Columns: region; start, stop (steps, stop excluded); onset, the first step at which the heads' mean mass on the
        region is at least half of its peak in the segment, looked for from the start of the previous segment on; lag,
        the tokens from the start of the segment until attention reaches half its peak on that region (onset - start,
        negative where attention comes before the words); share, the part of the segment's mass on regions that is on
        this one. Onset, lag and share are NaN where there is no mass.
        """
        return schedule_agreement.segments(self.mean, self.regions, described_regions)

    stretches = renamed_attribute("stretches", "segments")

    @renamed_keyword("told", "described_regions")
    def lag(self, described_regions: Sequence[str | None]) -> float:
        """`trajectory.lag(described_regions)`: the median over segments, in tokens.

        The lag of a segment is the number of tokens from its start until attention reaches half its peak on that
        region; see `segments`. NaN where no segment has a lag.
        """
        return float(self.segments(described_regions)["lag"].median())

    @renamed_keyword("told", "described_regions")
    def switches(self, schedule: Sequence[tuple[int, Any]], described_regions: Sequence[str | None]) -> "DataFrame":
        """`trajectory.switches(schedule, described_regions)`: a row for each entry of the schedule of a steering.

        schedule: [(step, region or its name), ...], as for `gl.steer`.
        Columns: step; region; gaze, the tokens from the switch to the first whose `looked_at` is the region; words, the
        tokens from the switch to the first that describes the region. Both are 0 for the token of the switch itself,
        and NaN where this does not happen before the next switch or the end of the text.
        """
        return schedule_agreement.switches(self.looked_at, self.regions, described_regions, schedule)

    def table(self) -> "DataFrame":
        """`trajectory.table()`: a row for each step, head and region.

        Columns: step, token, looked_at (by the mean over heads), layer, head, name, region, mass, on_image, entropy,
        sink.
        """
        import pandas

        step, head, region = np.indices(self.mass.shape).reshape(3, -1)
        layers, numbers = np.array(self.heads.heads).T
        texts = {name: np.array(getattr(self, name), object)[step] for name in ("tokens", "looked_at")}
        return pandas.DataFrame(
            {"step": step, "token": texts["tokens"], "looked_at": texts["looked_at"]}
            | {"layer": layers[head], "head": numbers[head], "name": np.array(list(map(str, self.heads)), object)[head]}
            | {"region": np.array(self.regions, object)[region], "mass": self.mass.numpy()[step, head, region]}
            | {name: getattr(self, name).numpy()[step, head] for name in NUMBERS[1:]}
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """`trajectory.to_csv("steps.csv")`: the table; complete or not there at all."""
        write_whole(path, self.table().to_csv(index=False).encode())

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """`trajectory.to_jsonl("steps.jsonl")`: the table, a row in each line; complete or not there at all.

        NaN is written as null.
        """
        write_whole(path, self.table().to_json(orient="records", lines=True, force_ascii=False).encode())

    def save(self, path: str | os.PathLike[str]) -> None:
        """`trajectory.save("trajectory.safetensors")`: the file is complete or not there at all.

        Of the generation its texts, tokens and sequences are saved; captured activations are not.
        """
        heads = {name: getattr(self.heads, name) for name in ("model", "fingerprint", "provenance")}
        about = {
            "heads": {"heads": list(map(str, self.heads)), **heads},
            "regions": self.regions,
            "tokens": self.tokens,
            "texts": self.generation.texts,
            "weighted": self.weighted,
            "captions": dict(self.captions),
        }
        tensors = {name: getattr(self, name) for name in NUMBERS}
        tensors |= {f"generation.{name}": getattr(self.generation, name) for name in IDS}
        FILE.write(path, {name: tensor.clone() for name, tensor in tensors.items()}, about)  # they may share memory

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trajectory":
        """`Trajectory.load("trajectory.safetensors")`: what `save` wrote. Raises InputError for any other file."""
        with FILE.reading(path) as (tensors, about):
            numbers: dict[str, Any] = {name: tensors[name] for name in NUMBERS}
            ids: dict[str, Any] = {name: tensors[f"generation.{name}"] for name in IDS}
            heads = about["heads"]
            if "found" in heads:  # version 0.1
                heads["provenance"] = heads.pop("found")
            texts: dict[str, Any] = {name: tuple(about[name]) for name in ("regions", "tokens")}
            generation = Generation(tuple(about["texts"]), **ids)
            rest = {name: about[name] for name in ("weighted", "captions")}
            return cls(**numbers, **texts, **rest, heads=HeadSet(heads.pop("heads"), **heads), generation=generation)

    def __str__(self) -> str:
        return str(self.generation)

    def _repr_html_(self) -> str:
        rows = (
            [step, token, *map(float, mass)]
            for step, (token, mass) in enumerate(zip(self.tokens, self.mean, strict=True))
        )
        return html_table(f"{self!r}; mean over heads", ["step", "token", *self.regions], rows, tint=True)

    def __repr__(self) -> str:
        kind = "weighted " * self.weighted
        size = f"{len(self.tokens)} tokens, {len(self.heads)} heads, {len(self.regions)} regions"
        return f"Trajectory of {kind}attention over {size}: {', '.join(self.regions)}"
