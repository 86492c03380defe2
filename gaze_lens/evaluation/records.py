"""The file of an evaluation: each picture and each answer, with all that a judge needs.

run = describe(model, pictures, protocol, conditions, seed=0)
generations = Generations.read("out/generations.jsonl")
generations.records[0].text, generations.pictures["strip 1"]["captions"]
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaze_lens.data.picture_digests import picture_digest, pictures_digest
from gaze_lens.data.questions import Question
from gaze_lens.deprecation import renamed_attribute
from gaze_lens.errors import InputError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.inputs.preparation import prompt_digest
from gaze_lens.model.weights_digest import weights_digest
from gaze_lens.model_protocol import Model
from gaze_lens.regions.segments import Passages, Source
from gaze_lens.runs.journal import Line, read
from gaze_lens.runs.left_out import reason_lines

KIND = "generations"
FAILED = 10  # answers that are named on the terminal
LATER = (
    "mass",
    "at_least",
    "keep",
    "likelihoods",
    "contrast",
)  # left out of lines where they are not given, as by earlier versions
OLD_KEYS = {"aims": "steered_to"}  # version 0.1 wrote the first


@dataclass(frozen=True)
class Record:
    """One answer.

    picture: its name. condition, draw: one of the run's conditions. heads: a digest of the condition's heads. mode: its
        four numbers; () where it steers to a mass: mass, at_least, keep.
    targets: the regions that the answer should describe, one after the other. steered_to: the boxes that the heads
        were steered to, if these are not the targets.
    pieces: the text, cut where the target changes: one piece for each target that was reached. steps: the token at
        which each piece begins.
    exposure: where scores were edited, what that did to attention, as means over heads and steps: the fields that
        `generation.exposure.mean()` has. Numbers that rounding changes do not make two answers different.
    skipped: why there is no answer, or None. failed: why its generation failed (logits that are no numbers), or None;
        a resumed run tries again.
    likelihoods: the log-probabilities of a question's choices, in nats. contrast: its strength, if there is one.
    """

    picture: str
    condition: str
    draw: int
    targets: tuple[str, ...]
    prompt: str
    seed: int
    heads: str = ""
    mode: tuple[float, ...] = ()
    steered_to: tuple[Any, ...] = ()
    text: str = ""
    pieces: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    skipped: str | None = None
    failed: str | None = None
    exposure: Mapping[str, float] | None = field(default=None, compare=False)
    mass: float | None = None
    at_least: float | None = None
    keep: str | None = None
    likelihoods: tuple[float, ...] = field(default=(), compare=False)
    contrast: float | None = None

    aims = renamed_attribute("aims", "steered_to")

    @property
    def key(self) -> tuple[Any, ...]:
        """Unique among the answers of a run."""
        return self.picture, self.condition, self.draw, self.targets

    def to_line(self) -> Line:
        """For a journal."""
        given = {name: value for name, value in asdict(self).items() if name not in LATER or value not in (None, ())}
        return {"kind": "answer", **given}

    @classmethod
    def from_line(cls, line: Line) -> "Record":
        """What `to_line` wrote."""
        values = {OLD_KEYS.get(name, name): value for name, value in line.items() if name != "kind"}
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields)


@dataclass(eq=False)
class Generations:
    """Everything that a run has written so far.

    run: its settings. records: the answers, each once.
    pictures: name -> size (passages of text have themselves instead), bounds of the regions, captions ("" if a region
        has none), a digest, the number of answers when it is finished, and "chosen" if the heads were chosen on it.
    answered: name -> keys of its answers. skipped: name -> why it could not be used. left_out: name -> why it was not
        among the run's pictures at all.
    """

    run: Line
    records: list[Record] = field(default_factory=list)
    pictures: dict[str, Line] = field(default_factory=dict)
    answered: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    _places: dict[tuple[Any, ...], int] = field(default_factory=dict, repr=False)  # key -> index in records

    @classmethod
    def of(cls, run: Line, lines: Sequence[Line]) -> "Generations":
        """From the lines of a journal."""
        generations = cls(run)
        for line in lines:
            generations.add(line)
        return generations

    @classmethod
    def read(cls, path: str | Path) -> "Generations":
        """From a file, of a run that may not be finished. Raises InputError if `gl.evaluate` did not write it."""
        return cls.of(*read(path, kind=KIND))

    def add(self, line: Line) -> None:
        """Add one line. Raises InputError where it contradicts another one."""
        name = line["picture"]
        if line["kind"] == "answer":
            self._add_answer(Record.from_line(line))
        elif line["kind"] == "picture":
            self._add_picture(name, line)
        else:
            (self.left_out if line["kind"] == "left out" else self.skipped)[name] = line["why"]

    def _add_answer(self, record: Record) -> None:
        """Add an answer. The same one twice counts once, and one that failed is replaced."""
        if record.picture not in self.pictures:
            raise InputError(f"An answer about picture '{record.picture}' comes before its line; begin the run again.")
        place = self._places.setdefault(record.key, len(self.records))
        if place == len(self.records):
            self.records.append(record)
            self.answered[record.picture].add(record.key)
        elif self.records[place].failed:
            self.records[place] = record
        elif not record.failed and self.records[place] != record:
            _, condition, draw, targets = record.key
            raise InputError(
                f"The run has two different answers about picture '{record.picture}', condition {condition!r} (draw "
                f"{draw}), target {', '.join(targets)}: two processes have written it. Begin it again, in a new folder."
            )

    def _add_picture(self, name: str, line: Line) -> None:
        known = self.pictures.setdefault(name, line)
        if any(known[key] != line[key] for key in ("digest", "captions", "regions", "answers")):
            raise InputError(f"The run has two different pictures of the name '{name}'; begin it again.")
        self.answered.setdefault(name, set())
        self.skipped.pop(name, None)

    @property
    def protocol(self) -> Protocol:
        """The run's protocol."""
        return Protocol.from_dict(self.run["protocol"])

    @property
    def conditions(self) -> list[Condition]:
        """The run's conditions."""
        return [Condition.from_dict(values) for values in self.run["conditions"]]

    @property
    def unused(self) -> dict[str, str]:
        """Pictures without answers -> why: those that could not be read, by the run or before it."""
        return {**self.left_out, **self.skipped}

    @property
    def failed(self) -> list[Record]:
        """The answers whose generation failed."""
        return [record for record in self.records if record.failed]

    @property
    def chosen(self) -> list[str]:
        """The pictures that are among those that the heads were chosen on."""
        return [name for name, line in self.pictures.items() if line.get("chosen")]

    def finished(self) -> set[str]:
        """The pictures that have all their answers, those that failed among them."""
        return {name for name, line in self.pictures.items() if len(self.answered[name]) == line["answers"]}


