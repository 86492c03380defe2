"""An answer about one region of a picture, and whether it is about that region."""

from dataclasses import dataclass

from gaze_lens.evaluation.judges import CaptionMatch, Description, ExactDescription
from gaze_lens.regions.picture import Picture


@dataclass(frozen=True)
class Answer:
    """What the model said when one region was the target.

    picture: its index among those evaluated. target: the region that the answer should be about, by name.
    text: the answer. chosen: the region whose caption it matches best, None for a tie or hardly any match.
    exact: whether it is the target's caption word for word.
    """

    picture: int
    target: str
    text: str
    chosen: str | None
    exact: bool

    @property
    def hit(self) -> bool:
        """Whether the forced choice fell on the target."""
        return self.chosen == self.target


def answer(index: int, picture: Picture, target: str, text: str) -> Answer:
    """Judge a text about `target` in a picture: forced choice (`CaptionMatch`) and word for word."""
    said = Description(text, target, picture)
    chosen, exact = CaptionMatch().judge(said), ExactDescription().judge(said)
    return Answer(index, target, text, chosen.match, bool(exact.correct))
