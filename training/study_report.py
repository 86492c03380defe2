"""The study's tables and pictures, from the runs' `figures.json` and `log.jsonl`: `results.md`, `outcomes.png`,
`formation.png`."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaze_lens.errors import InputError
from gaze_lens.runs.files import write_whole
from gaze_lens.show.plot import ACCENT, BLUES, FAINT, INK, Plot, figure_style, new_figure, set_title
from training.study_plan import ANSWERS, PILOT, RUNS, SEEDS, TREATMENTS, VARIANTS, Run
from training.study_statistics import comparison, formed_at, holm, interval

Figures = Mapping[str, Any]
NINE_PERCENT = 0.09
NOTHING_TO_COMPARE = "Runs of one treatment at most answer, so that there is nothing to compare."
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
PAIRS = (("a", "c"), ("a", "b"), ("a", "d"), ("b", "c"))
CURVES = {
    "answering": lambda seen: seen["answered"],
    "contrast": lambda seen: seen["contrast"],
    "contrast at the answer": lambda seen: seen["contrast at the answer"],
    "steering, 4 heads": lambda seen: seen["steered"]["4"],
}
CHANCE = {"steering, 4 heads": 1 / 6}
COLOURS = dict(zip("acbd", (ACCENT, BLUES[2], BLUES[1], FAINT), strict=True))


def within(figures: Figures, share: float) -> str:
    """The number of heads, of at most this share of all, that did best on the selection strips."""
    most = max(1, int(share * figures["looking"]["heads"]))
    allowed = [k for k in figures["selection"] if int(k) <= most]
    return max(allowed, key=figures["selection"].__getitem__)


def steered(figures: Figures, count: str, kind: str = "forced choice") -> float:
    """Steering accuracy with this number of heads."""
    return float(figures["steering"][count][kind]["value"])


PRIMARY: dict[str, Callable[[Figures], float]] = {
    "largest contrast": lambda f: f["verdict"]["contrast"],
    "peak steering": lambda f: steered(f, str(f["best"])),
}
SECONDARY: dict[str, Callable[[Figures], float]] = {
    "tracking heads": lambda f: len(f["verdict"]["heads"]),
    "largest contrast at the answer": lambda f: f["verdict at the answer"]["contrast"],
    "tracking heads at the answer": lambda f: len(f["verdict at the answer"]["heads"]),
    "steering with at most 9 %": lambda f: steered(f, within(f, NINE_PERCENT)),
    "peak steering, word for word": lambda f: steered(f, str(f["best"]), "exact"),
    "random heads": lambda f: f["random"],
    "all heads": lambda f: f["all"]["forced choice"]["value"],
    "k-th panel, word for word": lambda f: f["answering"]["k-th panel"]["exact"]["value"],
    "narration, word for word": lambda f: f["answering"]["narration in order"]["exact"]["value"],
    **{
        f"readout of the {part}: {target}": lambda f, part=part, target=target: f["readout"][part][target]
        for part in ("tower", "tower, rows apart", "projector", "projector, rows apart")
        for target in ("own half", "other half", "next panel")
    },
}  # fmt: skip
OUTCOMES = PRIMARY | SECONDARY


def read_figures(out: Path, runs: Sequence[Run]) -> dict[Run, Figures]:
    """The files of all runs that have one, in the plan's order."""
    paths = {run: out / run.name / "figures.json" for run in runs}
    return {run: json.loads(path.read_text()) for run, path in paths.items() if path.exists()}


def read_runs(out: Path, runs: Sequence[Run] = RUNS) -> dict[Run, Figures]:
    """The figures of all runs that were measured."""
    return {run: figures for run, figures in read_figures(out, runs).items() if "diverged" not in figures}


def diverged_runs(out: Path, runs: Sequence[Run] = RUNS) -> dict[Run, str]:
    """The runs that diverged, and where; they have no outcomes."""
    return {run: each["diverged"] for run, each in read_figures(out, runs).items() if "diverged" in each}


def observations(out: Path, run: Run) -> tuple[list[int], list[Figures]]:
    """Steps, and what was observed at them."""
    lines = [json.loads(line) for line in (out / run.name / "log.jsonl").read_text().splitlines()]
    seen = [line for line in lines if "observed" in line]
    return [line["step"] for line in seen], [line["observed"] for line in seen]


def number(value: float | None) -> str:
    """Two digits after the point; a dash for None."""
    return "-" if value is None else f"{value:z.2f}"


def counted(value: float) -> str:
    """A count as it is, all else as `number` has it."""
    return str(value) if isinstance(value, int) else number(value)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def answers(figures: Figures) -> bool:
    """Whether the model answers questions about panels often enough to say anything about how it does so."""
    return OUTCOMES["k-th panel, word for word"](figures) >= ANSWERS


def finding(figures: Figures) -> str:
    """In three words, what the plan tells apart."""
    if not answers(figures):
        return "cannot see"
    return "looks" if figures["verdict"]["heads"] else "sees, does not look"


