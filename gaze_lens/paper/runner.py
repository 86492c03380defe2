"""`gl.paper.reproduce`: run rows of the paper's table on a model, and write what they found beside the paper's figures.

found = gl.paper.reproduce(model, ["fig3a", "tab5"], discovery=some, choosing=others, strips=still_others, out="paper")
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gaze_lens.data.picture_digests import pictures_digest
from gaze_lens.errors import GazeLensError, InputError
from gaze_lens.evaluation.judges import Judge
from gaze_lens.evaluation.judging import name_of, refuse_without_captions
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.model.weights_digest import weights_digest
from gaze_lens.model_protocol import Model
from gaze_lens.paper.choosing import HEADS, find_heads
from gaze_lens.paper.choosing import cost as cost_of_heads
from gaze_lens.paper.context import Context
from gaze_lens.paper.files import Outcome, begin, read_rows, write_row
from gaze_lens.paper.pace import Pace, in_words, measured
from gaze_lens.paper.page import write_page
from gaze_lens.paper.registry import rows_named
from gaze_lens.paper.row import Cost, Row, Settings
from gaze_lens.paper.study_figures import Study, read_study
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.digests import digest
from gaze_lens.runs.shards import Shard, check_shard

Echo = Callable[[str], None]


def reproduce(
    model: Model,
    rows: Sequence[str] = ("all",),
    *,
    discovery: Sequence[Picture],
    choosing: Sequence[Picture],
    strips: Sequence[Picture],
    out: str | Path,
    judge: Judge | None = None,
    scores: HeadScores | None = None,
    pictures: Sequence[Picture] | None = None,
    models: Sequence[str] = (),
    load: Callable[[str], Model] | None = None,
    study: str | Path | None = None,
    n_heads: int | None = None,
    draws: int = 5,
    every: int = 50,
    seed: int = 0,
    resume: bool = False,
    shard: Shard = (0, 1),
    progress: bool = True,
    echo: Echo = print,
) -> dict[str, Outcome]:
    """Run rows of the paper's table; each is written as soon as it is done, and a stopped reproduction is resumed.

    rows: the paper's names ("fig3a", "tab5"), or "all".
    discovery, choosing, strips: three sets of strips: to score heads on, to choose their number on, to steer. scores:
        of all heads, in place of those on `discovery`. n_heads: in place of the number that is chosen on `choosing`.
    out: the folder of results; report.html there has every row that is done.
    judge: by default the captions decide. pictures: photographs with named objects; otherwise synthetic scenes.
    models: names or folders, for the rows that compare models; load: loads one.
    study: the folder of a study of frozen encoders, such as docs/study of a checkout: row "encoder" shows its figures.
    draws: sets of random heads. every: tokens after which the target of a dynamic narration moves.
    shard: (i, n): answers about every n-th strip; rows that do not rest on answers are dealt out whole.
    Every row says its forwards, and how long they may take, before it begins (`echo`).
    Returns name -> outcome, of all rows that are in the folder. Raises InputError for unknown rows, for a folder of
    another reproduction, and for a judge that needs captions where the strips have none. A row that the library refuses
    leaves the others; then, at the end, GazeLensError says which.
    """
    out, selected = Path(out), rows_named(rows)
    refuse_without_captions(judge, strips)
    settings = Settings(
        len(strips), len(discovery), len(choosing), _panels(strips), model.cfg.n_layers, model.cfg.n_heads,
        draws=draws, pictures=len(pictures or ()), models=len(models), every=every, seed=seed,
    )  # fmt: skip
    studied = None if study is None else read_study(study)
    described = _described(model, discovery, choosing, strips, pictures, judge, models, studied, settings)
    begin(out, described, resume=resume)
    is_whole, pace = check_shard(shard)[1] == 1, measured(model, strips[0])
    if is_whole and not (out / HEADS).exists():
        echo(_announced("Heads to steer", cost_of_heads(settings), pace))
    scores, heads = find_heads(
        model, discovery, choosing, out, scores=scores, n_heads=n_heads, judge=judge, seed=seed, may_make=is_whole,
        progress=progress,
    )  # fmt: skip
    settings = replace(settings, chosen=len(heads))
    context = Context(
        model, settings, out, strips, scores, heads, discovery, choosing, judge, pictures, models, load, shard,
        progress, studied,
    )  # fmt: skip
    refused = _run_all(context, selected, pace, echo)
    if is_whole:
        write_page(context, read_rows(out))
    if refused:
        reasons = "; ".join(f"{name}: {error}" for name, error in refused.items())
        raise GazeLensError(f"{len(refused)} rows were refused, and the others are in {out}. {reasons}")
    return read_rows(out)


def _run_all(context: Context, rows: Sequence[Row], pace: Pace, echo: Echo) -> dict[str, GazeLensError]:
    """Run the rows that are not done, those of this shard. Returns those that the library refused, with the error."""
    done, refused = read_rows(context.out), {}
    for index, row in enumerate(rows):
        if row.name in done:
            echo(f"{_title(row)}: done already")
            continue
        if reason := row.reason(context):
            echo(f"{_title(row)}: impossible here. {reason}")
            write_row(context.out, Outcome(row.name, reason=reason))
            continue
        echo(_announced(_title(row), row.cost(context.settings), pace))
        try:
            _run(context, row, index, echo)
        except GazeLensError as error:
            echo(f"  refused: {error}")
            refused[row.name] = error
    return refused


def _announced(title: str, cost: Cost, pace: Pace) -> str:
    """What is printed before something begins."""
    return (
        f"{title}: up to {cost.forwards:,} forwards ({cost.prefills:,} prefills, {cost.steps:,} decode steps), about "
        f"{in_words(pace.seconds(cost))}"
    )


def _run(context: Context, row: Row, index: int, echo: Echo) -> None:
    """Run a row, or this shard's part of it."""
    first, number = context.shard
    begun = time.monotonic()
    if row.runs is not None and number > 1:
        parts = [context.answer_part(run) for run in row.runs(context)]
        if not all(parts):
            echo("  This shard's answers are written; the last shard, or a call without --shard, sums up.")
            return
    elif index % number != first:
        echo("  another shard's")
        return
    result = row.run(context)
    write_row(context.out, Outcome(row.name, result, None, row.cost(context.settings), time.monotonic() - begun))
    for figure in result.figures:
        echo(f"  {figure.name}: {figure.shown()} {figure.interval()} (paper: {row.paper.get(figure.name, 'none')})")


def _title(row: Row) -> str:
    return f"{row.name} (row {row.number}), {row.title}"


def _panels(strips: Sequence[Picture]) -> int:
    if not len(strips):
        raise InputError("No strips were given to steer; give at least one.")
    return len(strips[0].regions)


def _described(
    model: Model, discovery: Sequence[Picture], choosing: Sequence[Picture], strips: Sequence[Picture],
    pictures: Sequence[Picture] | None, judge: Judge | None, models: Sequence[str],
    study: Study | None, settings: Settings,
) -> dict[str, Any]:  # fmt: skip
    """What two calls on one folder must have in common."""
    sets = {"discovery": discovery, "choosing": choosing, "strips": strips, "pictures": pictures or []}
    digests = {name: pictures_digest(one) if len(one) else None for name, one in sets.items()}
    return {
        "format": "gaze_lens paper 1", "model": model.cfg.model_name, "fingerprint": model.fingerprint,
        "weights": weights_digest(model), **digests, "judge": None if judge is None else name_of(judge),
        "models": list(models), "study": None if study is None else digest(repr(study)),
        "draws": settings.draws, "every": settings.every, "seed": settings.seed,
    }  # fmt: skip
