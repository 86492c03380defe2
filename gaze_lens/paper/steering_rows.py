"""Rows that steer heads and ask what the answers describe (8 to 14)."""

from collections.abc import Sequence

from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import question
from gaze_lens.evaluation.results import Results
from gaze_lens.paper.context import Context
from gaze_lens.paper.row import Cost, Figure, Row, RowResult, Run, Settings, answers

SELECTORS = {"gaze": "score", "Image Heads": "image", "Localization Heads": "localization"}


def selected(context: Context) -> list[Condition]:
    """As many heads as are chosen, by each of the paper's selectors, at random, and all."""
    return [Condition("gaze", context.heads)]


def question_runs(context: Context) -> Sequence[Run]:
    """Question steering with the heads of every selector."""
    return [Run("question", selected(context), question())]


def rates(results: Results) -> tuple[Figure, ...]:
    """The accuracy of every condition."""
    return tuple(Figure.rate(name, results.accuracy(name)) for name in results.names)


def question_steering(context: Context) -> RowResult:
    """Row 8."""
    (run,) = question_runs(context)
    results = context.results(run)
    return RowResult(rates(results), judge=results.judge)


def question_cost(settings: Settings) -> Cost:
    """One answer for each strip, panel and condition."""
    return answers(settings.strips * settings.panels, 15)


ROWS = (
    Row(
        8, "fig3a", "Question steering", {
            "gaze": 83.1, "Image Heads": 69.0, "Localization Heads": 60.2, "random": 14.6, "all": 0.9,
        },
        cost=question_cost, run=question_steering, runs=question_runs,
    ),
)  # fmt: skip
