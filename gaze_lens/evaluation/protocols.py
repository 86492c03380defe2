"""Protocols: the question about each picture, and the targets that its answers are steered to.

    question()              one question about the picture, steered to each region in turn
    static_narration()      the same with a question about "this panel" and a long answer
    dynamic_narration()     a narration in which the target changes, in a random order
    regions()               photographs: one question, steered to each object in turn
    answering()             questions with answers, of gl.data.read_questions, steered to their regions
    asking()                a separate question for each region; needs no steering

As in Gandikota and Bau 2026, "Protocols". The questions are our own; `prompt=` takes another.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from gaze_lens.comics.questions import NARRATE_ANY_ORDER, ONE_THING, OPEN, ORDINALS, THIS, ask
from gaze_lens.data.questions import WRONG, Question, Questions, lettered
from gaze_lens.errors import InputError
from gaze_lens.regions.segments import NARRATE, Passages, Source
from gaze_lens.regions.segments import OPEN as OPEN_SEGMENT
from gaze_lens.regions.shapes import Box
from gaze_lens.whole_numbers import is_count


@dataclass(frozen=True)
class Protocol:
    """A question, and how its answers are steered.

    name: for files and reports. prompt: one text, or one for each region in order.
    max_new_tokens: the greatest length of an answer; decoding is greedy. where: as for `gl.steer`.
    every, end: for a narration, when the target changes: after every so many tokens, or when the text contains `end`
        (such as "."). Give at most one of them; with neither, an answer has one target.
    delay: with `every`, how many tokens later the target changes: 1 as in the code of the paper's authors, whose
        second target shows from token 51 on, where this one shows from token 50 on.
    n_targets: of each picture, at most so many regions, drawn at random, are targets; all by default.
    as_published: as for `gl.steer`, in all conditions that steer.
    repetition_penalty, no_repeat_ngram: as Hugging Face's generate has them (`no_repeat_ngram_size`).
    """

    name: str
    prompt: str | tuple[str, ...]
    max_new_tokens: int
    where: tuple[str, ...] = ("prefill", "decode")
    every: int | None = None
    end: str | None = None
    delay: int = 0
    n_targets: int | None = None
    as_published: bool = False
    repetition_penalty: float | None = None
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        counts = [self.max_new_tokens] + ([] if self.every is None else [self.every])
        if not all(map(is_count, counts)) or self.end == "":
            raise InputError(f"{self} was given; give at least one new token, and every= or end= that can be reached.")
        if self.every is not None and self.end is not None:
            raise InputError(
                "The target of a narration changes after so many tokens, or at an end; give every= or end=, not both."
            )
        if not is_count(self.delay, least=0) or self.delay >= (self.every or 1):
            raise InputError(f"delay={self.delay} was given; give fewer tokens than every={self.every}, or 0.")
        if self.n_targets is not None and (self.moves or not is_count(self.n_targets)):
            raise InputError(
                f"n_targets={self.n_targets} was given; give 1 or more, for answers that have one target each."
            )
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < float("inf"):
            raise InputError(f"repetition_penalty={self.repetition_penalty} was given; give a number above 0.")
        if self.no_repeat_ngram is not None and not is_count(self.no_repeat_ngram):
            raise InputError(f"no_repeat_ngram={self.no_repeat_ngram} was given; give a length of 1 or more.")

    @property
    def moves(self) -> bool:
        """Whether the target changes during an answer."""
        return self.every is not None or self.end is not None

    def targets(self, picture: Source, *, seed: Sequence[int]) -> list[tuple[str, ...]]:
        """For each answer about a picture, its targets in order: one region each, or for a narration all regions."""
        if self.moves:
            return [tuple(random_order(picture, seed=seed))]
        if isinstance(picture, Question):
            return [(picture.target,)]
        if not picture.regions:
            raise InputError("A picture has no named regions, so there is no target to steer to; name some.")
        names = list(picture.regions)
        if self.n_targets is not None and self.n_targets < len(names):
            drawn = np.random.default_rng([*np.atleast_1d(seed), DRAWN]).permutation(len(names))[: self.n_targets]
            names = [names[index] for index in sorted(drawn)]
        return [(name,) for name in names]

    @property
    def steering(self) -> dict[str, Any]:
        """What `gl.steer` is given beside the condition's own."""
        return {"where": self.where, **({"as_published": True} if self.as_published else {})}

    @property
    def generation_options(self) -> dict[str, Any]:
        """What `model.generate` is given beside the hooks."""
        options = {
            "max_new_tokens": self.max_new_tokens, "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram,
        }  # fmt: skip
        return {name: value for name, value in options.items() if value is not None}

    def prompt_for(self, picture: Source, target: str) -> str:
        """The question for a target. Raises InputError for passages where the default question is about a picture."""
        if isinstance(picture, Question) or self.name == ANSWERS:
            return self._asked(picture)
        if isinstance(picture, Passages) and self.prompt in OF_PICTURES:
            asked = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
            raise InputError(
                f"The protocol {self.name!r} asks {asked!r}, and passages of text were given; give it a question about "
                f"them, such as gl.evaluation.question({OF_PASSAGES['question']!r})."
            )
        if isinstance(self.prompt, str):
            return self.prompt
        index = list(picture.regions).index(target)
        if index >= len(self.prompt):
            raise InputError(f"There are {len(self.prompt)} prompts, and a picture has {len(picture.regions)} regions.")
        return self.prompt[index]

    def _asked(self, picture: Source) -> str:
        """The question that a picture comes with. InputError for one without, and where something else is asked."""
        if not isinstance(picture, Question) or self.name != ANSWERS or not isinstance(self.prompt, str):
            raise InputError(
                f"The protocol {self.name!r} and a {type(picture).__name__} were given; questions of "
                "gl.data.read_questions go with gl.evaluation.answering(), and nothing else does."
            )
        if CHOICES in self.prompt and not picture.choices:
            raise InputError(f"The prompt {self.prompt!r} lists choices, and a question has none; leave out {CHOICES}.")
        return self.prompt.replace(CHOICES, lettered(picture.choices)).replace("{question}", picture.prompt)

    def choices_of(self, question: Question) -> tuple[str, ...]:
        """What may be answered: the choices, or their letters where the prompt lists these; () if anything may."""
        letters = tuple(chr(65 + index) for index in range(len(question.choices)))
        return letters if CHOICES in self.prompt else question.choices

    def to_dict(self) -> dict[str, Any]:
        """For JSON. What was not in version 0.1 is left out where it is the default, so that old runs go on."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {name: value for name, value in values.items() if name not in NEW or value != NEW[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Protocol":
        """From what `to_dict` returned."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields)


