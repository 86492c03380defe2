"""The report of an evaluation as a page: figures, tables, examples of answers, and the settings."""

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaze_lens import show
from gaze_lens.evaluation.results import Results
from gaze_lens.show.report import Report

if TYPE_CHECKING:
    from pandas import DataFrame

TableRow = dict[Hashable, Any]  # as pandas returns it
EXAMPLES = 2  # pictures
TARGETS = 30  # a figure by target shows no more


def write_page(results: Results, path: str | Path) -> None:
    """Write the results as one HTML file without external resources."""
    run, table = results.generations.run, results.table()
    report = Report(
        f"Evaluation: {run['protocol']['name']}",
        f"{run['model']} on {run['pictures']} pictures; {len(results.answers)} answers, judged by {results.judge}.",
    )
    report.facts([(_percent(row["accuracy"]), _titled(row)) for row in table.to_dict("records") if not row["curve"]])
    _accuracy(report, results, table)
    _differences(report, results)
    if results.answers.target.nunique() <= TARGETS and table.n.sum():
        report.section("By target", "Some regions may be easier to steer to than others.")
        report.figure(show.accuracies_by_target(results), "Accuracy for every condition and target.")
    _examples(report, results)
    _settings(report, results)
    report.save(path)


def _accuracy(report: Report, results: Results, table: "DataFrame") -> None:
    report.section(
        "Does the answer describe the target?",
        f"Share of judged answers whose match is their target. Chance is {results.chance:.1%}. Intervals: 95 %, "
        "percentile bootstrap over pictures, 10,000 resamples. Errors of the judge, and answers that were "
        "skipped or failed, are counted separately; they are no misses.",
    )
    if (table.n[table.curve == ""] > 0).any():
        report.figure(show.accuracies(results), "Accuracy by condition.")
    rows = [_row(row, moves=results.generations.protocol.moves) for row in table.to_dict("records")]
    report.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    report.note(
        "Draws: lowest and highest accuracy of the draws of a random control. Repeats: share of answers with the words "
        f"of the unsteered answer (Jaccard index of at least {results.repeated_at:g}); the paper counts these as "
        "misses, and so does the next column.",
    )
    for along in ("heads", "strength", "mass"):
        if (table.n[table.curve == along] > 0).any():
            report.figure(show.accuracy_curve(results, along), f"Accuracy along the curve of {along}.")
    if caveats := results.caveats():
        report.section("Not in these figures, or doubtful", *caveats)


def _row(row: TableRow, *, moves: bool) -> dict[str, str]:
    several = row["draws"] > 1 and row["n"]
    cells = {
        "condition": row["condition"], "heads": str(row["heads"]), "describes the target": _interval(row, "accuracy"),
        "n": str(row["n"]), "draws": f"{_percent(row['least'])} to {_percent(row['most'])}" if several else "",
        "repeats": _percent(row["repeats"]), "repeats as misses": _percent(row["without_repeats"]),
        "errors": str(row["errors"]), "skipped": str(row["skipped"]),
    }  # fmt: skip
    if "by_likelihood" in row:
        shown: TableRow = {
            "by_likelihood": row["by_likelihood"],
            "low": row["likelihood_low"],
            "high": row["likelihood_high"],
        }
        cells["right choice likeliest"] = _interval({**shown, "n": row["likelihood_n"]}, "by_likelihood")
    if "failed" in row:
        cells["failed"] = str(row["failed"])
    if moves:
        defined = row["rho"] == row["rho"] and row["rho"] is not None
        rho = f"{row['rho']:.2f} [{row['rho_low']:.2f}, {row['rho_high']:.2f}]" if defined else ""
        cells["Spearman's rho with the schedule"] = rho
    return cells


def _differences(report: Report, results: Results) -> None:
    rows = results.comparisons().to_dict("records")
    if not rows:
        return
    report.section(
        f"{results.names[0]} against the others",
        "Paired: the same picture and target in both conditions (the mean over draws of random controls). p: two-sided "
        "permutation test that flips the sign of all differences of a picture together.",
    )
    header = ("against", "difference in points", "pairs", "p")
    report.table(header, [
        (row["second"], _interval(row, "difference", unit=""), str(row["n"]), f"{row['p']:.2g}" if row["n"] else "")
        for row in rows
    ])  # fmt: skip


def _examples(report: Report, results: Results) -> None:
    answers, names = results.answers, list(results.generations.pictures)[:EXAMPLES]
    curves = {condition.name for condition in results.generations.conditions if condition.curve}
    examples = answers[answers.picture.isin(names) & (answers.draw == 0) & ~answers.condition.isin(curves)]
    report.section("Answers to read", f"The first {len(names)} pictures; of random controls the first draw.")
    examples = examples.sort_values(["picture", "place"], kind="stable")
    rows, marks = [], []
    for row in examples.to_dict("records"):
        outcomes = (row["skipped"], row["failed"], row["error"], row["match"])  # those that are missing are NaN
        outcome = next((one for one in outcomes if isinstance(one, str) and one), "none")
        rows.append((row["picture"], row["condition"], row["target"], row["text"], outcome))
        marks.append(None if row["correct"] != row["correct"] else bool(row["correct"]))
    report.table(("picture", "condition", "target", "text", "describes"), rows, marks)


def _settings(report: Report, results: Results) -> None:
    run = results.generations.run
    protocol = run["protocol"]
    about = ("model", "architecture", "weights", "pictures", "pictures_digest", "seed")
    lines = [f"{name}: {run[name]}" for name in about]
    lines += [f"{name}: {value}" for name, value in protocol.items() if value is not None]
    for condition in results.generations.conditions:
        heads = "none" if condition.heads is None else str(condition.heads)
        mode = "ablated" if condition.ablate else f"mode {condition.to_dict()['mode']}"
        mode = "" if condition.heads is None else mode
        lines.append(f"{condition.name} {condition.draw}: {heads[:300]} {mode}".rstrip())
    report.section("Settings", "The same settings give the same figures.").code("\n".join(lines))


def _titled(row: TableRow) -> str:
    if not row["heads"]:
        return f"{row['condition']}: unsteered"
    ablated = row["strength"] is None or row["strength"] != row["strength"]  # pandas makes None NaN
    return f"{row['condition']}: {row['heads']} heads{' ablated' if ablated else ''}"


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{100 * value:.1f} %"


def _interval(row: TableRow, name: str, unit: str = " %") -> str:
    if not row["n"]:
        return "not judged"
    sign = "+" if name == "difference" else ""
    return f"{100 * row[name]:{sign}.1f}{unit} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
