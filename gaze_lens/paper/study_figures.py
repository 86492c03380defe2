"""The figures of a study of frozen encoders, as `python -m training.study` wrote them: for row 23.

study = read_study("docs/study")
study.means("largest contrast")                    # {"a": 0.84, "c": 0.86, ...}, over the seeds of a treatment
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.runs.files import read_json

PATTERN = "core-*-*/figures.json"
OUTCOMES = ("largest contrast", "peak steering")
TREATMENTS = {
    "a": "encoder trained with the language model", "c": "the same encoder, frozen",
    "b": "encoder trained as a classifier, frozen", "d": "random encoder, frozen",
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """The outcomes of a study's runs.

    runs: (treatment, seed) -> outcome -> value, 0 to 1. diverged: the names of runs that have no outcomes.
    """

    runs: dict[tuple[str, int], dict[str, float]]
    diverged: tuple[str, ...] = ()

    def seeds(self, treatment: str) -> list[int]:
        """The seeds of a treatment that were measured."""
        return [seed for each, seed in self.runs if each == treatment]

    def means(self, outcome: str) -> dict[str, float]:
        """Treatment -> mean over its seeds, of the treatments that were measured."""
        values = {
            treatment: [self.runs[treatment, seed][outcome] for seed in self.seeds(treatment)]
            for treatment in TREATMENTS
        }
        return {treatment: sum(found) / len(found) for treatment, found in values.items() if found}


def read_study(folder: str | Path) -> Study:
    """The runs in a study's folder; its pilots are left out.

    Raises InputError where no run was measured, and for a file that the study did not write.
    """
    runs, diverged = {}, []
    for path in sorted(Path(folder).glob(PATTERN)):
        values = read_json(path, "the figures that `python -m training.study` wrote")
        try:
            _, treatment, seed = path.parent.name.split("-")
            if "diverged" in values:
                diverged.append(path.parent.name)
            else:
                runs[treatment, int(seed)] = _outcomes(values)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is no file of a study ({error!r}): run training.study again.") from error
    if unknown := sorted({treatment for treatment, _ in runs} - set(TREATMENTS)):
        raise InputError(f"{folder} has runs of treatments {', '.join(unknown)}; expected {', '.join(TREATMENTS)}.")
    if not runs:
        raise InputError(f"{folder} has no measured run of a study: expected files {PATTERN}, as in docs/study.")
    return Study(runs, tuple(diverged))


def _outcomes(values: dict[str, Any]) -> dict[str, float]:
    """The outcomes that the study's plan tests first."""
    peak = values["steering"][str(values["best"])]["forced choice"]["value"]
    return dict(zip(OUTCOMES, (float(values["verdict"]["contrast"]), float(peak)), strict=True))
