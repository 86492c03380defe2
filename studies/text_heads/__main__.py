"""python -m studies.text_heads --out docs/text_heads: all steps, then tables and figures."""

import argparse
from pathlib import Path

import gaze_lens as gl
from studies.text_heads import completion, mechanism, recitation, scoring, steering
from studies.text_heads.common import Study
from studies.text_heads.report import write_report

STEPS = {
    "scores": scoring.score, "grid": steering.grid, "curves": steering.curves, "test": steering.test,
    "kinds": mechanism.kinds, "draws": steering.draws, "asked": completion.asked,
    "recitation": recitation.recitation, "ablation": completion.ablation, "schedule": steering.schedule,
    "stability": scoring.stability, "paths": mechanism.paths, "places": steering.places,
    "other texts": steering.other_texts,
}  # fmt: skip


def main() -> None:
    """Do the steps whose files are missing."""
    parser = argparse.ArgumentParser(prog="python -m studies.text_heads", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file for each step, tables and figures")
    parser.add_argument("--work", type=Path, default=Path("text_heads_run"), help="what a stopped run goes on from")
    parser.add_argument("--step", choices=STEPS, action="append", help="only this step; may be given several times")
    arguments = parser.parse_args()
    study = Study(gl.load_smollm2(), arguments.out, arguments.work)
    for name in arguments.step or STEPS:
        study.run(name, STEPS[name])
    if not arguments.step:
        write_report(study)


if __name__ == "__main__":
    main()
