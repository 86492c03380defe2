"""Rows that steer heads, and ask whether the answers describe the target (8 to 10, 12 to 14)."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gaze_lens import show
from gaze_lens.comics.questions import OPEN
from gaze_lens.evaluation.condition import Condition, conditions, strengths
from gaze_lens.evaluation.protocols import asking, question, static_narration
from gaze_lens.evaluation.results import Results
from gaze_lens.heads.head_set import HeadSet, size_in
from gaze_lens.paper.choosing import PUBLISHED, counts_of, scaled
from gaze_lens.paper.context import Context
from gaze_lens.paper.row import Cost, Figure, Row, RowResult, Run, Settings, answers
from gaze_lens.paper.selected_heads import SELECTORS, best_heads, compared, missing_notes, random_heads
from gaze_lens.show.accuracy_charts import UNITS

if TYPE_CHECKING:
    from pandas import DataFrame

STRENGTHS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
WORDINGS = (
    OPEN, "What is happening in this picture?", "Describe this picture.", "What do you see here?",
    "Tell me what this comic shows.",
)  # fmt: skip
SOURCES = {"below the median": ("random", 50.0), "below 5 %": ("lowest", 5.0)}
ASKED, ABLATED, OTHERS = "asked, none ablated", "asked, the set ablated", "asked, others ablated"
QUESTION, STATIC = 15, 100  # tokens of an answer


def rates(results: Results) -> tuple[Figure, ...]:
    """The accuracy of every condition; of those that steer also with repeats of the unsteered answer as misses."""
    strict = {
        f"{name}, repeats as misses": results.accuracy(name, repeats_as_misses=True)
        for name in results.names if name != "none" and "none" in results.names
    }  # fmt: skip
    plain = {name: results.accuracy(name) for name in results.names}
    return tuple(Figure.rate(name, estimate) for name, estimate in {**plain, **strict}.items())


def tables_of(context: Context, run: Run) -> tuple[str, ...]:
    """The files that `gl.evaluate` wrote about a run."""
    folder = context.folder_of(run).relative_to(context.out)
    return tuple(str(folder / name) for name in ("accuracy.csv", "answers.csv", "report.html"))


def question_runs(context: Context) -> Sequence[Run]:
    """Question steering with the heads of every selector."""
    return [Run("question", compared(context), question(max_new_tokens=QUESTION))]


def static_runs(context: Context) -> Sequence[Run]:
    """The same with a question about "this panel"."""
    return [Run("static", compared(context), static_narration(max_new_tokens=STATIC))]


def question_steering(context: Context) -> RowResult:
    """Row 8."""
    return _compared(context, "fig3a", question_runs(context)[0])


def static_steering(context: Context) -> RowResult:
    """Row 9."""
    return _compared(context, "fig3b", static_runs(context)[0])


def _compared(context: Context, row: str, run: Run) -> RowResult:
    results = context.results(run)
    plots = context.save(row, "accuracy", show.accuracies(results))
    notes = missing_notes(context, results.names)
    return RowResult(rates(results), results.judge, notes, (*plots, *tables_of(context, run)))


def count_conditions(context: Context) -> list[Condition]:
    """The best heads of each selector, and one draw of random heads, for each number of heads."""
    found: list[tuple[str, HeadSet | None]] = []
    for count in counts_of(context.settings.n_heads):
        gaze = context.scores.top(count)
        found += [(f"{name} {count}", best_heads(context, name, count)) for name in SELECTORS]
        found.append((f"random {count}", random_heads(context, gaze, 0)))
    return [Condition(name, heads, curve="heads") for name, heads in found if heads is not None]


def count_runs(context: Context) -> Sequence[Run]:
    """Question steering along the number of heads."""
    return [Run("counts", count_conditions(context), question(max_new_tokens=QUESTION))]


def head_counts(context: Context) -> RowResult:
    """Row 10."""
    (run,) = count_runs(context)
    results = context.results(run)
    figures = tuple(Figure.rate(name, results.accuracy(one)) for name, one in by_published_count(results))
    table = results.table()
    lines = {name: table[table.condition.str.startswith(f"{name} ")] for name in (*SELECTORS, "random")}
    plot = _curves(context, "tab5", lines, "heads", chance=results.chance)
    return RowResult(figures, results.judge, (counts_note(context),), (*plot, *tables_of(context, run)))


def _curves(
    context: Context, row: str, lines: Mapping[str, "DataFrame"], along: str, *, chance: float
) -> tuple[str, ...]:
    """Accuracy along the number of heads, or the strength: a line for each set; nothing where none was judged."""
    drawn = {name: rows for name, rows in lines.items() if rows.accuracy.notna().any()}
    if not drawn:
        return ()
    options: dict[str, Any] = {"x": along, "xlabel": UNITS[along], "title": f"Accuracy by {UNITS[along]}"}
    return context.save(row, "curves", show.curves(drawn, log=True, chance=chance, **options))


def by_published_count(results: Results) -> list[tuple[str, str]]:
    """(name by the paper's number of heads, condition with the same share of this model's heads), as far as there are.

    Small models have one condition for several of the paper's numbers.
    """
    run = results.generations.run
    layers, heads = size_in(run["architecture"]) or (0, 0)
    pairs = [
        (f"{name} {count}", f"{name} {scaled(count, layers * heads)}")
        for name in (*SELECTORS, "random") for count in PUBLISHED
    ]  # fmt: skip
    return [(name, condition) for name, condition in pairs if condition in results.names]


def counts_note(context: Context) -> str:
    """What the numbers of heads stand for."""
    n_heads = context.settings.n_heads
    numbers = ", ".join(f"{count}: {scaled(count, n_heads)}" for count in PUBLISHED)
    return (
        f"The numbers are the paper's, of 1,152 heads; here the same shares of {n_heads} heads are steered ({numbers})."
        " A selector that ranks fewer heads has no figure."
    )


def strength_runs(context: Context) -> Sequence[Run]:
    """Question steering with biases of 1 to 10,000, on the set and on random heads."""
    gaze = strengths(context.heads, STRENGTHS)
    others = random_heads(context, context.heads, 0)
    drawn = [] if others is None else strengths(others, STRENGTHS)
    named = [Condition(f"random, {one.name}", one.heads, one.mode, curve="strength") for one in drawn]
    return [Run("strengths", [*gaze, *named], question(max_new_tokens=QUESTION))]


def bias_strengths(context: Context) -> RowResult:
    """Row 12."""
    (run,) = strength_runs(context)
    results = context.results(run)
    figures = tuple(Figure.rate(name, results.accuracy(name)) for name in results.names)
    table = results.table()
    is_random = table.condition.str.startswith("random")
    lines = {"gaze": table[~is_random], "random": table[is_random]}
    plot = _curves(context, "tab4", lines, "strength", chance=results.chance)
    return RowResult(figures, results.judge, artefacts=(*plot, *tables_of(context, run)))


def wording_runs(context: Context) -> Sequence[Run]:
    """Question steering with five wordings of the question."""
    gaze = [Condition("gaze", context.heads)]
    return [
        Run(f"wording {number}", gaze, question(wording, max_new_tokens=QUESTION))
        for number, wording in enumerate(WORDINGS, 1)
    ]


def wordings(context: Context) -> RowResult:
    """Row 13."""
    figures, notes, judge = [], [], None
    artefacts: list[str] = []
    for run in wording_runs(context):
        results = context.results(run)
        figures.append(Figure.rate(run.name, results.accuracy("gaze")))
        notes.append(f"{run.name}: {run.protocol.prompt}")
        artefacts += tables_of(context, run)
        judge = results.judge
    ordered = sorted((one for one in figures if one.value is not None), key=lambda one: float(one.value or 0))
    ends = [
        replace(one, name=name) for name, one in zip(("lowest", "highest"), ordered[:1] + ordered[-1:], strict=False)
    ]
    notes.append("The wordings are ours, with the intent of the paper's; the lowest and the highest can be compared.")
    return RowResult((*ends, *figures), judge, tuple(notes), tuple(artefacts))


def source_runs(context: Context) -> Sequence[Run]:
    """Question steering with random heads from three sources; unsteered answers with the set, or others, ablated."""
    s, heads = context.settings, context.heads
    low = [
        Condition(source, one.heads, draw=one.draw)
        for source, (name, below) in SOURCES.items()
        for one in conditions(
            context.model, heads, [name], scores=context.scores, draws=s.draws, below=below, seed=s.seed
        )
    ]
    band = [(draw, random_heads(context, heads, draw)) for draw in range(s.draws)]
    others = [Condition("band", one, draw=draw) for draw, one in band if one is not None]
    ablated = [Condition(ABLATED, heads, ablate=True)]
    ablated += [Condition(OTHERS, one, draw=draw, ablate=True) for draw, one in band[:1] if one is not None]
    return [
        Run("random sources", [Condition("gaze", heads), *low, *others], question(max_new_tokens=QUESTION)),
        Run("ablation", [Condition(ASKED), *ablated], asking(max_new_tokens=QUESTION)),
    ]


def random_sources(context: Context) -> RowResult:
    """Row 14; with what ablating the same heads does to unsteered answers, which the paper does not measure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawn, ablated = source_runs(context)
    results, unsteered = context.results(drawn), context.results(ablated)
    figures = [Figure.rate(name, found.accuracy(name)) for found in (results, unsteered) for name in found.names]
    percentile = results.percentile("gaze", "band") if "band" in results.names else None
    if percentile is not None:
        figures.append(Figure("gaze, percentile of the band's draws", percentile, n_strips=context.settings.strips))
    notes = tuple(dict.fromkeys(str(one.message) for one in caught))
    artefacts = (*tables_of(context, drawn), *tables_of(context, ablated))
    return RowResult(tuple(figures), results.judge, notes, artefacts)


