"""Rows that steer layers: "read in reverse" as a direction of the residual stream (1 to 5).

The paper's strips have a letter on every panel. Where a model does not read letters, the same analysis runs with its
own answers: the "reverse" of a question about a panel is the question about the panel at the same place from the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas

from gaze_lens import show
from gaze_lens.errors import InputError
from gaze_lens.evaluation.judges import CaptionMatch, Judge
from gaze_lens.evaluation.narration_order import LEAST, NarrationOrders, narrate_in_order
from gaze_lens.evaluation.statistics import Estimate, mean
from gaze_lens.interventions.direction import Direction
from gaze_lens.paper.bar_figures import bars_of
from gaze_lens.paper.context import Context
from gaze_lens.paper.layer_probes import DIGITS, Labels, Probe, first_panels, probe_of, reads_labels
from gaze_lens.paper.row import Cost, Figure, Row, RowResult, Settings, answers
from gaze_lens.patching import order_rates, question_states, sample_orders
from gaze_lens.runs.files import write_whole

FLIPS = 0.5  # of the answers: a layer where more flip is one that the direction acts in
NARRATED, TOKENS, SEEDS = 100, 300, 3  # strips and tokens of a narration, draws of labels
ORDERED = 20  # strips to make the directions of an order from, and to measure it on
CLUSTERED = 100  # strips whose hidden states are compared


@dataclass(frozen=True)
class Found:
    """What row 1 found: the direction, the layers where it acts, the best of them (chosen on strips of their own)."""

    direction: Direction
    band: range
    best: int


def steering(context: Context, probe: Probe) -> Found:
    """The direction of a probe, from the strips for discovery, and its layers, from those to choose on."""
    key = f"layer steering, {probe!r}"
    if key not in context.kept:
        direction = probe.prompts(context.discovery).direction(context.model, progress=context.progress)
        table = probe.prompts(context.choosing).flips(context.model, direction, progress=context.progress)
        best = int(table.sort_values(["flipped", "difference"]).start.iloc[-1])
        acting = table[table.flipped > FLIPS].start.tolist()
        band = range(min(acting), max(acting) + 1) if acting else range(best, best + 1)
        context.kept[key] = Found(direction, band, best)
    return context.kept[key]


def asked(context: Context) -> Probe:
    """The probe. Raises InputError where there is none: `nothing_to_ask` says so before a row begins."""
    probe = probe_of(context)
    if probe is None:
        raise InputError(nothing_to_ask(context) or "")
    return probe


def layer_steering(context: Context) -> RowResult:
    """Row 1: the share of answers that flip, and the logit difference, by layer."""
    probe = asked(context)
    found = steering(context, probe)
    prompts = probe.prompts(context.strips)
    table = prompts.flips(context.model, found.direction, progress=context.progress)
    acting = table[table.flipped > FLIPS].start.tolist()
    best = table.loc[table.flipped.idxmax()]
    figures = (
        Figure("first layer that flips", min(acting) if acting else None),
        Figure("last layer that flips", max(acting) if acting else None),
        Figure("best layer", int(best.start)),
        _flipped("answers that flip at the best layer", best),
        Figure("logit difference at the best layer", float(best.difference), n_strips=int(best.n)),
        Figure("logit difference without the direction", float(best.unsteered), n_strips=int(best.n)),
    )  # fmt: skip
    artefacts = context.save("fig1", "layers", show.layer_flips(table))
    notes = (*probe.notes(context), "A layer flips where more than half of the answers do. The direction of a layer is "
             "added to its input, at the last prompt token, where the chat's answer begins.")  # fmt: skip
    return RowResult(figures, notes=notes, artefacts=artefacts)


def _flipped(name: str, row: Any) -> Figure:
    """The share of flipped answers of a row of a table."""
    return Figure(name, 100 * row.flipped, 100 * row.low, 100 * row.high, int(row.n), "%")


def narration(context: Context) -> RowResult:
    """Row 2: free narration under the band at every generated token."""
    probe = asked(context)
    seeds = SEEDS if probe.has_labels else 1
    plain, steered = [], []
    for seed in range(seeds):
        drawn = replace(probe, seed=context.settings.seed + seed)
        found = steering(context, drawn if seed else probe)
        strips = drawn.pictures(context.strips[:NARRATED])
        options: dict[str, Any] = {
            "max_new_tokens": TOKENS,
            "progress": context.progress,
            "judge": _reader(context, probe),
        }
        plain.append(narrate_in_order(context.model, strips, probe.narrate, **options))
        edit: dict[str, Any] = {"direction": found.direction, "band": found.band}
        steered.append(narrate_in_order(context.model, strips, probe.narrate, **edit, **options))
    figures: list[Figure] = []
    artefacts: list[str] = []
    for name, several in (("unsteered", plain), ("steered", steered)):
        figures.append(Figure.rho(f"rho with the reversed order, {name}", _over_seeds(several, "rho")))
        begins = _over_seeds(several, "begins_with_last")
        figures.append(Figure.rate(f"begin with the last panel, {name}", begins))
        mentions = [len(panels) >= LEAST for one in several for panels in one.mentions]
        figures.append(Figure(f"texts that mention {LEAST} panels, {name}", sum(mentions), n_strips=len(mentions)))
        texts = pandas.concat([one.table().assign(draw=draw) for draw, one in enumerate(several)])
        path = f"fig10/texts {name}.csv"
        write_whole(context.out / path, texts.to_csv(index=False).encode())
        artefacts.append(path)
    band = steering(context, probe).band
    notes = (*probe.notes(context), f"Layers {band.start} to {band.stop - 1}, chosen on strips of their own. Mean over "
             "strips of rho over the panels mentioned; texts that mention fewer than three have none.")  # fmt: skip
    judge = None if probe.has_labels else repr(_reader(context, probe))
    return RowResult(tuple(figures), judge, notes, tuple(artefacts))


def _reader(context: Context, probe: Probe) -> Judge | None:
    """Who tells which panel a sentence is about: nobody where letters are looked for."""
    return None if probe.has_labels else context.judge or CaptionMatch()


def _over_seeds(several: Sequence[NarrationOrders], column: str) -> Estimate | None:
    """The mean of a column over strips and draws; a strip's draws are resampled together."""
    rows = [row for one in several for row in one.table().dropna(subset=column).to_dict("records")]
    return mean([row[column] for row in rows], [row["strip"] for row in rows]) if rows else None


