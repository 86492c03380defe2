"""Commands that find heads: demo, discover."""

from pathlib import Path
from typing import Annotated

import typer

from gaze_lens.cli import options, running
from gaze_lens.errors import InputError

TOP = 100


def demo(
    out: options.Out = Path("demo"), seed: Annotated[int, typer.Option(help="Seed of strips and controls.")] = 0
) -> None:
    """Find and steer gaze heads in the embedded model, and write a report."""
    from gaze_lens.cli.demo import run_demo

    run_demo(out, seed=seed)


def discover(
    model: options.Model,
    strips: Annotated[str, typer.Option(help="COMIC/p1.png, p2.png, ...; hf:NAME, of the hub; or synthetic:N.")],
    out: options.Out,
    panels: options.Panels = None,
    detect: Annotated[bool, typer.Option("--detect", help="With --panels: find the panels by their gutters.")] = False,
    windows: Annotated[int | None, typer.Option(help="Panels per strip, drawn from COMIC/PAGE_PANEL.jpg.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the windows, and of synthetic strips.")] = 0,
    limit: options.Limit = None,
    height: options.Height = None,
    fit: options.Fit = None,
    question: Annotated[
        str | None,
        typer.Option(
            help="About each panel, with {n} (1, 2, ...) or {ordinal} (first, ...).", callback=options.check_question
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Heads to keep in heads.json.")] = TOP,
    rank_by: Annotated[options.Ranking, typer.Option(help="What the heads in heads.json are the best by.")] = "score",
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Cut panels to the sizes of the paper's scripts.")
    ] = False,
    shard: options.Shard = None,
    resume: options.Resume = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Score every head on a folder of strips; writes heads.json, scores.csv and figures."""
    from gaze_lens.cli import arguments, discovery
    from gaze_lens.runs.left_out import reason_lines
    from gaze_lens.runs.processes import part_of

    part = part_of(shard)
    if part is not None and (top, rank_by) != (TOP, "score"):
        raise InputError(
            "--top and --rank-by choose heads from the scores of all strips: leave them out with --shard, and give "
            "them to `gaze-lens merge`."
        )
    source = arguments.strips_of(strips, panels, detect, windows, seed, limit, height=height, as_published=as_published)
    pictures = source.fitted(arguments.fit_of(fit))
    if running.is_first() and part is None:
        typer.echo(str(pictures.check()))
    loaded = running.load(model, device, dtype)
    running.warn_of_scale(loaded, pictures)
    with running.resumable(out, "strips"):
        if part is not None:
            left_out = discovery.sample_strips(loaded, pictures, out, shard=part, question=question, resume=resume)
            running.print_lines(reason_lines(left_out), running.shard_done(shard, out))
            return
        scores = discovery.discover(loaded, pictures, out, top=top, rank_by=rank_by, question=question, resume=resume)
    if running.is_first():
        running.print_scores(scores, out)
