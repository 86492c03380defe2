"""Commands that measure: evaluate, merge, judge."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gaze_lens.cli import options, running
from gaze_lens.cli.option_groups import (
    HeadOptions,
    PictureOptions,
    QuestionOptions,
    RareOptions,
    RunOptions,
    with_groups,
)


@with_groups
def evaluate(
    out: options.Out,
    model: options.Model = "tiny",
    *,
    pictures: PictureOptions,
    questions: QuestionOptions,
    heads: HeadOptions,
    run: RunOptions,
    config: options.Config = None,  # noqa: ARG001 - its callback reads it
    rare: RareOptions,
) -> None:
    """How often do steered answers describe their targets? With controls and intervals; writes report.html."""
    from gaze_lens import evaluation
    from gaze_lens.cli import arguments
    from gaze_lens.evaluation.merge import file_of
    from gaze_lens.evaluation.records import loss_lines
    from gaze_lens.runs.processes import part_of

    part, protocol = part_of(run.shard), questions.asked(rare, pictures)
    judge = questions.judge
    asks_model = judge is not None and judge.startswith("likelihood")
    judge_object = None if judge is None or asks_model else arguments.judge_of(judge, cache=out / "replies.sqlite")
    strips = pictures.read(run.seed)
    loaded = running.load(model, run.device, run.dtype)
    running.warn_of_scale(loaded, strips)
    if judge is not None and asks_model:
        load = partial(running.load, device=run.device, dtype=run.dtype)
        judge_object = arguments.judge_of(judge, model=loaded, load=load, known=strips)
    conditions = heads.conditions_for(loaded, rare, run.seed)
    settings: dict[str, Any] = {"resume": run.resume, "seed": run.seed, "batch_size": rare.batch_size}
    with running.resumable(out, "answers"):
        if part is not None:
            path = out / file_of(part)
            answers = evaluation.generate_answers(
                loaded, strips, conditions, protocol=protocol, path=path, shard=part, **settings
            )
            running.print_lines(loss_lines(answers), running.shard_done(run.shard, out))
            return
        results = evaluation.evaluate(
            loaded, strips, conditions, protocol=protocol, judge=judge_object, out=out,
            repeated_at=rare.repeated_at, **settings,
        )  # fmt: skip
    if running.is_first():
        typer.echo(str(results))
        typer.echo(f"Written: {out / 'report.html'}, and tables beside it.")


def merge(
    out: Annotated[Path, typer.Argument(help="The folder that discover or evaluate wrote into, with --shard i/n.")],
    top: Annotated[int, typer.Option(help="After discover: heads to keep in heads.json.")] = 100,
    rank_by: Annotated[options.Ranking, typer.Option(help="After discover: what these are the best by.")] = "score",
    judge: options.Judge = None,
) -> None:
    """Merge the shards of a run when all are done; writes what one process would have written."""
    from gaze_lens.cli import arguments, discovery
    from gaze_lens.evaluation.runner import merge as merge_answers

    if discovery.has_shards(out):
        running.print_scores(discovery.merge_samples(out, top=top, rank_by=rank_by), out)
    else:
        judge_object = None if judge is None else arguments.judge_of(judge, cache=out / "replies.sqlite")
        typer.echo(str(merge_answers(out, judge=judge_object)))
        typer.echo(f"Written: {out / 'report.html'}, and tables beside it.")


def judge(
    out: Annotated[Path, typer.Argument(help="The folder that evaluate wrote into.")],
    judge: options.Judge = None,
    model: Annotated[str | None, typer.Option(help="The model that judges, for --judge likelihood.")] = None,
    strips: Annotated[str | None, typer.Option(help="The pictures of the run, for judges that need them.")] = None,
    panels: options.Panels = None,
    annotations: options.Annotations = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    base_url: Annotated[str | None, typer.Option(help="Of another server with the same protocol.")] = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Judge the answers of evaluate with another judge; the model does not run again."""
    from gaze_lens.cli import arguments
    from gaze_lens.evaluation import rejudge
    from gaze_lens.evaluation.judging import slug
    from gaze_lens.evaluation.runner import save

    pictures = None if strips is None else arguments.pictures_of(strips, panels, annotations, seed, limit)
    loaded = running.load(model, device, dtype) if judge == "likelihood" and model is not None else None
    judge_object = None
    if judge is not None:
        judge_object = arguments.judge_of(
            judge, model=loaded, base_url=base_url, cache=out / "replies.sqlite",
            load=partial(running.load, device=device, dtype=dtype), known=pictures,
        )  # fmt: skip
    results = rejudge(out, judge_object, pictures=pictures)
    folder = out / slug(results.judge)
    save(results, folder)
    typer.echo(str(results))
    typer.echo(f"Written: {folder / 'report.html'}, and tables beside it.")