def orders(context: Context) -> RowResult:
    """Row 3: all orders, asked for in words and as directions."""
    probe = asked(context)
    found, s = steering(context, probe), context.settings
    listed = sample_orders(s.panels, limit=_n_orders(s), seed=s.seed)
    discovery, strips = probe.pictures(context.discovery[:ORDERED]), probe.pictures(context.strips[:ORDERED])
    table = order_rates(context.model, discovery, strips, listed, band=found.band, progress=context.progress)
    reverse, others = table.iloc[0], table.iloc[1:]
    n = len(strips)
    figures = [
        Figure("in words, rho", float(table.in_words_rho.mean()), n_strips=n, unit="rho"),
        Figure("in words, answers as asked", 100 * float(table.in_words.mean()), n_strips=n, unit="%"),
        Figure("as a direction, reverse", 100 * float(reverse.as_direction), n_strips=n, unit="%"),
    ]
    if len(others):
        figures += [
            Figure("as a direction, mean of the others", 100 * float(others.as_direction.mean()), n_strips=n, unit="%"),
            Figure("as a direction, best of the others", 100 * float(others.as_direction.max()), n_strips=n, unit="%"),
        ]
    write_whole(context.out / "fig11" / "orders.csv", table.to_csv(index=False).encode())
    notes = (f"{len(listed)} orders; each from {len(discovery)} strips, measured on {n}, every panel asked for.",)
    return RowResult(tuple(figures), notes=(*probe.notes(context), *notes), artefacts=("fig11/orders.csv",))


def _n_orders(settings: Settings) -> int:
    """All 719 orders of six panels, or as many as strips where there are fewer strips than that (`--limit`)."""
    return max(2, min(719, settings.strips))


def variants(context: Context) -> RowResult:
    """Row 4: other numbers of panels, wordings, and digits, at the best layer."""
    probe = asked(context)
    best, figures = steering(context, probe).best, []
    cases: list[tuple[str, Probe, int | None]] = [(f"{n} panels", probe, n) for n in (3, 4, 6)]
    cases += [(f"wording {k + 1}", replace(probe, wording=text), None) for k, text in enumerate(probe.wordings)]
    if isinstance(probe, Labels):
        cases.append(("digits", replace(probe, labels=DIGITS, label="digit"), None))
    for name, one, panels in cases:
        if panels is not None and panels > context.settings.panels:
            continue
        sets = [[first_panels(strip, panels) for strip in some] if panels else some
                for some in (context.discovery, context.strips)]  # fmt: skip
        direction = one.prompts(sets[0]).direction(context.model, layers=best, progress=context.progress)
        row = one.prompts(sets[1]).flips(context.model, direction, progress=context.progress).iloc[0]
        figures.append(_flipped(name, row))
    artefacts = context.save("fig12", "bars", bars_of(figures, title="Answers that flip", group=f"layer {best}"))
    notes = [f"At layer {best}, chosen on strips of their own. Strips of fewer panels are the first ones, cut off."]
    notes += ["No digits: the model reads no labels."] * (not probe.has_labels)
    return RowResult(tuple(figures), notes=(*probe.notes(context), *notes), artefacts=artefacts)