def _targets(settings: Settings) -> int:
    return settings.strips * settings.panels


def compared_cost(tokens: int) -> Callable[[Settings], Cost]:
    """The cost of figure 3: three selectors, the draws, all and none, on every panel of every strip."""
    return lambda settings: answers(_targets(settings) * (5 + settings.draws), tokens)


def counts_cost(settings: Settings) -> Cost:
    """Three selectors and random heads, for each number of heads."""
    return answers(_targets(settings) * 4 * len(counts_of(settings.n_heads)), QUESTION)


def sources_cost(settings: Settings) -> Cost:
    """The set, three sources in all draws, and three conditions without steering."""
    return answers(_targets(settings) * (1 + 3 * settings.draws + 3), QUESTION)


ROWS = (
    Row(
        8, "fig3a", "Question steering", {
            "gaze": 83.1, "Image Heads": 69.0, "Localization Heads": 60.2, "random": 14.6, "all": 0.9,
        },
        cost=compared_cost(QUESTION), run=question_steering, runs=question_runs,
    ),
    Row(
        9, "fig3b", "Static narration", {
            "gaze": 79.4, "Image Heads": 59.1, "Localization Heads": 46.5, "random": 5.6, "all": 0.5,
        },
        cost=compared_cost(STATIC), run=static_steering, runs=static_runs,
    ),
    Row(
        10, "tab5", "Number of heads", {
            "gaze 5": 36, "gaze 10": 45.3, "gaze 50": 63.2, "gaze 100": 83.1, "gaze 150": 75.6, "gaze 200": 73.0,
            "Image Heads 10": 10.0, "Image Heads 50": 36.2, "Image Heads 100": 69.0, "Image Heads 150": 60.8,
            "Image Heads 200": 58.2, "Localization Heads 10": 24.3, "Localization Heads 50": 41.7,
            "Localization Heads 100": 60.2, "Localization Heads 150": 59.5, "Localization Heads 200": 58.8,
        },
        cost=counts_cost, run=head_counts, runs=count_runs, also=("fig8",),
    ),
    Row(
        12, "tab4", "Strength of the bias", {
            "strength 1": 33.2, "strength 10": 79.8, "strength 100": 79.8, "strength 1000": 76.8,
            "strength 10000": 83.1, "random, strength 1": 4.5, "random, strength 10": 13.8,
            "random, strength 100": 15.2, "random, strength 1000": 13.5, "random, strength 10000": 14.6,
        },
        cost=lambda settings: answers(_targets(settings) * 2 * len(STRENGTHS), QUESTION), run=bias_strengths,
        runs=strength_runs,
    ),
    Row(
        13, "tab7", "Wordings of the question", {
            "lowest": 64.7, "highest": 83.1,
        },
        cost=lambda settings: answers(_targets(settings) * len(WORDINGS), QUESTION), run=wordings, runs=wording_runs,
    ),
    Row(
        14, "tab3", "Where random heads come from", {"below the median": 38.6, "below 5 %": 14.7, "band": 14.6},
        cost=sources_cost, run=random_sources, runs=source_runs,
    ),
)  # fmt: skip
