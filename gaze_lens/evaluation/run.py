"""`gl.evaluate`: run a protocol under several conditions, judge what was said, and write it all down.

scores = gl.score_heads(model, some_strips)
conditions = gl.evaluation.conditions(model, scores.top(100), scores=scores)
results = gl.evaluate(model, other_strips, conditions, out="out")
print(results)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaze_lens.evaluation.conditions import Condition
from gaze_lens.evaluation.engine import generate_answers
from gaze_lens.evaluation.judges import CaptionMatch, Judge, NamesOnly
from gaze_lens.evaluation.judging import FILE, rejudge
from gaze_lens.evaluation.page import write_page
from gaze_lens.evaluation.protocols import Protocol, question
from gaze_lens.evaluation.results import Results
from gaze_lens.heads import write_whole
from gaze_lens.regions import Picture


def evaluate(
    model: Any,
    pictures: Sequence[Picture],
    conditions: Sequence[Condition],
    *,
    protocol: Protocol | None = None,
    judge: Judge | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **options: Any,
) -> Results:
    """How often steered answers describe their targets, with controls and intervals.

    pictures: with named regions, and captions unless the judge does without. conditions: what is steered.
    protocol: what is asked; `gl.evaluation.question()` unless given.
    judge: by default `CaptionMatch`, for the protocol "regions" `NamesOnly`.
    out: a folder. generations.jsonl there holds every answer as soon as it is made; judgements, tables (CSV), all
        figures (results.json) and a page (report.html) come beside it. None keeps everything in memory.
    resume: go on with the run that the folder holds; a run that was killed loses at most the picture in work.
    options: seed=0 (of orders and places), batch_size=24 (answers that run together), shard=(0, 1) (the i-th of n
        parts of the pictures), as for `generate_answers`.
    The same arguments give the same figures. Raises InputError where `out` holds another run, or one that you did not
    ask to resume.
    """
    protocol = protocol or question()
    judge = judge or default_judge(protocol)
    path = None if out is None else Path(out) / FILE
    options = {"path": path, "resume": resume, "progress": progress, **options}
    generations = generate_answers(model, pictures, conditions, protocol=protocol, **options)
    results = rejudge(generations if out is None else out, judge, pictures=pictures, progress=progress)
    if out is not None:
        save(results, out)
    return results


def default_judge(protocol: Protocol) -> Judge:
    """The judge that fits a protocol and needs no model."""
    return NamesOnly() if protocol.name == "regions" else CaptionMatch()


def save(results: Results, out: str | Path) -> None:
    """Write answers.csv, accuracy.csv, by_target.csv, comparisons.csv, results.json and report.html into a folder."""
    folder = Path(out)
    tables = {
        "answers": results.answers, "accuracy": results.table(), "by_target": results.by_target(),
        "comparisons": results.comparisons(),
    }  # fmt: skip
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", table.to_csv(index=False).encode())
    write_whole(folder / "results.json", json.dumps(results.to_dict(), indent=1).encode())
    write_page(results, folder / "report.html")
