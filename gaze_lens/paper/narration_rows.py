"""Rows in which the model narrates: where heads look meanwhile, and what it tells when the target moves (7, 15, 16)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gaze_lens import show
from gaze_lens.comics.questions import NARRATE
from gaze_lens.evaluation.protocols import Protocol, dynamic_narration
from gaze_lens.evaluation.statistics import Estimate, mean
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.heads.rank_correlation import rank_correlation
from gaze_lens.paper.context import Context
from gaze_lens.paper.row import Cost, Figure, Row, RowResult, Run, Settings, answers
from gaze_lens.paper.selected_heads import compared, missing_notes, random_heads
from gaze_lens.paper.steering_rows import tables_of
from gaze_lens.regions.picture import Picture
from gaze_lens.tracking import Trajectory, track

if TYPE_CHECKING:
    from pandas import DataFrame

REVERSE = "Describe this comic panel by panel, from right to left, beginning with the last panel."
ORDERS = {"forward": NARRATE, "reverse": REVERSE}
NARRATION, TRACKED = 200, 20  # tokens of a narration, strips
NONE = 3  # segments that describe nothing, from which a strip has no rho


def staircases(context: Context) -> RowResult:
    """Row 7: the rank correlation of the panel that heads look at most with the step of the narration."""
    sets = {"gaze": context.heads, "random": random_heads(context, context.heads, 0)}
    values: dict[str, list[float]] = {}
    artefacts: list[str] = []
    for order, prompt in ORDERS.items():
        shown: dict[str, Trajectory] = {}
        for index, strip in enumerate(context.strips[:TRACKED]):
            for name, heads in sets.items():
                if heads is not None:
                    trajectory = _narrated(context, strip, prompt, heads)
                    values.setdefault(f"{order}, {name}", []).append(
                        steps_correlation(trajectory.looked_at, trajectory.regions)
                    )
                    if index == 0:
                        shown[f"{name} heads, {order}"] = trajectory
        artefacts += context.save("fig2b", order, show.staircases(shown))
    figures = tuple(Figure.rho(name, _mean(found)) for name, found in values.items())
    notes = (
        "Mean over strips of Spearman's rho between the step and the panel that the heads look at most, weighted by "
        "the lengths of value vectors: 1 is a staircase from the first panel to the last. The paper shows figures.",
        "As many random heads of the same band of layers, without the set.",
    )
    return RowResult(figures, notes=notes, artefacts=tuple(artefacts))


def _narrated(context: Context, strip: Picture, prompt: str, heads: HeadSet) -> Trajectory:
    inputs = context.model.encode(context.model.prepare(strip, prompt))
    return track(context.model, inputs, heads, weighted=True, max_new_tokens=NARRATION)


def steps_correlation(looked_at: Sequence[str], regions: Sequence[str]) -> float:
    """Spearman's rho between the steps of a narration and the place of the region looked at most; 0 if it is one."""
    places = [regions.index(name) for name in looked_at]
    return float(rank_correlation(np.arange(len(places)), np.array(places)))


def _mean(values: Sequence[float]) -> Estimate:
    return mean(list(values), list(range(len(values))))


def dynamic(settings: Settings) -> Protocol:
    """A narration of as many pieces as panels, `every` tokens each."""
    return dynamic_narration(every=settings.every, max_new_tokens=settings.every * settings.panels)


def dynamic_runs(context: Context) -> Sequence[Run]:
    """Narrations in which the target moves, with the heads of every selector."""
    return [Run("dynamic", compared(context), dynamic(context.settings))]


def dynamic_steering(context: Context) -> RowResult:
    """Row 15: the described panels against the scheduled ones."""
    (run,) = dynamic_runs(context)
    results = context.results(run)
    figures = [Figure.rho(name, results.spearman(name)) for name in results.names]
    figures += [Figure.rho(f"{name}, mean over strips", results.spearman_by_picture(name)) for name in results.names]
    figures += [Figure.rate(f"{name}, as scheduled", results.accuracy(name)) for name in results.names]
    notes = (f"The target moves every {context.settings.every} tokens.", *missing_notes(context, results.names))
    return RowResult(tuple(figures), results.judge, notes, tables_of(context, run))


def blind_to_schedule(context: Context) -> RowResult:
    """Row 16: what every segment describes, against the schedule and against the natural order."""
    (run,) = dynamic_runs(context)
    results = context.results(run)
    figures = [figure for name in results.names for figure in blind_figures(results.answers, name)]
    notes = (
        "The texts of fig6. The judge is asked what each segment describes, by itself; it is not told the schedule. "
        f"The paper's sees all segments of a text at once. Strips with {NONE} or more segments that describe nothing "
        "have no rho.",
    )
    return RowResult(tuple(figures), results.judge, notes, tables_of(context, run))


def blind_figures(answers: "DataFrame", condition: str) -> list[Figure]:
    """Shares of segments that describe the scheduled and the natural panel, and rank correlations with both orders."""
    rows = answers[answers.condition == condition]
    rows = rows[rows.error.isna() & rows.skipped.isna() & rows.failed.isna()]
    if rows.empty:
        return []
    orders = {"as scheduled": rows.place, "as the natural order": rows.turn}
    figures = [
        Figure.rate(f"{condition}, {name}", mean((rows.match_place == order).to_numpy(), rows.picture.tolist()))
        for name, order in orders.items()
    ]
    for name, column in (("schedule", "place"), ("natural order", "turn")):
        figures.append(Figure.rho(f"{condition}, rho with the {name}", _rho(rows, column)))
    return figures


def _rho(rows: "DataFrame", column: str) -> Estimate | None:
    """The mean over strips of the rank correlation of described places with an order."""
    found: dict[tuple[str, int], float] = {}
    for key, strip in rows.groupby(["picture", "draw"], sort=False):
        described = strip.dropna(subset="match_place")
        if len(strip) - len(described) < NONE and len(described) > 1:
            found[key] = float(rank_correlation(described[column].to_numpy(), described.match_place.to_numpy(float)))
    return mean(list(found.values()), [picture for picture, _ in found]) if found else None


def staircase_cost(settings: Settings) -> Cost:
    """Two orders, the set and random heads, on up to 20 strips."""
    return answers(4 * min(TRACKED, settings.strips), NARRATION)


def dynamic_cost(settings: Settings) -> Cost:
    """One narration for each strip and condition."""
    return answers(settings.strips * (5 + settings.draws), settings.every * settings.panels)


ROWS = (
    Row(
        7, "fig2b", "Where heads look while the model narrates", {
            "forward, gaze": "a staircase", "forward, random": "none", "reverse, gaze": "a staircase down",
            "reverse, random": "none",
        },
        cost=staircase_cost, run=staircases, also=("fig17",),
    ),
    Row(
        15, "fig6", "Dynamic narration", {
            "gaze": 0.87, "Image Heads": 0.42, "Localization Heads": 0.33, "random": -0.15,
        },
        cost=dynamic_cost, run=dynamic_steering, runs=dynamic_runs,
    ),
    Row(
        16, "tab8", "The same texts under a judge that does not see the schedule", {
            "gaze, as scheduled": 71.1, "gaze, as the natural order": 13.6, "gaze, rho with the schedule": 0.589,
            "gaze, rho with the natural order": 0.259, "random, as scheduled": 16.4,
            "random, as the natural order": 20.8, "random, rho with the schedule": -0.140,
            "random, rho with the natural order": 0.983, "all, as scheduled": 7.1, "all, as the natural order": 7.5,
        },
        cost=dynamic_cost, run=blind_to_schedule, runs=dynamic_runs,
    ),
)  # fmt: skip