ANSWERS, CHOICES = "answers", "{choices}"
DRAWN = 1  # in the seed of targets that are drawn
NEW: dict[str, Any] = {
    field.name: field.default for field in fields(Protocol)
    if field.name in ("delay", "n_targets", "as_published", "repetition_penalty", "no_repeat_ngram")
}  # fmt: skip
OF_PICTURES = (OPEN, THIS, NARRATE_ANY_ORDER, ONE_THING, tuple(map(ask, range(len(ORDINALS)))))  # default questions
OF_PASSAGES = {"question": OPEN_SEGMENT, "static": OPEN_SEGMENT, "dynamic": NARRATE}  # what to ask of passages instead


def default_protocol(pictures: Sequence[Source]) -> Protocol:
    """The protocol of an evaluation that names none: `question()`, about pictures or about passages; of questions, to
    ask them."""
    if isinstance(pictures, Questions) or (
        isinstance(pictures, list | tuple) and len(pictures) and isinstance(pictures[0], Question)
    ):
        return answering()
    of_text = isinstance(pictures, list | tuple) and len(pictures) and isinstance(pictures[0], Passages)
    return question(OF_PASSAGES["question"]) if of_text else question()


def question(prompt: str = OPEN, *, max_new_tokens: int = 15, **options: Any) -> Protocol:
    """Question steering: one question about the picture, steered to each region in turn.

    options: other fields of `Protocol`, such as `n_targets=2` or `where=("decode",)`.
    """
    return Protocol("question", prompt, max_new_tokens, **options)