def runs_table(found: Mapping[Run, Figures]) -> str:
    """A row for every run."""
    columns = (
        "run", "seed", "k-th panel", "contrast", "tracking heads", "contrast, answer", "tracking, answer",
        "peak steering", "with", "at most 9 %", "random", "all", "own half", "next panel", "",
    )  # fmt: skip
    names = (
        "k-th panel, word for word", "largest contrast", "tracking heads", "largest contrast at the answer",
        "tracking heads at the answer", "peak steering", "", "steering with at most 9 %", "random heads", "all heads",
        "readout of the projector, rows apart: own half", "readout of the projector, rows apart: next panel",
    )  # fmt: skip
    rows = []
    for run, figures in found.items():
        values = [OUTCOMES[name](figures) if name else figures["best"] for name in names]
        label = run.treatment if run.variant == "core" else f"{run.treatment}, {VARIANTS[run.variant].what}"
        rows.append([label, str(run.seed), *(counted(value) for value in values), finding(figures)])
    return markdown(columns, rows)


def by_treatment(found: Mapping[Run, Figures], outcome: str) -> dict[str, list[float]]:
    """The core's values of an outcome for every treatment, by seed."""
    values: dict[str, list[float]] = {}
    for run, figures in found.items():
        if run.variant == "core":
            values.setdefault(run.treatment, []).append(float(OUTCOMES[outcome](figures)))
    return values


def means_table(found: Mapping[Run, Figures]) -> str:
    """Mean over seeds and interval of every outcome."""
    seeds, rows = by_treatment(found, "peak steering"), []
    for outcome in OUTCOMES:
        values, cells = by_treatment(found, outcome), []
        for treatment in seeds:
            bounds = interval(values[treatment])
            around = f" [{number(bounds[0])}, {number(bounds[1])}]" if bounds else ""
            cells.append(number(float(np.mean(values[treatment]))) + around)
        rows.append([outcome, *cells])
    return markdown(["outcome", *(f"{each} ({len(values)} seeds)" for each, values in seeds.items())], rows)


def comparisons_table(found: Mapping[Run, Figures]) -> str:
    """Differences between treatments; those that the plan tests first."""
    rows = []
    for first, second in PAIRS:
        main = (first, second) == ("a", "c")
        values = {name: by_treatment(found, name) for name in OUTCOMES if not name.startswith("readout")}
        if not {first, second} <= values["peak steering"].keys():
            continue
        results = {
            name: comparison(
                each[first], each[second], alternative="greater" if main and name in PRIMARY else "two-sided"
            )
            for name, each in values.items()
        }
        fewest = min(len(values["peak steering"][each]) for each in (first, second))
        few = "" if fewest >= len(SEEDS) else ", too few seeds for evidence"
        tested = [results[name].p for name in PRIMARY if results[name].p is not None]
        corrected = dict(zip(PRIMARY, holm(tested), strict=True)) if main and tested else {}
        for name, result in results.items():
            kind = f"Holm: {corrected[name]:.3f}{few}" if name in corrected else "exploratory"
            test = ["-" if result.p is None else f"{result.p:.3f}", f"{result.smallest_p:.3f}", kind]
            rows.append([f"{first} - {second}", name, number(result.difference), number(result.g), *test])
    return markdown(("pair", "outcome", "difference", "Hedges' g", "p", "smallest possible p", ""), rows)


def formation_table(out: Path, found: Mapping[Run, Figures]) -> str:
    """The step from which on each curve stays above half of its final value."""
    rows = []
    for run in found:
        steps, seen = observations(out, run)
        formed = [
            formed_at(steps, [curve(each) for each in seen], floor=CHANCE.get(name, 0.0))
            for name, curve in CURVES.items()
        ]
        rows.append([run.name, *("-" if step is None else f"{step:,}" for step in formed)])
    return markdown(("run", *CURVES), rows)


def formation_plot(out: Path, found: Mapping[Run, Figures]) -> Plot:
    """The curves along the core's runs, a panel for each curve and a line for each run."""
    core = {run: observations(out, run) for run in found if run.variant == "core"}
    with figure_style():
        figure = new_figure(4.6, width=8.0)
        axes = figure.subplots(2, 2, sharex=True, sharey=True)
        for one, (name, curve) in zip(axes.flat, CURVES.items(), strict=True):
            labelled: set[str] = set()
            for run, (steps, seen) in core.items():
                label = None if run.treatment in labelled else run.treatment
                labelled.add(run.treatment)
                values = [curve(each) for each in seen]
                line = {"color": COLOURS[run.treatment], "linestyle": "-" if run.treatment in PAIRS[0] else ":"}
                one.plot(steps, values, linewidth=1.2, label=label, **line)
            if name in CHANCE:
                one.axhline(CHANCE[name], color=FAINT, linestyle="--", linewidth=1)
            set_title(one, name, "")
            one.set(ylim=(-0.02, 1.02))
        for one in axes[1]:
            one.set_xlabel("step")
        axes[0, 0].legend(frameon=False)
    data = {
        f"{run.name}, {name}": np.array([curve(each) for each in seen])
        for run, (_, seen) in core.items()
        for name, curve in CURVES.items()
    }
    return Plot(figure, data, "\n".join(["Formation", *data]))


