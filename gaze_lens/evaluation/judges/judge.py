"""The protocol of judges: what a judge is given, and what it returns."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from gaze_lens.errors import JudgeError
from gaze_lens.regions.segments import Passages, Source
from gaze_lens.runs.progress import Bar


@dataclass(frozen=True)
class Description:
    """A text, the name of the region that it should describe, and the picture or passages, with captions if any."""

    text: str
    target: str
    picture: Source


@dataclass(frozen=True)
class Judgement:
    """A judge's answer about one description.

    match: the region that the text describes; None if it describes none, or several equally well.
    correct: whether the match is the target; None if there was an error. An error is no miss.
    margin: by how much the match is ahead of the second, in the judge's own unit; None if the judge has no unit.
    detail: the reasons (scores by region, or a sentence); only what JSON can hold.
    error: why there is no judgement; None if there is one.
    """

    match: str | None
    correct: bool | None
    margin: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@runtime_checkable
class Judge(Protocol):
    """Decides which region a text describes. Subclass it and write `judge`, or write both methods.

    The repr is the cache key: write a `__repr__` that names all settings. Without it, judgements are recomputed.
    """

    def judge(self, description: Description) -> Judgement:
        """The judgement of one description. Raises JudgeError if it cannot be judged."""
        ...

    def judge_all(self, descriptions: Sequence[Description], *, progress: bool = True) -> list[Judgement]:
        """One judgement for each description, in order. If one cannot be judged, its `error` says why."""
        return [attempt(self, description) for description in Bar(descriptions, "judging", disable=not progress)]


def attempt(judge: Judge, description: Description) -> Judgement:
    """A judgement; a JudgeError becomes its `error`."""
    try:
        return judge.judge(description)
    except JudgeError as error:
        return Judgement(None, None, error=str(error))


def crop(picture: Source, name: str) -> Image.Image:
    """The part of the picture inside a region's bounds, rounded outwards to full pixels. JudgeError for passages."""
    if isinstance(picture, Passages):
        raise JudgeError("Passages of text have no picture to look at; use a judge that compares texts (CaptionMatch).")
    box = picture.region(name).bounds
    width, height = picture.image.size
    left, upper = max(0, math.floor(box.x0)), max(0, math.floor(box.y0))
    return picture.image.crop((left, upper, min(width, math.ceil(box.x1)), min(height, math.ceil(box.y1))))
