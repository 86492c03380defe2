"""The command that reproduces the paper: paper."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaze_lens.cli import options, running

if TYPE_CHECKING:
    from gaze_lens.regions.picture import Picture

SCORED, CHOOSING = 24, 12  # synthetic strips on which the embedded model's heads are scored, and their number chosen
EVERY, TINY_EVERY = 50, 8  # tokens; the embedded model describes a panel in about eight
LEAST_BOX = 750.0  # square pixels of an object of COCO, as in the paper
APART = 1  # added to the seed of strips to steer, which makes strips that were not scored on


def paper(
    out: options.Out,
    rows: Annotated[list[str] | None, typer.Argument(help="fig3a, tab5, ...; by default all.")] = None,
    model: options.Model = "tiny",
    discovery: Annotated[str, options.pictures(help="Strips to score heads on; as --strips.")] = "synthetic:36",
    choosing: Annotated[
        int, options.pictures(help="How many of these, the last, serve only to choose the number of heads.")
    ] = CHOOSING,
    strips: options.Pictures = "synthetic:100",
    panels: options.Panels = None,
    coco: Annotated[Path | None, options.pictures(help="COCO's instances_*.json; images: --images.")] = None,
    images: Annotated[Path | None, options.pictures(help="The folder of COCO's images.")] = None,
    limit: options.Limit = None,
    fit: options.Fit = None,
    judge: options.Judge = None,
    scores: Annotated[Path | None, options.steering(help="scores.safetensors, from discover.")] = None,
    n_heads: Annotated[int | None, options.steering(help="How many heads; by default chosen on strips.")] = None,
    draws: Annotated[int, options.steering(help="Sets of random heads.")] = 5,
    every: Annotated[
        int | None, options.steering(help="Tokens after which a narration's target moves; by default 50, for tiny 8.")
    ] = None,
    models: Annotated[str | None, options.run(help="Of rows that compare models: names or folders, a,b,c.")] = None,
    study: Annotated[
        Path | None, options.run(help="Of row encoder: the folder of a study's figures, such as docs/study.")
    ] = None,
    seed: options.Seed = 0,
    shard: options.Shard = None,
    resume: options.Resume = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    config: options.Config = None,  # noqa: ARG001 - its callback reads it
) -> None:
    """Run the paper's experiments, by the names of its figures and tables; writes report.html."""
    from gaze_lens import data
    from gaze_lens import paper as experiments
    from gaze_lens.cli import arguments
    from gaze_lens.errors import InputError
    from gaze_lens.heads.head_scores import HeadScores
    from gaze_lens.inputs.fitting import fitted
    from gaze_lens.runs.shards import shard_of

    experiments.rows_named(rows or ["all"])
    if (coco is None) != (images is None):
        raise InputError("Photographs need both: --coco instances_val2017.json and --images val2017.")
    fitting = arguments.fit_of(fit)
    scored, chosen = _split(arguments.pictures_of(discovery, panels, None, seed, None), choosing, limit)
    steered = arguments.pictures_of(strips, panels, None, seed + APART, limit)
    photographs = None
    if coco is not None and images is not None:
        photographs = data.read_coco(coco, images, min_box=LEAST_BOX, seed=seed, limit=limit)
    loaded = running.load(model, device, dtype)
    running.warn_of_scale(loaded, steered)
    owner = {"model": loaded.cfg.model_name, "fingerprint": loaded.fingerprint}
    load = partial(running.load, device=device, dtype=dtype)
    judged = None
    if judge is not None:
        judged = arguments.judge_of(judge, model=loaded, cache=out / "replies.sqlite", load=load, known=chosen)
    with running.resumable(out, "rows and answers"):
        found = experiments.reproduce(
            loaded, rows or ["all"], discovery=fitted(scored, fitting), choosing=fitted(chosen, fitting),
            strips=fitted(steered, fitting), out=out, judge=judged, pictures=photographs,
            scores=None if scores is None else HeadScores.load(scores, **owner), n_heads=n_heads, draws=draws,
            every=every or (TINY_EVERY if model == "tiny" else EVERY),
            models=arguments.listed(models or ""), load=load, study=study, seed=seed,
            shard=shard_of(shard), resume=resume, echo=typer.echo,
        )  # fmt: skip
    running.print_lines([f"{len(found)} rows are done."], f"Written: {out / 'report.html'}, and files beside it.")


def _split(
    pictures: "Sequence[Picture]", choosing: int, limit: int | None
) -> "tuple[Sequence[Picture], Sequence[Picture]]":
    """The strips to score on, and the last of them, to choose on; at most `limit` of each."""
    from gaze_lens.errors import InputError

    if not 1 <= choosing < len(pictures):
        raise InputError(
            f"--choosing {choosing} of {len(pictures)} strips was given; give at least 1, and fewer than there are."
        )
    scored, chosen = pictures[:-choosing], pictures[-choosing:]
    return scored[:limit], chosen[:limit]
