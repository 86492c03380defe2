"""The files of a reproduction: OUT/paper.json (its settings), OUT/rows/NAME.json (one for each row).

begin(out, settings, resume=True)                  # InputError for a folder of another reproduction
write_row(out, outcome); read_rows(out)            # {"fig3a": Outcome(...)}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.paper.row import Cost, RowResult
from gaze_lens.runs.files import read_json, to_json, write_whole
from gaze_lens.runs.journal import refuse_changes

FILE, ROWS = "paper.json", "rows"


@dataclass(frozen=True)
class Outcome:
    """A row that is done. result, or the reason why it is impossible here; its cost, and the seconds that it took."""

    name: str
    result: RowResult | None = None
    reason: str | None = None
    cost: Cost = Cost(0)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        cost = {"prefills": self.cost.prefills, "steps": self.cost.steps}
        result = None if self.result is None else self.result.to_dict()
        return {"row": self.name, "result": result, "reason": self.reason, "cost": cost, "seconds": self.seconds}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Outcome":
        """From what `to_dict` returned."""
        result = None if values["result"] is None else RowResult.from_dict(values["result"])
        return cls(values["row"], result, values["reason"], Cost(**values["cost"]), values["seconds"])


def begin(out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Write the settings of a reproduction. Raises InputError for another one's folder, or without `resume`."""
    path, settings = out / FILE, json.loads(to_json(dict(settings)))
    if not path.exists():
        write_whole(path, to_json(settings).encode())
        return
    written = read_json(path, "the settings that `gaze-lens paper` wrote")
    if not resume:
        raise InputError(f"{out} holds a reproduction already; resume it (resume=True, --resume), or choose another.")
    known = written if isinstance(written, dict) else {}
    refuse_changes(path, [key for key in settings if known.get(key) != settings[key]])


def write_row(out: Path, outcome: Outcome) -> None:
    """Write what a row found."""
    write_whole(out / ROWS / f"{outcome.name}.json", to_json(outcome.to_dict()).encode())


def read_rows(out: Path) -> dict[str, Outcome]:
    """The rows that are done, by name."""
    found = {}
    for path in sorted((out / ROWS).glob("*.json")):
        values = read_json(path, "a row that `gaze-lens paper` wrote")
        try:
            found[path.stem] = Outcome.from_dict(values)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error}): delete it, and run the row again.") from error
    return found
