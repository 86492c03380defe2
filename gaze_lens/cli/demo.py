"""`gaze-lens demo`: find gaze heads in the embedded model, steer it, and write a report.

run_demo(Path("demo"), seed=0)
"""

from collections.abc import Sequence
from pathlib import Path

import typer

import gaze_lens as gl
from gaze_lens import show
from gaze_lens.comics.generator import synthetic
from gaze_lens.comics.questions import NARRATE_FREELY, OPEN
from gaze_lens.evaluation import Condition, Results, asking, random_order, switch_at_panel_ends
from gaze_lens.evaluation.judges import CaptionMatch, Description, ExactDescription
from gaze_lens.evaluation.statistics import Estimate
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model.generation import Generation
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.files import write_whole, writing
from gaze_lens.show.report import Report
from gaze_lens.tiny import HEADS

SCORED, STEERED = 24, 24  # strips


def run_demo(out: Path, *, seed: int = 0) -> None:
    """Find and steer heads, print the results, and write report.html, attention.html, heads.json, tables and figures.

    The strips depend on the seed; the model was not trained on them.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    model = gl.load_tiny()
    strips = synthetic(SCORED + STEERED, seed=10_000 + seed)
    report = Report(
        "Gaze heads in a small vision-language model",
        f"{model.cfg.n_layers} layers of {model.cfg.n_heads} heads, trained by this project on comic strips of "
        "coloured shapes. Which heads look at what it describes? Does it describe what they are made to look at?",
    )
    scores, heads = find(model, strips[:SCORED], report, out)
    example(model, strips[SCORED], heads, report, out)
    measure(model, strips[SCORED:], scores, heads, report, seed=seed)
    schedule(model, strips[SCORED + 1], heads, report, out, seed=seed)
    report.save(out / "report.html")
    typer.echo(f"\nWritten: {out / 'report.html'}, attention.html (interactive), heads.json, scores.csv and figures.")


def find(model: Model, strips: Sequence[Picture], report: Report, out: Path) -> tuple[HeadScores, HeadSet]:
    """Score all heads, print the ranking and the best head's matrix."""
    _title(f"1. Which heads look at the panel that is asked about? ({len(strips)} fresh strips)")
    scores = gl.score_heads(model, strips, batch_size=4)
    heads = scores.top(HEADS)
    heads.save(out / "heads.json")
    scores.save(out / "scores.safetensors")
    scores.to_csv(out / "scores.csv")
    typer.echo(str(scores))
    typer.echo(str(scores.verdict()))
    best = heads[0]
    typer.echo(f"\n{best}: attention mass on each panel (columns) when asked about each (rows)")
    typer.echo(_matrix(scores.matrix[best.layer, best.head].tolist()))
    map_plot, matrices = show.scores(scores), show.matrices(scores, heads)
    map_plot.save(out / "scores.png")
    matrices.save(out / "matrices.png")
    report.section(
        "Which heads look where?",
        "For every panel the model is asked what happens in it. The gaze score of a head is the attention that the "
        "last prompt token pays to the panel asked about, averaged over panels; a head that looks everywhere evenly "
        f"scores at most {1 / len(strips[0].regions):.2f}. {len(strips)} strips that the model was not trained on. "
        f"The {len(heads)} best heads, which are steered below: {heads}. "
        "Training penalised attention to the image; that is why so few heads do it.",
    )
    report.figure(map_plot, "Gaze score of every head.")
    report.figure(
        matrices, f"The {len(heads)} best heads: attention on each panel (columns) when asked about each (rows)."
    )
    return scores, heads


def example(model: Model, strip: Picture, heads: HeadSet, report: Report, out: Path) -> None:
    """Steer one strip to each of its panels and show the answers beside the baseline."""
    _title(f"2. One question, {len(strip.regions)} targets: {OPEN!r}, steering {heads}")
    inputs = model.encode(model.prepare(strip, OPEN))
    baseline = str(model.generate(inputs, max_new_tokens=15))
    steered = {
        name: str(model.generate(inputs, fwd_hooks=gl.steer(heads, inputs.region(name)), max_new_tokens=15))
        for name in strip.regions
    }
    typer.echo(f"{'unsteered':<12}{baseline}")
    for name, text in steered.items():
        typer.echo(f"{name:<12}{text:<38}(shows: {strip.captions[name]})")
    plot = show.steering(strip, baseline, steered)
    plot.save(out / "steering.png")
    attention = show.attention_map(model, inputs, heads)
    attention.save(out / "attention.png")
    viewer = show.attention(model, inputs, heads, max_new_tokens=15)
    page = viewer.to_html(steered=list(strip.regions))
    write_whole(out / "attention.html", page.encode())
    report.section(
        "Steering one strip",
        f"The question is always {OPEN!r}. The attention scores of {heads} are raised on one panel and lowered on the "
        "rest of the picture, before the softmax, in the prompt and at every new word. Nothing else is touched.",
    )
    report.figure(plot, f"Unsteered, the model says: {baseline}")
    report.figure(attention, f"Where {heads} look, unsteered, when the first word is about to come.")
    caption = "Hover over a word to see where the heads looked; click a panel to read the answer steered to it."
    report.page(page, caption, file="attention.html")


