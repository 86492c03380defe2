"""What an evaluation writes down: every picture, and every answer, with all that judging it needs.

run = describe(model, pictures, protocol, conditions, seed=0)
generations = Generations.read("out/generations.jsonl")
generations.records[0].text, generations.pictures["strip 1"]["captions"]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.model.weights_digest import weights_digest
from gaze_lens.regions.digest import picture_digest, pictures_digest
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.journal import Line, read

KIND = "generations"


@dataclass(frozen=True)
class Record:
    """One answer.

    picture: its name. condition, draw: what was steered; see the run's conditions. heads: their digest. mode: the four
    numbers. targets: the regions that the answer should be about, in turn. aims: where it was steered to, where that is
    another place. pieces: the parts of the text, one for each target whose turn came. steps: where each begins, as
    tokens. skipped: why there is no answer, or None.
    """

    picture: str
    condition: str
    draw: int
    targets: tuple[str, ...]
    prompt: str
    seed: int
    heads: str = ""
    mode: tuple[float, ...] = ()
    aims: tuple[Any, ...] = ()
    text: str = ""
    pieces: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    skipped: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from the other answers of a run."""
        return self.picture, self.condition, self.draw, self.targets

    def to_line(self) -> Line:
        """For a journal."""
        return {"kind": "answer", **asdict(self)}

    @classmethod
    def from_line(cls, line: Line) -> "Record":
        """What `to_line` wrote."""
        values = {each.name: line[each.name] for each in fields(cls)}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(eq=False)
class Generations:
    """All that a run has written so far.

    run: its settings. records: the answers. pictures: name -> size, bounds of the regions, captions ("" where a region
    has none), a digest, and how many answers there should be. answered: name -> keys of those that there are. skipped:
    name -> why a picture could not be used.
    """

    run: Line
    records: list[Record] = field(default_factory=list)
    pictures: dict[str, Line] = field(default_factory=dict)
    answered: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Line, lines: Sequence[Line]) -> "Generations":
        """From the lines of a journal."""
        made = cls(run)
        for line in lines:
            made.add(line)
        return made

    @classmethod
    def read(cls, path: str | Path) -> "Generations":
        """From a file, which may still be growing. Raises InputError for a file that is none of `gl.evaluate`."""
        return cls.of(*read(path, kind=KIND))

    def add(self, line: Line) -> None:
        """Take one more line in."""
        if line["kind"] == "answer":
            record = Record.from_line(line)
            self.records.append(record)
            self.answered[record.picture].add(record.key)
        elif line["kind"] == "picture":
            self.pictures[line["picture"]], self.answered[line["picture"]] = line, set()
            self.skipped.pop(line["picture"], None)
        else:
            self.skipped[line["picture"]] = line["why"]

    @property
    def protocol(self) -> Protocol:
        """What was asked."""
        return Protocol.from_dict(self.run["protocol"])

    @property
    def conditions(self) -> list[Condition]:
        """What was steered."""
        return [Condition.from_dict(given) for given in self.run["conditions"]]

    def finished(self) -> set[str]:
        """The pictures that have all their answers."""
        return {name for name, line in self.pictures.items() if len(self.answered[name]) == line["answers"]}


def picture_line(name: str, picture: Picture, answers: int) -> Line:
    """The line that comes before a picture's answers."""
    bounds = {key: shape.bounds for key, shape in picture.regions.items()}
    return {
        "kind": "picture", "picture": name, "size": list(picture.image.size), "answers": answers,
        "regions": {key: [box.x0, box.y0, box.x1, box.y1] for key, box in bounds.items()},
        "captions": {key: picture.captions.get(key, "") for key in picture.regions}, "digest": picture_digest(picture),
    }  # fmt: skip


def skipped_line(name: str, why: str) -> Line:
    """The line for a picture that cannot be used."""
    return {"kind": "skipped", "picture": name, "why": why}


def describe(
    model: Any, pictures: Sequence[Picture], protocol: Protocol, conditions: Sequence[Condition], *, seed: int
) -> Line:
    """The settings of a run: two runs with the same ones give the same answers."""
    return {
        "model": model.cfg.model_name, "architecture": model.fingerprint, "weights": weights_digest(model),
        "protocol": protocol.to_dict(), "conditions": [condition.to_dict() for condition in conditions],
        "pictures": len(pictures), "pictures_digest": pictures_digest(pictures), "seed": seed,
    }  # fmt: skip


def check_picture(line: Line, picture: Picture) -> None:
    """InputError where answers were made about another picture of the name."""
    captions = {key: told for key, told in line["captions"].items() if told}
    if line["digest"] != picture_digest(picture) or captions != picture.captions:
        raise InputError(
            f"The run was made on another picture of the name '{line['picture']}': its pixels, regions or captions "
            "differ. Give the pictures that the run was begun with, or choose another folder."
        )
