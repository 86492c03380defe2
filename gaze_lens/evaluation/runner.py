"""`gl.evaluate`: run a protocol in several conditions, judge the answers, and write everything into a folder.

scores = gl.score_heads(model, some_strips)
conditions = gl.evaluation.conditions(model, scores.top(100), scores=scores)
results = gl.evaluate(model, other_strips, conditions, out="out")
print(results)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaze_lens.data.picture_digests import names_of
from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.generate import generate_answers
from gaze_lens.evaluation.judges import Judge
from gaze_lens.evaluation.judging import refuse_without_captions, rejudge
from gaze_lens.evaluation.merge import file_of, interleave, merge_generations, write_merged
from gaze_lens.evaluation.protocols import Protocol, default_protocol
from gaze_lens.evaluation.records import Generations
from gaze_lens.evaluation.report_page import write_page
from gaze_lens.evaluation.results import Results
from gaze_lens.inputs.fitting import fitted
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Fit
from gaze_lens.regions.segments import Source
from gaze_lens.runs import processes
from gaze_lens.runs.files import write_whole


def evaluate(
    model: Model,
    pictures: Sequence[Source],
    conditions: Sequence[Condition],
    *,
    protocol: Protocol | None = None,
    judge: Judge | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    fit: Fit | None = None,
    repeated_at: float = 0.85,
    progress: bool = True,
    **options: Any,
) -> Results:
    """How often steered answers describe their targets, with controls and intervals.

    pictures: with named regions, and with captions if the judge needs them; or `gl.passages`, which are their own
        captions. conditions: what is steered.
    protocol: what is asked; by default `gl.evaluation.question()`.
    judge: by default `CaptionMatch`, for the protocol "regions" `NamesOnly`.
    out: a folder. generations.jsonl there has each answer as soon as it is generated; judgements, tables (CSV), all
        figures (results.json) and a page (report.html) are beside it. None keeps everything in memory.
    resume: continue the run in the folder. A run that was killed loses at most the present batch.
    fit: how the model is to see the pictures, as for `model.prepare`: "whole" where its processor would cut them.
    repeated_at: as for `Results`: from which share of equal words an answer repeats the unsteered one.
    options: seed=0 (of orders and places), batch_size=24 (answers at a time), as for `generate_answers`.
    Under torchrun or accelerate launch, each rank takes a share of the pictures and writes its own file, which the same
    number of ranks can resume. All ranks return the same results; the first one judges and writes the other files.
    The same arguments give the same figures. Pictures that were left out, and answers whose logits are NaN or infinite,
    are named in the results; pictures that the heads were chosen on are warned of. Raises InputError if `out` holds
    another run, or a run and not `resume`, or another process writes there; and if the judge compares captions and the
    pictures have none.
    """
    protocol, pictures = protocol or default_protocol(pictures), fitted(pictures, fit)
    if len(pictures):
        refuse_without_captions(judge, pictures)
    rank, ranks = shard = processes.launched()
    path = None if out is None else Path(out) / file_of(shard)
    options = {"path": path, "resume": resume, "progress": progress and rank == 0, **options}
    generations = generate_answers(model, pictures, conditions, protocol=protocol, shard=shard, **options)
    if ranks > 1:
        generations = _of_all_ranks(generations, names_of(pictures)[rank::ranks], out if rank == 0 else None)
    results = None
    if rank == 0:
        source = generations if out is None else out
        results = rejudge(source, judge, pictures=pictures, repeated_at=repeated_at, progress=progress)
        if out is not None:
            save(results, out)
    return processes.gathered(results)[0]


def merge(out: str | Path, *, judge: Judge | None = None) -> Results:
    """Merge the answers of all shards, then judge and write as `evaluate` does in one process.

    Raises InputError, with the names of the shards, if some are missing, not finished, or of different runs.
    """
    merge_generations(out)
    results = rejudge(out, judge)
    save(results, out)
    return results


def _of_all_ranks(generations: Generations, names: list[str], out: str | Path | None) -> Generations:
    """The answers of all ranks, in the order of one process; also written into `out`, unless it is None."""
    lines = interleave(processes.gathered((generations, names)))
    if out is not None:
        write_merged(Path(out), generations.run, lines)
    return Generations.of(generations.run, lines)


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
