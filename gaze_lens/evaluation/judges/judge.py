"""What a judge is given, what it says, and how it is asked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from gaze_lens.errors import JudgeError
from gaze_lens.regions.picture import Picture


@dataclass(frozen=True)
class Description:
    """A text, the region that it should be about, by name, and the picture, with the captions that it has."""

    text: str
    target: str
    picture: Picture


@dataclass(frozen=True)
class Judgement:
    """What a judge says of a description.

    match: the region that the text describes; None where it describes none, or several as well.
    correct: whether that is the target; None where there was an error, which is no miss.
    margin: by how much the match is ahead of the second, in the judge's own unit; None where it has none.
    detail: what the judgement rests on (scores by region, a reason); what JSON can hold.
    error: why there is no judgement; None where there is one.
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
    """Says which region a text describes. Subclass it and write `judge`, or write both methods.

    A judge whose `repr` tells it from all others keeps its judgements; one without a `__repr__` is asked anew.
    """

    def judge(self, description: Description) -> Judgement:
        """The judgement of one description. Raises JudgeError where it cannot be judged."""
        ...

    def judge_all(self, descriptions: Sequence[Description], *, progress: bool = True) -> list[Judgement]:
        """A judgement for each description, in order; where one cannot be judged, its `error` says why."""
        return [attempt(self, description) for description in tqdm(descriptions, "judging", disable=not progress)]


def attempt(judge: Judge, description: Description) -> Judgement:
    """A judgement; a JudgeError becomes its `error`."""
    try:
        return judge.judge(description)
    except JudgeError as error:
        return Judgement(None, None, error=str(error))