def picture_line(name: str, picture: Source, answers: int, *, chosen: bool = False) -> Line:
    """The line that comes before a picture's answers. chosen: whether the heads were chosen on it."""
    mark: Line = {"chosen": True} if chosen else {}
    if isinstance(picture, Passages):
        regions = {key: [span.start, span.stop] for key, span in picture.characters.items()}
        about = {"regions": regions, "captions": dict(picture.captions), "digest": picture_digest(picture)}
        return {"kind": "picture", "picture": name, "answers": answers, "passages": asdict(picture), **about, **mark}
    if isinstance(picture, Question):
        mark["question"] = {"prompt": picture.prompt, "answer": picture.answer, "choices": list(picture.choices)}
    bounds = {key: shape.bounds for key, shape in picture.regions.items()}
    return {
        "kind": "picture", "picture": name, "size": list(picture.image.size), "answers": answers,
        "regions": {key: [box.x0, box.y0, box.x1, box.y1] for key, box in bounds.items()},
        "captions": {key: picture.captions.get(key, "") for key in picture.regions}, "digest": picture_digest(picture),
        **mark,
    }  # fmt: skip


def left_out_lines(left_out: Mapping[str, str]) -> list[Line]:
    """The lines for pictures that are not among those of the run. left_out: name -> why."""
    return [{"kind": "left out", "picture": name, "why": reason} for name, reason in left_out.items()]


def skipped_line(name: str, reason: str) -> Line:
    """The line for a picture that cannot be used."""
    return {"kind": "skipped", "picture": name, "why": reason}


def describe(
    model: Model, pictures: Sequence[Source], protocol: Protocol, conditions: Sequence[Condition], *, seed: int
) -> Line:
    """The settings of a run. Runs with equal settings give equal answers."""
    return {
        "model": model.cfg.model_name, "architecture": model.fingerprint, "weights": weights_digest(model),
        "protocol": protocol.to_dict(), "conditions": [condition.to_dict() for condition in conditions],
        "pictures": len(pictures), "pictures_digest": pictures_digest(pictures), "seed": seed,
        "rendered_prompt": prompt_digest(model.processor, model.family),
    }  # fmt: skip


def check_picture(line: Line, picture: Source) -> None:
    """Raises InputError if the run's picture of this name was another one."""
    captions = {key: caption for key, caption in line["captions"].items() if caption}
    if line["digest"] != picture_digest(picture) or captions != picture.captions:
        raise InputError(
            f"The run was made on another picture of the name '{line['picture']}': its pixels, regions or captions "
            "differ. Give the pictures that the run was begun with, or choose another folder."
        )


def chosen_warning(generations: Generations) -> str:
    """What to know about accuracy on the pictures that the heads were chosen on."""
    return (
        f"{len(generations.chosen)} of the {len(generations.pictures)} pictures are among those that the heads were "
        "chosen on, so that accuracy is too high: evaluate on other pictures."
    )


def loss_lines(generations: Generations) -> list[str]:
    """Lines that name what has no answer: pictures by reason, and the first answers that failed."""
    failed = generations.failed
    lines = [f"Failed: {r.picture}, {r.condition}, {', '.join(r.targets)}: {r.failed}" for r in failed[:FAILED]]
    more = [f"Failed: {len(failed) - FAILED} more answers"] * (len(failed) > FAILED)
    return reason_lines(generations.unused) + lines + more