def measure(
    model: Model, strips: Sequence[Picture], scores: HeadScores, heads: HeadSet, report: Report, *, seed: int
) -> None:
    """Steering accuracy with controls, by forced choice."""
    _title(f"3. How often does it work? ({len(strips)} strips x {len(strips[0].regions)} targets)")
    every = HeadSet([(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)])
    conditions = [
        Condition(f"gaze heads ({len(heads)} of {len(every)})", heads),
        Condition(f"random heads ({len(heads)})", scores.controls(len(heads), seed=seed)),
        Condition(f"all heads ({len(every)})", every),
        Condition("no heads"),
    ]
    steered = gl.evaluate(model, strips, conditions)
    questions = gl.evaluate(model, strips, [Condition("asked about the panel instead")], protocol=asking())
    rows = [*_rows(steered), *_rows(questions)]
    typer.echo(_table(("condition", "describes the target", "word for word"), rows))
    chance = 1 / len(strips[0].regions)
    report.section(
        "How often does it work?",
        f"Every panel of {len(strips)} fresh strips is the target once. An answer counts where its words match the "
        f"target's description best among the strip's panels (chance {100 * chance:.1f} %). Random heads are drawn "
        "from the half with the lowest scores. Intervals are bootstrapped over strips, 95 %.",
    )
    report.facts([(f"{100 * steered.accuracy(name).value:.0f} %", name) for name in steered.names])
    report.table(("condition", "describes the target", "word for word"), rows)


def schedule(model: Model, strip: Picture, heads: HeadSet, report: Report, out: Path, *, seed: int) -> None:
    """Narrate while the target moves in a random order, and draw where the heads look."""
    order = random_order(strip, seed=seed)
    _title(f"4. Steering while it talks: the target moves {' > '.join(order)}")
    generation, switches, pieces = switch_at_panel_ends(model, strip, heads, order, end=".", prompt=NARRATE_FREELY)
    descriptions = [Description(piece, name, strip) for name, piece in zip(order, pieces, strict=False)]
    judgements = CaptionMatch().judge_all(descriptions, progress=False)
    rows = [
        (str(step), one.target, one.text, judgement.match or "none")
        for step, one, judgement in zip(switches, descriptions, judgements, strict=True)
    ]
    typer.echo(_table(("step", "target", "text", "describes"), rows))
    inputs = model.encode(model.prepare(strip, NARRATE_FREELY))
    targets = list(zip(switches, order, strict=False))
    steering = gl.steer(heads, schedule=[(step, inputs.region(name)) for step, name in targets])
    steered = gl.track(model, inputs, heads, fwd_hooks=steering, max_new_tokens=_length(model, generation, switches))
    free = gl.track(model, inputs, heads, max_new_tokens=100)
    typer.echo(f"unsteered: {free}")
    report.section(
        "Steering while it talks",
        f"The request is {NARRATE_FREELY!r} Whenever the model ends a sentence, the target moves on, in a random "
        "order. The last column says which panel each sentence describes.",
    )
    report.table(("step", "target", "text", "describes"), rows, [judgement.correct for judgement in judgements])
    figures = (
        ("staircase_free.png", show.staircase(free), f"Unsteered, the model says: {free}"),
        (
            "staircase_steered.png", show.staircase(steered, schedule=targets),
            f"Steered, up to the end of the last sentence that has a target, it says: {steered} Frames: the panel that "
            "the heads are steered to; dashed lines: where the target changes.",
        ),
    )  # fmt: skip
    for name, plot, caption in figures:
        plot.save(out / name)
        report.figure(plot, caption)


def _length(model: Model, generation: Generation, switches: Sequence[int]) -> int:
    """The number of tokens up to the end of the last sentence that has a target."""
    ids = generation.tokens[0].tolist()
    ends = (n for n in range(switches[-1] + 1, len(ids)) if "." in model.processor.decode(ids[switches[-1] : n]))
    return next(ends, len(ids))


def _rows(results: Results) -> list[tuple[str, str, str]]:
    exact = gl.rejudge(results.generations, ExactDescription(), progress=False)
    return [(name, _percent(results.accuracy(name)), _percent(exact.accuracy(name))) for name in results.names]


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _matrix(rows: Sequence[Sequence[float]]) -> str:
    head = " " * 9 + "".join(f"{f'panel {column + 1}':>9}" for column in range(len(rows)))
    lines = [f"{f'panel {index + 1}':<9}" + "".join(f"{value:9.2f}" for value in row) for index, row in enumerate(rows)]
    return "\n".join([head, *lines])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    )


def _title(text: str) -> None:
    typer.secho(f"\n{text}", bold=True)
