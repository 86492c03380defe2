"""A narration with targets in your own order; and the functions of version 0.1 that `gl.evaluate` replaces.

generation, steps, pieces = switch_at_panel_ends(model, strip, heads, ["panel 4", "panel 1", "panel 2"], end=".")
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gaze_lens.comics.questions import NARRATE, OPEN, ask
from gaze_lens.deprecation import warn_renamed
from gaze_lens.errors import InputError, ModelError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.generate import generate_answers
from gaze_lens.evaluation.judges import CaptionMatch, Description, ExactDescription
from gaze_lens.evaluation.protocols import Protocol, asking, dynamic_narration, question
from gaze_lens.evaluation.statistics import mean
from gaze_lens.evaluation.steered_rows import Row, cut, narrate
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.interventions.steering import Mode, boost_and_suppress
from gaze_lens.model.generation import Generation
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture


def switch_at_panel_ends(
    model: Model,
    picture: Picture,
    heads: HeadSet,
    order: Sequence[str],
    *,
    end: str,
    prompt: str = NARRATE,
    mode: Mode | None = None,
    where: Sequence[str] = ("prefill", "decode"),
    max_new_tokens: int = 100,
) -> tuple[Generation, list[int], list[str]]:
    """Narrate, and steer to the next region of `order` whenever a piece of the text ends.

    end: the text that ends the description of a panel ("."). mode, where: as for `gl.steer`.
    Returns the generation, the step at which each piece begins, and the pieces: one for each region that was reached.
    """
    inputs = model.encode(model.prepare(picture, prompt))
    protocol = dynamic_narration(prompt, end=end, max_new_tokens=max_new_tokens, where=where)
    condition = Condition("steered", heads, mode or boost_and_suppress())
    generation, (steps,) = narrate(model, protocol, inputs, [Row(condition, tuple(order), prompt, tuple(order))])
    text = cut(model, protocol, str(generation), generation.tokens[0].tolist(), steps)
    return generation, steps, list(text.pieces)


# Deprecated: everything below goes in version 0.3.


@dataclass(frozen=True)
class Accuracy:
    """What `accuracy` returns: the share of right answers, 0-1, its bootstrap interval, and the number of answers."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.n}"

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What `answer` returns: a text about one picture (by index), its target, and how it was judged.

    chosen: the region whose caption matches best, or None. exact: whether the text is the target's caption.
    """

    picture: int
    target: str
    text: str
    chosen: str | None
    exact: bool

    @property
    def hit(self) -> bool:
        """Whether the forced choice is the target."""
        return self.chosen == self.target


def accuracy(
    answers: Sequence[Answer], *, exact: bool = False, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Accuracy:
    """Deprecated, use `Results.accuracy`: the share of answers that describe their target (`exact`: word for word)."""
    warn_renamed("gaze_lens.evaluation.accuracy", "Results.accuracy, of what gl.evaluate returns")
    if not answers:
        raise InputError("There are no answers to count; give at least one.")
    right = [answer.exact if exact else answer.hit for answer in answers]
    share = mean(right, [answer.picture for answer in answers], level=level, resamples=resamples, seed=seed)
    return Accuracy(share.value, share.low, share.high, share.n)


def answer(index: int, picture: Picture, target: str, text: str) -> Answer:
    """Deprecated, use a judge: whether a text describes the target, by `CaptionMatch` and `ExactDescription`."""
    warn_renamed("gaze_lens.evaluation.answer", "gaze_lens.evaluation.judges.CaptionMatch().judge")
    return _judged(index, picture, target, text)


def judge_pieces(index: int, picture: Picture, order: Sequence[str], pieces: Sequence[str]) -> list[Answer]:
    """Deprecated, use a judge: each piece of a narration against its own target; a missing piece is an empty text."""
    warn_renamed("gaze_lens.evaluation.judge_pieces", "gaze_lens.evaluation.judges.CaptionMatch().judge_all")
    padded = [*pieces, *[""] * (len(order) - len(pieces))]
    return [_judged(index, picture, name, piece) for name, piece in zip(order, padded, strict=True)]


def steer_to_every_panel(
    model: Model,
    pictures: Sequence[Picture],
    heads: HeadSet | None,
    *,
    prompt: str = OPEN,
    mode: Mode | None = None,
    max_new_tokens: int = 15,
    **options: Any,
) -> list[Answer]:
    """Deprecated, use `gl.evaluate`: the answers to one question, steered to each region of each picture."""
    warn_renamed("gaze_lens.evaluation.steer_to_every_panel", 'gl.evaluate(..., [Condition("gaze", heads)])')
    condition = Condition("steered" if heads else "none", heads, mode or boost_and_suppress())
    return _answers(model, pictures, condition, question(prompt, max_new_tokens=max_new_tokens), **options)


def ask_every_panel(
    model: Model,
    pictures: Sequence[Picture],
    *,
    prompts: Callable[[int], str] = ask,
    max_new_tokens: int = 15,
    **options: Any,
) -> list[Answer]:
    """Deprecated, use `gl.evaluate` with `asking()`: the unsteered answers to a question about each region."""
    warn_renamed("gaze_lens.evaluation.ask_every_panel", 'gl.evaluate(..., [Condition("none")], protocol=asking())')
    most = max((len(picture.regions) for picture in pictures), default=0)
    protocol = asking([prompts(index) for index in range(most)], max_new_tokens=max_new_tokens)
    return _answers(model, pictures, Condition("none"), protocol, **options)


def _answers(
    model: Model, pictures: Sequence[Picture], condition: Condition, protocol: Protocol, **options: Any
) -> list[Answer]:
    records = generate_answers(model, list(pictures), [condition], protocol=protocol, **options).records
    failed = next((record.failed for record in records if record.failed), None)
    if failed:
        raise ModelError(f"An answer cannot be counted: {failed}. Look for such values in weights and hooks.")
    numbers = [(int(record.picture), record) for record in records if not record.skipped]
    return [_judged(n, pictures[n], record.targets[0], record.text) for n, record in numbers]


def _judged(index: int, picture: Picture, target: str, text: str) -> Answer:
    description = Description(text, target, picture)
    match, exact = CaptionMatch().judge(description).match, ExactDescription().judge(description).correct
    return Answer(index, target, text, match, bool(exact))