def static_narration(prompt: str = THIS, *, max_new_tokens: int = 100, **options: Any) -> Protocol:
    """Static narration: a question about "this panel"; only steering says which panel. options: as for `question`."""
    return Protocol("static", prompt, max_new_tokens, **options)


def dynamic_narration(
    prompt: str = NARRATE_ANY_ORDER,
    *,
    every: int | None = None,
    end: str | None = None,
    max_new_tokens: int = 300,
    where: Sequence[str] = ("decode",),
    **options: Any,
) -> Protocol:
    """Dynamic narration: the target changes every 50 tokens, or when a sentence ends (`end="."`), in a random order.

    The text is cut where the target changes, and each piece is judged by its own target. options: as for `question`;
    `delay=1` changes targets where the code of the paper's authors does.
    """
    every = 50 if every is None and end is None else every
    return Protocol("dynamic", prompt, max_new_tokens, tuple(where), every, end, **options)


def regions(prompt: str = ONE_THING, *, max_new_tokens: int = 15, **options: Any) -> Protocol:
    """Photographs with named objects, such as COCO's: one question, steered to each object in turn.

    options: as for `question`.
    """
    return Protocol("regions", prompt, max_new_tokens, **options)


def asking(
    prompts: Sequence[str] = tuple(map(ask, range(len(ORDINALS)))), *, max_new_tokens: int = 15, **options: Any
) -> Protocol:
    """One question for each region: what can the unsteered model see? options: as for `question`."""
    return Protocol("asking", tuple(prompts), max_new_tokens, **options)


def answering(prompt: str = "{question}", *, max_new_tokens: int = 15, **options: Any) -> Protocol:
    """Questions with answers (`gl.data.read_questions`), steered to their regions.

    prompt: how they are asked, such as "{question} Answer with one word."; with "{choices}", choices get letters.
    options: as for `question`.
    """
    if "{question}" not in prompt:
        raise InputError(f"prompt={prompt!r} was given; it says where the question goes: '{{question}} Be brief.'")
    return Protocol(ANSWERS, prompt, max_new_tokens, **options)


PROTOCOLS = {
    "question": question, "static": static_narration, "dynamic": dynamic_narration, "regions": regions,
    "asking": asking, "answers": answering,
}  # fmt: skip


def random_order(picture: Source, *, seed: int | Sequence[int]) -> list[str]:
    """The picture's regions in a seeded random order, in which no region is at its own place."""
    names = list(picture.regions)
    if len(names) < 2:
        raise InputError("A random order needs two named regions or more.")
    rng = np.random.default_rng(seed)
    while True:
        order = [names[index] for index in rng.permutation(len(names))]
        if all(name != before for name, before in zip(order, names, strict=True)):
            return order


def elsewhere(picture: Source, name: str, *, seed: int | Sequence[int]) -> Box | None:
    """A box of a region's size at a seeded random place that does not overlap the region's box.

    None if the region's box is too large for that.
    """
    if isinstance(picture, Passages):
        raise InputError(
            "The condition 'elsewhere' steers to another place of a picture, and passages of text were given; leave it "
            "out."
        )
    if isinstance(picture, Question) and WRONG in picture.regions:
        return picture.regions[WRONG].bounds
    box, (width, height) = picture.region(name).bounds, picture.image.size
    x0, y0, x1, y1 = max(0.0, box.x0), max(0.0, box.y0), min(width, box.x1), min(height, box.y1)
    right, low = width - (x1 - x0), height - (y1 - y0)  # the largest x and y of the new box
    sides = [(0, x0 - (x1 - x0), 0, low), (x1, right, 0, low), (0, right, 0, y0 - (y1 - y0)), (0, right, y1, low)]
    sides = [side for side in sides if side[0] <= side[1] and side[2] <= side[3]]
    if not sides:
        return None
    areas = np.array([(side[1] - side[0] + 1) * (side[3] - side[2] + 1) for side in sides])
    rng = np.random.default_rng(seed)
    side = sides[rng.choice(len(sides), p=areas / areas.sum())]  # left of the region, right of it, above or below
    x, y = float(rng.uniform(*side[:2])), float(rng.uniform(*side[2:]))
    return Box(x, y, x + x1 - x0, y + y1 - y0)
