"""The file that describes the samples of a discovery beside it: run.json, or run-1-of-4.json of a shard.

record = RunRecord.begin(folder, model, settings, (0, 4), resume=True)
record.write(names=["a", "b"], left_out={"c": "an image is missing"})     # the shard is finished
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.model.weights_digest import settings_as_written
from gaze_lens.model_protocol import Model
from gaze_lens.runs.files import read_json, write_whole
from gaze_lens.runs.journal import refuse_changes
from gaze_lens.runs.shards import Shard, str_of
from gaze_lens.whole_numbers import is_count

SHARDS = "run-*-of-*.json"
EXPECTED = "the settings of a run, as `gaze-lens discover` writes them"


@dataclass(frozen=True)
class RunRecord:
    """The file that describes the samples beside it.

    run: the settings. names: the strips of a shard, once it is finished. left_out: those that cannot be read, and why.
    """

    path: Path
    run: dict[str, Any]
    shard: Shard
    names: tuple[str, ...] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def path_of(partial: Path, shard: Shard) -> Path:
        """The file of a shard, or of a whole run."""
        first, number = shard
        return partial / ("run.json" if number == 1 else f"run-{first + 1}-of-{number}.json")

    @classmethod
    def begin(cls, partial: Path, model: Model, run: dict[str, Any], shard: Shard, *, resume: bool) -> "RunRecord":
        """Start a folder of samples, or check that the samples there are of the same run."""
        path = cls.path_of(partial, shard)
        for other in map(cls.read, sorted(partial.glob("run*.json"))):
            run = settings_as_written(run, other.run, model)
            other.must_be_of(run)
        if path.exists() and not resume:
            raise InputError(f"{partial.parent} holds a run of these strips already; add --resume, or choose another.")
        record = cls.read(path) if path.exists() else cls(path, run, shard)
        record.must_be_in_place()
        record.write(names=record.names, left_out=record.left_out)
        return record

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """The record in a file. Raises InputError for a file that no discovery wrote."""
        values = read_json(path, EXPECTED)
        if part := _broken(values):
            raise InputError(
                f"{path} is damaged, at {part!r}: expected {EXPECTED}. Delete it, and begin the run again."
            )
        left_out = values["left_out"]
        if isinstance(left_out, list):  # version 0.1 wrote the names alone
            left_out = dict.fromkeys(left_out, "it could not be read")
        names = None if values["names"] is None else tuple(values["names"])
        return cls(path, values["run"], tuple(values["shard"]), names, left_out)

    def write(self, *, names: Iterable[str] | None, left_out: Mapping[str, str]) -> None:
        """Write the file anew."""
        values = {"run": self.run, "shard": self.shard, "left_out": dict(left_out), "names": names and [*names]}
        write_whole(self.path, json.dumps(values, indent=1).encode())

    def must_be_of(self, run: dict[str, Any]) -> None:
        """Raises InputError where the settings are others."""
        refuse_changes(self.path, [key for key in run if self.run.get(key) != run[key]])

    def must_be_in_place(self) -> None:
        """Raises InputError where the file has the name of another shard."""
        if self.path != self.path_of(self.path.parent, self.shard):
            raise InputError(
                f"{self.path} holds shard {str_of(self.shard)} of a run: it was copied or renamed. Delete it, run the "
                "shard that its name says, and merge again."
            )


def _broken(values: Any) -> str | None:
    """The part of a record that is missing or of another type; None where all is there."""
    if not isinstance(values, dict):
        return "the whole file"
    run, shard, names, left_out = (values.get(key) for key in ("run", "shard", "names", "left_out"))
    if not isinstance(run, dict) or not run.keys() >= {"model", "fingerprint"} or not _is_number(run.get("strips")):
        return "run"
    if not (isinstance(shard, list) and len(shard) == 2 and all(map(_is_number, shard)) and shard[0] < shard[1]):
        return "shard"
    if names is not None and not _are_texts(names):
        return "names"
    texts = [*left_out.values()] if isinstance(left_out, dict) else left_out
    return None if _are_texts(texts) else "left_out"


def _is_number(value: Any) -> bool:
    return is_count(value, least=0)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
