"""What the rows about layers ask: about letters drawn on panels, or, where a model reads none, about the panels.

probe = probe_of(context)                # None where the model answers neither
prompts = probe.prompts(strips)          # in the natural and in the reversed order
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from gaze_lens import comics
from gaze_lens.comics.labels import NARRATE_LABELS, WORDINGS
from gaze_lens.errors import InputError
from gaze_lens.paper.context import Context
from gaze_lens.patching import OrderPrompts, order_prompts
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box

LETTERS = "".join(sorted(set(ascii_uppercase) - set("AI")))  # those two are words of English
DIGITS = "123456789"
READ = 0.5  # of the answers: a model that gives fewer as asked does not read what it is asked for
OWN = ("What happens in the {ordinal} panel from the left?", "Describe the {ordinal} panel.")


@dataclass(frozen=True)
class Labels:
    """Letters, or digits, drawn on the panels: the paper's strips."""

    labels: str = LETTERS
    label: str = "letter"
    seed: int = 0
    wording: str = WORDINGS[0]
    narrate: str = NARRATE_LABELS
    wordings: tuple[str, ...] = WORDINGS

    @property
    def has_labels(self) -> bool:
        """Whether the answers are labels drawn on the panels."""
        return True

    def pictures(self, strips: Sequence[Picture]) -> list[Picture]:
        """The strips, with labels. Raises InputError where they do not fit."""
        return [
            comics.labelled(strips[index], seed=self.seed * 100_003 + index, labels=self.labels)
            for index in range(len(strips))
        ]

    def natural(self, place: int) -> str:
        """The question about a panel."""
        return comics.letter(place, label=self.label, wording=self.wording)

    def prompts(self, strips: Sequence[Picture]) -> OrderPrompts:
        """The question about the first panel, in both orders."""

        def other(place: int) -> str:
            return comics.letter_reversed(place, label=self.label, wording=self.wording)

        return order_prompts(self.pictures(strips), self.natural, other)

    def notes(self, _context: Context) -> tuple[str, ...]:
        """What is different from the paper."""
        return ("The paper's prompts end in a colon; ours do, too, and the chat template follows.",)


@dataclass(frozen=True)
class OwnWords:
    """Questions about panels that the model was made to answer, and its own answers: the captions."""

    seed: int = 0
    wording: str = OWN[0]
    narrate: str = comics.NARRATE
    wordings: tuple[str, ...] = OWN

    @property
    def has_labels(self) -> bool:
        """Whether the answers are labels drawn on the panels."""
        return False

    def pictures(self, strips: Sequence[Picture]) -> list[Picture]:
        """The strips as they are."""
        return [strips[index] for index in range(len(strips))]

    def natural(self, place: int) -> str:
        """The question about a panel."""
        return self.wording.format(ordinal=comics.ORDINALS[place])

    def prompts(self, strips: Sequence[Picture]) -> OrderPrompts:
        """The question about the first panel, and that about the last one."""
        n_panels = len(strips[0].regions)
        return order_prompts(self.pictures(strips), self.natural, lambda place: self.natural(n_panels - 1 - place))

    def notes(self, context: Context) -> tuple[str, ...]:
        """What is different from the paper."""
        return (f"{reads_labels(context).said} So the same analysis runs with its own answers, the captions: the "
                "direction leads from the question about the first panel to that about the last.",)  # fmt: skip


Probe = Labels | OwnWords


@dataclass(frozen=True)
class Reading:
    """Whether the model reads labels: the shares of answers that are as asked, in both orders; None without strips
    that labels fit on."""

    natural: float | None
    other: float | None

    @property
    def reads(self) -> bool:
        """Whether more than half of the answers are as asked, in both orders."""
        return self.natural is not None and self.other is not None and min(self.natural, self.other) > READ

    @property
    def said(self) -> str:
        """In a sentence."""
        if self.natural is None or self.other is None:
            return "Letters do not fit on the panels."
        return (
            f"The model gives the letter on the first panel in {100 * self.natural:.0f} % of its answers, and that on "
            f"the last one, asked to read in reverse, in {100 * self.other:.0f} %: it does not read letters."
        )


def reads_labels(context: Context) -> Reading:
    """Whether the model reads letters, on the strips to choose on; measured once."""
    if "labels" not in context.kept:
        context.kept["labels"] = _reading(context, Labels(seed=context.settings.seed))
    return context.kept["labels"]


def _reading(context: Context, probe: Probe) -> Reading:
    try:
        table = probe.prompts(context.choosing).answered(context.model, progress=context.progress)
    except InputError:  # labels that do not fit, or strips without captions
        return Reading(None, None)
    return Reading(float(table.natural.mean()), float(table.other.mean()))


def probe_of(context: Context) -> Probe | None:
    """Labels where the model reads them, else its own words where it answers with the captions, else None."""
    if reads_labels(context).reads:
        return Labels(seed=context.settings.seed)
    if "own words" not in context.kept:
        context.kept["own words"] = _reading(context, OwnWords())
    return OwnWords() if context.kept["own words"].reads else None


def first_panels(strip: Picture, n: int) -> Picture:
    """The first n panels of a horizontal strip, cut off at the end of the n-th.

    Raises InputError for a strip whose panels are no columns.
    """
    names = list(strip.regions)[:n]
    bounds = [strip.region(name).bounds for name in names]
    rest = [strip.region(name).bounds for name in list(strip.regions)[n:]]
    end = max(box.x1 for box in bounds)
    if len(names) < n or any(box.x0 < end - 0.5 for box in rest):
        raise InputError(f"A strip of {len(strip.regions)} panels cannot be cut to its first {n}.")
    image = strip.image.crop((0, 0, round(end), strip.image.height))
    captions = {name: strip.captions[name] for name in names if name in strip.captions}
    pairs = zip(names, bounds, strict=True)
    regions = {name: Box(box.x0, box.y0, min(box.x1, image.width), box.y1) for name, box in pairs}
    return Picture(image, regions, captions, strip.fit)