def outcomes_plot(found: Mapping[Run, Figures]) -> Plot:
    """A dot for each seed, for the primary outcomes and answering."""
    further = {"contrast at the answer": "largest contrast at the answer", "answering": "k-th panel, word for word"}
    names = {name: name for name in PRIMARY} | further  # titles -> outcomes
    with figure_style():
        figure = new_figure(3.0, width=9.0)
        data = {}
        for one, (title, name) in zip(figure.subplots(1, len(names), sharey=True), names.items(), strict=True):
            values = by_treatment(found, name)
            for place, (treatment, each) in enumerate(values.items()):
                one.plot([place] * len(each), each, "o", color=COLOURS[treatment], markersize=5, alpha=0.7)
                one.plot([place - 0.25, place + 0.25], [np.mean(each)] * 2, color=INK, linewidth=1)
                data[f"{name}, {treatment}"] = np.array(each)
            one.set_xticks(range(len(values)), list(values))
            one.set(ylim=(-0.03, 1.03), xlim=(-0.5, len(values) - 0.5))
            set_title(one, title, "")
    lines = [f"{name}: {', '.join(number(value) for value in values)}" for name, values in data.items()]
    return Plot(figure, data, "\n".join(["Outcomes by treatment", *lines]))


def summary(found: Mapping[Run, Figures]) -> str:
    """How much of the plan is done, and the budget."""
    budgets = sorted({(figures["tower steps"], figures["steps"]) for figures in found.values()})
    seeds = {t: sum(run.treatment == t and run.variant == "core" for run in found) for t in TREATMENTS}
    done = ", ".join(f"{n} seeds of {treatment}" for treatment, n in sorted(seeds.items()))
    steps = "; ".join(f"{tower:,} steps of the tower, {model:,} with the language model" for tower, model in budgets)
    budget = f" Budget: {steps}." if steps else ""
    return f"{len(found)} of {len(RUNS)} planned runs are measured. Of the core: {done}.{budget}"


def divergences(out: Path) -> str:
    """The runs that have no outcomes, and are in no mean and no test."""
    lost = [f"{run.name} ({where})" for run, where in diverged_runs(out, (*PILOT, *RUNS)).items()]
    return f"Diverged, and in no mean and no test: {'; '.join(lost) or 'no run'}."


def on_those_that_answer(found: Mapping[Run, Figures]) -> list[str]:
    """The comparison again, without runs that do not answer; nothing where all do."""
    seeing = {run: figures for run, figures in found.items() if answers(figures)}
    if len(seeing) == len(found):
        return []
    pairs = [pair for pair in PAIRS if set(pair) <= by_treatment(seeing, "peak steering").keys()]
    table = comparisons_table(seeing) if pairs else NOTHING_TO_COMPARE
    return ["### Treatments compared, on runs that answer", table]


def results(out: Path) -> str:
    """The page's tables.

    Raises InputError where no run has figures.
    """
    found, pilot = read_runs(out), read_runs(out, PILOT)
    if not found and not pilot and not diverged_runs(out):
        raise InputError(f"There is no measured run in {out}; run python -m training.study --out {out} first.")
    parts = [summary(found), divergences(out)]
    if found:
        parts += [
            "### Every run", runs_table(found), "### Means over seeds", means_table(found),
            "### Treatments compared", comparisons_table(found),
            *on_those_that_answer(found), "### When they form", formation_table(out, found),
        ]  # fmt: skip
    if pilot:
        parts += ["### The pilot", runs_table(pilot), formation_table(out, pilot)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def filled(page: str, tables: str) -> str:
    """A page with these tables in the place of those that it has.

    Raises InputError where the page does not have the two lines between which they stand, once each.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise InputError(f"The page is to have the lines {BEGIN} and {END}, once each, around its tables.")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{after}"


def write_report(out: Path, page: Path | None = None) -> list[Path]:
    """Write results.md, outcomes.png and formation.png into `out`, on all runs that have figures; returns the paths.

    page: a Markdown file whose tables are replaced, too (see `filled`).
    While only the pilot is measured, there are no pictures.
    """
    found = read_runs(out)
    files = {"results.md": results(out).encode()}
    if any(run.variant == "core" for run in found):
        files |= {"outcomes.png": outcomes_plot(found).render(), "formation.png": formation_plot(out, found).render()}
    for name, content in files.items():
        write_whole(out / name, content)
    if page is not None:
        write_whole(page, filled(page.read_text(encoding="utf-8"), results(out)).encode())
    return [out / name for name in files] + ([] if page is None else [page])
