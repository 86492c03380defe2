"""What `gl.track` returns: what heads looked at, token by token, with its tables and files.

trajectory.looked_at; trajectory.mean; trajectory.entropy
told = trajectory.described_by_markers()
trajectory.agreement(told); trajectory.stretches(told)
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

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
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
    """`trajectory = gl.track(model, inputs, heads)`: what the heads looked at, token by token.

    A step's numbers are of the query that produced its token: the position before it.
    mass: attention on each region, 0-1 (times value norms where `weighted`).
    on_image: the same on all image tokens.
    entropy: of the attention among the image tokens, in bits: 0 where one token has it all, log2 of their number where
        it is even; NaN where no attention is on the image.
    sink: attention mass on the prompt's first text token, 0-1, never weighted; 0 in cross-attention, which has no text.
    heads, regions: names along the axes. tokens: the text of each generated token.
    generation: the whole record; a loaded one has its text and tokens only.
    weighted: whether attention was weighted by the norm of each token's value vector.
    captions: region -> what it shows, as far as the picture says so.
    Raises InputError where the fields do not fit one another.
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
        """`told = trajectory.described_by_markers()`: the region that each token is about, by names in the text.

        markers: region -> the text that opens what is told about it, their names unless given ("Panel 4:" opens panel
            4; upper and lower case are one). It holds to the next marker, and before the first no region is described.
        Raises InputError where no marker is in the text, for equal ones, and for regions that were not tracked.
        """
        return described.by_markers(self.tokens, self.regions, markers)

    def described_by_words(self, words: Mapping[str, Sequence[str]] | None = None) -> described.Described:
        """`told = trajectory.described_by_words()`: the region that each token is about, by words that are its alone.

        words: region -> its words; unless given, those of its caption that no other region's caption has, function
            words too. Only the tokens of such words are about a region.
        Raises InputError where no such word is in the text, and without captions or words.
        """
        return described.by_words(self.tokens, self.regions, self.captions, words)

    def described_in(self, ranges: Sequence[tuple[range, str]]) -> described.Described:
        """`trajectory.described_in([(range(0, 12), "panel 1")])`: the region that each token is about, as told.

        Raises InputError for ranges outside the text, overlapping ones, and regions that were not tracked.
        """
        return described.in_ranges(len(self.tokens), self.regions, ranges)

    def agreement(self, told: Sequence[str | None]) -> schedule_agreement.Agreement:
        """`trajectory.agreement(told)`: how much of the looking is at what is being described.

        told: for each token a region or None, as `described_by_markers` and its like give it; None is left out.
        """
        return schedule_agreement.agreement(self.mass, self.regions, told)

    def stretches(self, told: Sequence[str | None]) -> "DataFrame":
        """`trajectory.stretches(told)`: a row for each stretch of text about one region.

        Columns: region, start, stop (steps, end excluded), onset, lag, share. The onset is the first step, counted from
        the previous stretch's start, at which the heads' mean mass on the region is at least half of its largest within
        the stretch; the lag is onset - start: negative where the gaze comes before the words. share: of the mass on
        regions within the stretch, on this one. NaN where there is none.
        """
        return schedule_agreement.stretches(self.mean, self.regions, told)

    def lag(self, told: Sequence[str | None]) -> float:
        """`trajectory.lag(told)`: the median lag of the stretches, in tokens; NaN where none has one."""
        return float(self.stretches(told)["lag"].median())

    def switches(self, schedule: Sequence[tuple[int, Any]], told: Sequence[str | None]) -> "DataFrame":
        """`trajectory.switches(schedule, told)`: a row for each entry of a schedule that the text was steered by.

        schedule: [(step, region or its name), ...], as for `gl.steer`.
        Columns: step, region, gaze (tokens from the switch to the first whose `looked_at` is the region), words (tokens
        from the switch to the first that is told about it), 0 for the very token of the switch; NaN where it does not
        come before the next switch, or the text had ended.
        """
        return schedule_agreement.switches(self.looked_at, self.regions, told, schedule)

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
        """`trajectory.to_jsonl("steps.jsonl")`: the table, a row to a line, null for NaN; complete or not there."""
        write_whole(path, self.table().to_json(orient="records", lines=True, force_ascii=False).encode())

    def save(self, path: str | os.PathLike[str]) -> None:
        """`trajectory.save("trajectory.safetensors")`: numbers, and in the header all else; complete or not there.

        Of the generation, its texts, tokens and sequences are kept; captured activations are not.
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
            numbers = {name: tensors[name] for name in NUMBERS}
            ids = {name: tensors[f"generation.{name}"] for name in IDS}
            heads = about["heads"]
            if "found" in heads:  # version 0.1
                heads["provenance"] = heads.pop("found")
            texts = {name: tuple(about[name]) for name in ("regions", "tokens")}
            generation = Generation(tuple(about["texts"]), **ids)
            rest = {name: about[name] for name in ("weighted", "captions")}
            return cls(**numbers, **texts, **rest, heads=HeadSet(heads.pop("heads"), **heads), generation=generation)

    def __str__(self) -> str:
        return str(self.generation)

    def __repr__(self) -> str:
        kind = "weighted " * self.weighted
        size = f"{len(self.tokens)} tokens, {len(self.heads)} heads, {len(self.regions)} regions"
        return f"Trajectory of {kind}attention over {size}: {', '.join(self.regions)}"