def clusters(context: Context) -> RowResult:
    """Row 5: hidden states under the questions about each panel, by layer."""
    probe = asked(context)
    strips = probe.pictures(context.strips[:CLUSTERED])
    questions = [probe.natural(k) for k in range(context.settings.panels)]
    states = question_states(context.model, strips, questions, progress=context.progress)
    table = states.silhouette()
    best = table.loc[table.silhouette.idxmax()]
    figures = (
        Figure("layer of the largest silhouette", int(best.layer), n_strips=len(strips)),
        Figure("largest silhouette", float(best.silhouette), n_strips=len(strips)),
    )
    artefacts = context.save("fig13", "clusters", show.question_clusters(states))
    notes = (*probe.notes(context), "The residual stream before each layer, at the last prompt token.")
    return RowResult(figures, notes=notes, artefacts=artefacts)


def no_order_in_words(context: Context) -> str | None:
    """Why row 3 is impossible: a direction is made of prompts that the model answers in the order asked for."""
    probe = probe_of(context)
    if probe is None or not probe.has_labels:
        return f"{reads_labels(context).said} Orders can then not be asked for in words, so there is no direction."
    return None


def nothing_to_ask(context: Context) -> str | None:
    """Why rows 1, 2, 4 and 5 are impossible: the model answers neither about letters nor about panels."""
    if probe_of(context) is None:
        return f"{reads_labels(context).said} Its own answers about panels are not those of the captions, either."
    return None


def direction_cost(s: Settings) -> Cost:
    """Whether letters are read, the direction, and its layers."""
    return Cost(4 * s.choosing + 2 * s.discovery + (s.layers + 3) * s.choosing)


def narration_cost(s: Settings) -> Cost:
    """Two narrations of each strip and draw of labels, and the directions of the other draws."""
    others = Cost(2 * s.discovery + (s.layers + 3) * s.choosing) * (SEEDS - 1)
    return answers(2 * SEEDS * min(NARRATED, s.strips), TOKENS) + others + direction_cost(s)


def orders_cost(s: Settings) -> Cost:
    """For each order, every panel of the strips: asked for in words on both sets, and under the direction."""
    one = (min(ORDERED, s.discovery) + 2 * min(ORDERED, s.strips)) * s.panels
    return Cost(one * (_n_orders(s) + 3)) + direction_cost(s)


def variants_cost(s: Settings) -> Cost:
    """Up to seven cases at one layer."""
    return Cost(7 * (2 * s.discovery + 4 * s.strips)) + direction_cost(s)


ROWS = (
    Row(
        1, "fig1", "Layer steering: the answer flips to that of the other reading order", {
            "first layer that flips": 20, "last layer that flips": 28, "best layer": 21,
            "answers that flip at the best layer": 97.0,
        },
        cost=lambda s: direction_cost(s) + Cost((s.layers + 3) * s.strips), run=layer_steering, reason=nothing_to_ask,
    ),
    Row(
        2, "fig10", "Free narration under the direction, at every generated token", {
            "rho with the reversed order, unsteered": -0.78, "rho with the reversed order, steered": 0.46,
            "begin with the last panel, steered": 65,
        },
        cost=narration_cost, run=narration, reason=nothing_to_ask,
    ),
    Row(
        3, "fig11", "All reading orders, in words and as directions", {
            "in words, rho": 1.0, "as a direction, reverse": 91.3, "as a direction, mean of the others": 39.9,
            "as a direction, best of the others": 60.4,
        },
        cost=orders_cost, run=orders, reason=no_order_in_words,
    ),
    Row(
        4, "fig12", "Layer steering: numbers of panels, wordings, digits", {
            "3 panels": 90, "4 panels": 93, "6 panels": 97, "wording 1": "92-99", "wording 2": "92-99",
            "wording 3": "92-99", "digits": 100,
        },
        cost=variants_cost, run=variants, reason=nothing_to_ask,
    ),
    Row(
        5, "fig13", "Hidden states under the questions about each panel", {"layer of the largest silhouette": 23},
        cost=lambda s: direction_cost(s) + Cost(min(CLUSTERED, s.strips) * s.panels), run=clusters,
        reason=nothing_to_ask, also=("fig14",),
    ),
)  # fmt: skip
