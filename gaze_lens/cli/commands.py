"""The command line: `gaze-lens demo | discover | steer | evaluate | judge | merge | serve | info`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

import gaze_lens
from gaze_lens.cli import options
from gaze_lens.errors import GazeLensError
from gaze_lens.model_protocol import Model

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip


def main() -> None:
    """Run the command line. An error of the library or of a file is one line on standard error, and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names that are no UTF-8, and characters that the terminal has not
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (GazeLensError, OSError) as error:
        typer.secho(f"gaze-lens: {' '.join(str(error).split())}", fg="red", err=True)
        sys.exit(1)


def _show_version(shown: bool) -> bool:
    """Print the version and where it is installed, and exit."""
    if shown:
        typer.echo(f"gaze-lens {gaze_lens.__version__} from {Path(gaze_lens.__file__).parent}")
        raise typer.Exit
    return shown


@app.callback()
def every_command(
    version: Annotated[  # noqa: ARG001 - its callback does it all
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find, watch and steer the attention heads that track what a vision-language model is describing."""


@app.command(epilog="Example: gaze-lens demo --out demo && open demo/report.html")
def demo(
    out: options.Out = Path("demo"), seed: Annotated[int, typer.Option(help="Seed of strips and controls.")] = 0
) -> None:
    """Find and steer gaze heads in the embedded model, and write a report."""
    from gaze_lens.cli.demo import run_demo

    run_demo(out, seed=seed)


@app.command(
    epilog="Example: gaze-lens discover --model Qwen/Qwen3-VL-2B-Instruct --strips comics --out heads --device cuda"
)
def discover(
    model: options.Model,
    strips: Annotated[str, typer.Option(help="COMIC/p1.png, p2.png, ...; or hf:NAME, a data set on the hub.")],
    out: options.Out,
    panels: options.Panels = None,
    detect: Annotated[bool, typer.Option("--detect", help="With --panels: find the panels by their gutters.")] = False,
    windows: Annotated[int | None, typer.Option(help="Panels per strip, drawn from COMIC/PAGE_PANEL.jpg.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the windows.")] = 0,
    limit: options.Limit = None,
    fit: options.Fit = None,
    top: Annotated[int, typer.Option(help="Heads to keep in heads.json.")] = 100,
    shard: options.Shard = None,
    resume: options.Resume = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Score every head on a folder of strips; writes heads.json, scores.csv and figures."""
    from gaze_lens.cli import arguments, discovery
    from gaze_lens.runs.left_out import told
    from gaze_lens.runs.processes import part_of

    part = part_of(shard)
    pictures = arguments.strips_of(strips, panels, detect, windows, seed, limit).fitted(arguments.fit_of(fit))
    if _first() and part is None:
        typer.echo(str(pictures.check()))
    loaded = _load(model, device, dtype)
    with _resumable(out, "strips"):
        if part is not None:
            left_out = discovery.sample_strips(loaded, pictures, out, shard=part, resume=resume)
            _print_lines(told(left_out), _shard_done(shard, out))
            return
        scores = discovery.discover(loaded, pictures, out, top=top, resume=resume)
    if _first():
        _print_scores(scores, out)


def _print_scores(scores, out: Path) -> None:
    from gaze_lens.cli.discovery import left_out_of
    from gaze_lens.runs.left_out import told

    written = f"Written: {out / 'heads.json'} and more beside it."
    _print_lines([str(scores), str(scores.verdict())], *told(left_out_of(out)), written)


def _print_lines(lines: Sequence[str], *more: str) -> None:
    for line in (*lines, *more):
        typer.echo(line)


@app.command(
    epilog="Example: gaze-lens steer --model tiny --image strip.png --heads demo/heads.json --panel 3 --panels 6"
)
def steer(
    model: options.Model,
    image: Annotated[Path, typer.Option(help="The picture.")],
    heads: Annotated[Path, typer.Option(help="heads.json, from discover.")],
    prompt: Annotated[str, typer.Option(help="The question.")] = "What is going on in this picture?",
    box: Annotated[str | None, typer.Option(help="The target: x,y,w,h in pixels.")] = None,
    panel: Annotated[int | None, typer.Option(help="The target: a panel, counted from one ('panel 3').")] = None,
    panels: Annotated[int | None, typer.Option(help="How many panels of equal width the picture has.")] = None,
    fit: options.Fit = None,
    n_heads: options.Count = None,
    strength: options.Strength = 10_000.0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answers.")] = 40,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Ask about a picture twice: as it is, and with the heads steered to a box or panel."""
    from gaze_lens import boost_and_suppress
    from gaze_lens import steer as steering
    from gaze_lens.cli import arguments

    picture, target = arguments.target_of(image, box, panel, panels)
    loaded = _load(model, device, dtype)
    head_set = arguments.head_set_of(loaded, heads, n_heads, force=force)
    inputs = loaded.prepare(picture, prompt, fit=arguments.fit_of(fit))
    hooks = steering(head_set, inputs.region(target), mode=boost_and_suppress(strength))
    for name, fwd_hooks in (("as it is", []), (f"steered to {target}", hooks)):
        answer = loaded.generate(inputs, fwd_hooks=fwd_hooks, max_new_tokens=max_new_tokens)
        typer.secho(f"{name}:", bold=True)
        typer.echo(str(answer))


@app.command(
    epilog="Examples: gaze-lens evaluate --model tiny --strips synthetic:100 --out out; gaze-lens evaluate --model "
    "Qwen/Qwen3-VL-2B-Instruct --strips comics --heads heads/heads.json --out out --device cuda --resume"
)
def evaluate(
    out: options.Out,
    model: options.Model = "tiny",
    strips: options.Pictures = "synthetic:100",
    panels: options.Panels = None,
    annotations: options.Annotations = None,
    limit: options.Limit = None,
    fit: options.Fit = None,
    protocol: options.Protocol = None,
    prompt: options.Prompt = None,
    judge: options.Judge = None,
    heads: options.Heads = None,
    n_heads: options.Count = None,
    conditions: options.Conditions = "gaze,random,all,none",
    counts: options.Counts = None,
    strengths: options.Strengths = None,
    force: options.Force = False,
    seed: options.Seed = 0,
    shard: options.Shard = None,
    resume: options.Resume = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    config: options.Config = None,  # noqa: ARG001 - its callback reads it
    max_new_tokens: options.Length = None,
    every: options.Every = None,
    end: options.End = None,
    scores: options.Scores = None,
    mode: options.Mode = "boost-and-suppress",
    strength: options.Bias = 10_000.0,
    draws: options.Draws = 5,
    below: options.Below = None,
    batch_size: options.BatchSize = 24,
) -> None:
    """How often do steered answers describe their targets? With controls and intervals; writes report.html."""
    from gaze_lens import evaluation
    from gaze_lens.cli import arguments
    from gaze_lens.evaluation.merge import file_of
    from gaze_lens.evaluation.records import losses_told
    from gaze_lens.inputs.fitting import fitted
    from gaze_lens.runs.processes import part_of

    name = protocol or ("question" if annotations is None else "regions")
    settings: dict[str, Any] = {
        "protocol": arguments.protocol_of(name, prompt, max_new_tokens, every, end),
        "resume": resume, "seed": seed, "batch_size": batch_size,
    }  # fmt: skip
    part = part_of(shard)
    judge_object = None if judge in (None, "likelihood") else arguments.judge_of(judge, cache=out / "replies.sqlite")
    pictures = fitted(arguments.pictures_of(strips, panels, annotations, seed, limit), arguments.fit_of(fit))
    loaded = _load(model, device, dtype)
    judge_object = arguments.judge_of(judge, model=loaded) if judge == "likelihood" else judge_object
    head_set, all_scores = arguments.heads_of(loaded, heads, scores, n_heads, force=force)
    selected = arguments.conditions_of(
        loaded, head_set, all_scores, conditions, mode=arguments.STEERING[mode], strength=strength, counts=counts,
        biases=strengths, draws=draws, below=below, seed=seed,
    )  # fmt: skip
    with _resumable(out, "answers"):
        if part is not None:
            path = out / file_of(part)
            answers = evaluation.generate_answers(loaded, pictures, selected, path=path, shard=part, **settings)
            _print_lines(losses_told(answers), _shard_done(shard, out))
            return
        results = evaluation.evaluate(loaded, pictures, selected, judge=judge_object, out=out, **settings)
    if _first():
        typer.echo(str(results))
        typer.echo(f"Written: {out / 'report.html'}, and tables beside it.")


@app.command(epilog="Example: gaze-lens merge out")
def merge(
    out: Annotated[Path, typer.Argument(help="The folder that discover or evaluate wrote into, with --shard i/n.")],
    top: Annotated[int, typer.Option(help="After discover: heads to keep in heads.json.")] = 100,
    judge: options.Judge = None,
) -> None:
    """Merge the shards of a run when all are done; writes what one process would have written."""
    from gaze_lens.cli import arguments, discovery
    from gaze_lens.evaluation.runner import merge as merge_answers

    if discovery.has_shards(out):
        _print_scores(discovery.merge_samples(out, top=top), out)
    else:
        judge_object = None if judge is None else arguments.judge_of(judge, cache=out / "replies.sqlite")
        typer.echo(str(merge_answers(out, judge=judge_object)))
        typer.echo(f"Written: {out / 'report.html'}, and tables beside it.")


@app.command(epilog="Example: gaze-lens judge out --judge exact")
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
    loaded = _load(model, device, dtype) if judge == "likelihood" and model is not None else None
    judge_object = None
    if judge is not None:
        judge_object = arguments.judge_of(judge, model=loaded, base_url=base_url, cache=out / "replies.sqlite")
    results = rejudge(out, judge_object, pictures=pictures)
    folder = out / slug(results.judge)
    save(results, folder)
    typer.echo(str(results))
    typer.echo(f"Written: {folder / 'report.html'}, and tables beside it.")


@app.command(epilog="Example: gaze-lens serve --model Qwen/Qwen3-VL-2B-Instruct --heads heads/heads.json --device cuda")
def serve(
    model: options.Model = "tiny",
    heads: options.Heads = None,
    n_heads: options.Count = None,
    host: Annotated[str, typer.Option(help="The address to bind to; there is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8765,
    name: Annotated[
        list[str] | None, typer.Option(help="Another host name that browsers use; may be repeated.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer that may be asked for.")] = 200,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Serve a page on this machine: hover over a panel, and the model looks there from its next word on."""
    from gaze_lens import serve as serving
    from gaze_lens.cli import arguments

    serving.require_extra()
    limits = serving.Limits(new_tokens=max_new_tokens)
    loaded = _load(model, device, dtype)
    head_set, _ = arguments.heads_of(loaded, heads, None, n_heads, force=force)
    serving.serve(loaded, head_set, host=host, port=port, names=tuple(name or ()), limits=limits)


@app.command(epilog="Example: gaze-lens info Qwen/Qwen3-VL-2B-Instruct --size 1536x256")
def info(
    model: Annotated[str, typer.Argument(help="A Hugging Face name, a checkpoint folder, or 'tiny'.")],
    size: Annotated[str, typer.Option(help="An image size, for the number of its tokens.")] = "1536x256",
) -> None:
    """Which hooks each layer has, how a picture becomes tokens, and what is not supported; reads no weights."""
    from gaze_lens import HookedVLM
    from gaze_lens.cli import arguments
    from gaze_lens.model.loading import skeleton
    from gaze_lens.tiny import FOLDER

    pixels = arguments.size_of(size)
    name_or_folder = str(FOLDER) if model == "tiny" else model
    typer.echo(str(HookedVLM.wrap(*skeleton(name_or_folder), name=model).capabilities(pixels)))


def _first() -> bool:
    from gaze_lens.runs.processes import launched

    return launched()[0] == 0


@contextmanager
def _resumable(out: Path, done: str) -> Iterator[None]:
    """Say how to continue if Ctrl-C stops the run."""
    try:
        yield
    except KeyboardInterrupt:
        typer.secho(f"Stopped; the {done} done so far are in {out}. Add --resume to go on.", err=True)
        raise typer.Exit(130) from None


def _shard_done(shard: str | None, out: Path) -> str:
    return f"Shard {shard} is done. When all are: gaze-lens merge {out}"


def _load(model: str, device: str | None, dtype: str) -> Model:
    from gaze_lens import HookedVLM, load_tiny
    from gaze_lens.runs.processes import own_device

    if model == "tiny":
        return load_tiny(device=own_device(device) or "cpu", dtype="float32" if dtype == "auto" else dtype)
    return HookedVLM.from_pretrained(model, device=own_device(device), dtype=dtype)
