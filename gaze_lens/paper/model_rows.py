"""Rows over several models: sizes and families, junk along the number of heads, depth of the heads (20 to 23).

Each model's heads are scored, and their number is chosen, on the strips that serve for that; then they, random heads
and all heads are steered on the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gaze_lens.comics.questions import OPEN
from gaze_lens.errors import InputError
from gaze_lens.evaluation.protocols import question
from gaze_lens.evaluation.results import Results
from gaze_lens.evaluation.runner import evaluate
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.paper.choosing import cost as cost_of_heads
from gaze_lens.paper.choosing import find_heads
from gaze_lens.paper.context import REPEATED, Context
from gaze_lens.paper.row import Cost, Figure, Row, RowResult, Settings, answers
from gaze_lens.paper.selected_heads import compared
from gaze_lens.paper.steering_rows import QUESTION, by_published_count, count_runs, counts_cost, counts_note, tables_of
from gaze_lens.paper.study_figures import OUTCOMES, TREATMENTS
from gaze_lens.runs.digests import digest

SHOWN = ("gaze", "random", "all")


@dataclass(frozen=True)
class Member:
    """One of several models: its name, the heads that were steered, its shape, and how its answers were judged."""

    name: str
    heads: HeadSet
    layers: int
    heads_per_layer: int
    results: Results


def members(context: Context) -> list[Member]:
    """All models of the context, scored and steered; loaded one after the other, once for all rows."""
    if "models" not in context.kept:
        context.kept["models"] = [_member(context, name) for name in context.models]
    return context.kept["models"]


def _member(context: Context, name: str) -> Member:
    """Score the heads of a model, choose their number, and steer them; in OUT/models/NAME."""
    if context.load is None:
        raise InputError("Rows over several models load them: give load=, a function from a name to a model.")
    model, out = context.load(name), context.out / "models" / digest(name)[:12]
    options: dict[str, Any] = {"judge": context.judge, "seed": context.settings.seed, "progress": context.progress}
    scores, heads = find_heads(model, context.discovery, context.choosing, out, **options)
    settings = replace(context.settings, layers=model.cfg.n_layers, heads=model.cfg.n_heads, chosen=len(heads))
    own = replace(context, model=model, settings=settings, out=out, scores=scores, heads=heads)
    conditions = [one for one in compared(own) if one.name in SHOWN]
    results = evaluate(
        model, context.strips, conditions, protocol=question(OPEN, max_new_tokens=QUESTION), out=out / "question",
        resume=True, repeated_at=REPEATED, **options,
    )  # fmt: skip
    return Member(name, heads, settings.layers, settings.heads, results)


def sizes(context: Context) -> RowResult:
    """Row 20: accuracy at the chosen number of heads, and which share of all heads that is."""
    figures: list[Figure] = []
    for one in members(context):
        share = 100 * len(one.heads) / (one.layers * one.heads_per_layer)
        figures += [
            Figure.rate(f"{one.name}, gaze", one.results.accuracy("gaze")),
            Figure(f"{one.name}, heads", len(one.heads)),
            Figure(f"{one.name}, share of all heads in %", share),
        ]
    return RowResult(tuple(figures), _judge_of(context), NOTES)


def families(context: Context) -> RowResult:
    """Row 21: the chosen heads, random ones and all, model by model; and how deep the chosen ones are."""
    figures: list[Figure] = []
    for one in members(context):
        names = [name for name in SHOWN if name in one.results.names]
        figures += [Figure.rate(f"{one.name}, {name}", one.results.accuracy(name)) for name in names]
        figures += depth_figures(one.heads, one.layers, f"{one.name}, ")
    return RowResult(tuple(figures), _judge_of(context), NOTES)


def depth_figures(heads: HeadSet, layers: int, prefix: str = "") -> list[Figure]:
    """How deep heads are: the median of layer over number of layers, 0 to 1, and the share in the second half."""
    depth = np.array([head.layer / layers for head in heads])
    return [
        Figure(f"{prefix}median depth", float(np.median(depth))),
        Figure(f"{prefix}heads in the second half in %", float(100 * (depth >= 0.5).mean())),
    ]


def junk(context: Context) -> RowResult:
    """Row 22: answers that describe nothing, along the number of heads; and the depth of this model's heads."""
    (run,) = count_runs(context)
    results = context.results(run)
    figures = [
        Figure.rate(f"{what}, {name}", figure)
        for name, condition in by_published_count(results) if name.startswith("gaze")
        for what, figure in (("accuracy", results.accuracy(condition)), ("junk", results.junk(condition)))
    ]  # fmt: skip
    figures += depth_figures(context.heads, context.settings.layers)
    notes = (counts_note(context), "The answers are those of tab5. Junk: the judge finds no panel in the answer.")
    return RowResult(tuple(figures), results.judge, notes, tables_of(context, run))


