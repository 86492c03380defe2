"""The file of an evaluation: each picture and each answer, with all that a judge needs.

run = describe(model, pictures, protocol, conditions, seed=0)
generations = Generations.read("out/generations.jsonl")
generations.records[0].text, generations.pictures["strip 1"]["captions"]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gaze_lens.data.picture_digests import picture_digest, pictures_digest
from gaze_lens.deprecation import renamed_attribute
from gaze_lens.errors import InputError
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.model.weights_digest import weights_digest
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.journal import Line, read

KIND = "generations"
OLD_KEYS = {"aims": "steered_to"}  # version 0.1 wrote the first


@dataclass(frozen=True)
class Record:
    """One answer.

    picture: its name. condition, draw: one of the run's conditions. heads: a digest of the condition's heads. mode: its
        four numbers.
    targets: the regions that the answer should describe, one after the other. steered_to: the boxes that the heads
        were steered to, if these are not the targets.
    pieces: the text, cut where the target changes: one piece for each target that was reached. steps: the token at
        which each piece begins.
    skipped: why there is no answer, or None.
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

    aims = renamed_attribute("aims", "steered_to")

    @property
    def key(self) -> tuple[Any, ...]:
        """Unique among the answers of a run."""
        return self.picture, self.condition, self.draw, self.targets

    def to_line(self) -> Line:
        """For a journal."""
        return {"kind": "answer", **asdict(self)}

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

    run: its settings. records: the answers.
    pictures: name -> size, bounds of the regions, captions ("" if a region has none), a digest, and the number of
        answers when it is finished. answered: name -> keys of its answers. skipped: name -> why it could not be used.
    """

    run: Line
    records: list[Record] = field(default_factory=list)
    pictures: dict[str, Line] = field(default_factory=dict)
    answered: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

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
        """Add one line."""
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
        """The run's protocol."""
        return Protocol.from_dict(self.run["protocol"])

    @property
    def conditions(self) -> list[Condition]:
        """The run's conditions."""
        return [Condition.from_dict(values) for values in self.run["conditions"]]

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


def skipped_line(name: str, reason: str) -> Line:
    """The line for a picture that cannot be used."""
    return {"kind": "skipped", "picture": name, "why": reason}


def describe(
    model: Model, pictures: Sequence[Picture], protocol: Protocol, conditions: Sequence[Condition], *, seed: int
) -> Line:
    """The settings of a run. Runs with equal settings give equal answers."""
    return {
        "model": model.cfg.model_name, "architecture": model.fingerprint, "weights": weights_digest(model),
        "protocol": protocol.to_dict(), "conditions": [condition.to_dict() for condition in conditions],
        "pictures": len(pictures), "pictures_digest": pictures_digest(pictures), "seed": seed,
    }  # fmt: skip


def check_picture(line: Line, picture: Picture) -> None:
    """Raises InputError if the run's picture of this name was another one."""
    captions = {key: caption for key, caption in line["captions"].items() if caption}
    if line["digest"] != picture_digest(picture) or captions != picture.captions:
        raise InputError(
            f"The run was made on another picture of the name '{line['picture']}': its pixels, regions or captions "
            "differ. Give the pictures that the run was begun with, or choose another folder."
        )