def _judge_of(context: Context) -> str | None:
    return next((one.results.judge for one in members(context)), None)


def _no_models(context: Context) -> str | None:
    if context.models:
        return None
    return (
        "It compares several models: give --models a,b,c (names or folders). For the zoo of small models that this "
        "project trained, docs/zoo.md has the same figures."
    )


def encoder(context: Context) -> RowResult:
    """Row 23: the study's largest contrast and peak steering, as means over the seeds of each treatment."""
    study = context.study
    if study is None:
        raise InputError("This row shows a study that was trained before: give study=, the folder of its figures.")
    figures = [
        Figure(f"{outcome}, {treatment}: {TREATMENTS[treatment]}", mean)
        for outcome in OUTCOMES for treatment, mean in study.means(outcome).items()
    ]  # fmt: skip
    seeds = [f"{treatment} {len(study.seeds(treatment))}" for treatment in study.means(OUTCOMES[0])]
    notes = (
        f"Means over seeds, so many of each treatment: {', '.join(seeds)}. The model of this page has no part in them: "
        "they are small models, trained for this study, which docs/study.md describes with intervals and tests.",
        *(f"{name} diverged, and is in no mean." for name in study.diverged),
    )
    return RowResult(tuple(figures), notes=notes)


def _no_study(context: Context) -> str | None:
    if context.study is not None:
        return None
    return (
        "It is a training, not a measurement of a finished model: the same tower frozen and trained under the same "
        "language model. docs/study.md is such a study of small models; python -m training.study runs it."
    )


def models_cost(settings: Settings) -> Cost:
    """Scoring, choosing and steering, for each model, as if it had as many heads as this one."""
    steered = answers(settings.strips * settings.panels * (2 + settings.draws), QUESTION)
    return (cost_of_heads(settings) + steered) * settings.models


NOTES = (
    "The number of heads of each model was chosen on strips that serve for nothing else; the paper reports the best on "
    "the strips that it was measured on.",
    "The estimate before the row supposes that all models are as fast as the first.",
)

ROWS: Sequence[Row] = (
    Row(
        20, "tab9", "Sizes of one family", {
            "2B, gaze": 68.6, "2B, heads": 10, "4B, gaze": 72.9, "4B, heads": 75, "8B, gaze": 83.1, "8B, heads": 100,
            "32B, gaze": 70.2, "32B, heads": 500,
        },
        cost=models_cost, run=sizes, reason=_no_models, also=("fig21", "fig22", "fig23", "fig24"),
    ),
    Row(
        21, "tab2", "Other families", {
            "Ovis1.5-8B, gaze": 68.7, "Ovis1.5-8B, random": 13.0, "Ovis1.5-8B, all": 2.7, "Qwen2-VL-7B, gaze": 66.2,
            "Qwen2-VL-7B, random": 0.0, "Qwen2-VL-7B, all": 0.8, "InternVL3.5-8B, gaze": 62.7,
            "InternVL3.5-8B, random": 31.0, "InternVL3.5-8B, all": 0.8, "InternVL3.5-2B, gaze": 64.0,
            "InternVL3.5-2B, random": 24.0, "LLaVA-1.5-13B, gaze": 39.0, "LLaVA-1.5-13B, random": 13.8,
            "LLaVA-1.5-13B, all": 0.0, "LLaVA-1.5-7B, gaze": 38.7, "LLaVA-1.5-7B, random": 16.3,
            "LLaVA-NeXT-7B, gaze": 35.3, "LLaVA-NeXT-7B, random": 26.7, "LLaVA-NeXT-7B, all": 0.0,
            "Bunny-3B, gaze": 8.3, "Bunny-3B, random": 0.0, "Bunny-3B, all": 0.0,
        },
        cost=models_cost, run=families, reason=_no_models, also=("tab10", "tab11", "fig25", "fig26"),
    ),
    Row(
        22, "junk", "Junk beside accuracy, and the depth of the heads (appendix E.4)", {
            "heads in the second half in %": "the second half of the network, in every family",
        },
        cost=counts_cost, run=junk, runs=count_runs,
    ),
    Row(
        23, "encoder", "Does a frozen encoder prevent gaze heads? (appendix E.4)", {"hypothesis": "it does; open"},
        cost=lambda _settings: Cost(0), run=encoder, reason=_no_study,
    ),
)  # fmt: skip
