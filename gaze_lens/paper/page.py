"""The page of a reproduction, OUT/report.html, with all rows that are done; and the same as a table for the terminal.

write_page(context, read_rows(out))
table_lines(outcomes)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from gaze_lens.paper.context import Context
from gaze_lens.paper.files import Outcome
from gaze_lens.paper.registry import ROWS
from gaze_lens.paper.row import Figure, Row, str_of
from gaze_lens.show.report import Report

HEADER = ("", "paper", "ours", "95 % interval", "strips")
DOTS = 160 / 96  # dots of a saved figure for each pixel of a page


class SavedPlot:
    """A figure that was saved as PNG, as `Report.figure` takes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        with Image.open(self.path) as image:
            return self.path.read_bytes(), {"width": round(image.width / DOTS)}


def write_page(context: Context, outcomes: Mapping[str, Outcome]) -> None:
    """Write OUT/report.html."""
    s = context.settings
    report = Report(
        "Gaze heads: the paper's experiments on this model",
        f"{context.model.cfg.model_name}: {s.layers} layers of {s.heads} heads, {len(context.heads)} of which are "
        f"steered: {str(context.heads)[:300]}. Scored on {s.discovery} strips, their number chosen on {s.choosing}, "
        f"steered on {s.strips}. The paper's figures are of Qwen3-VL-8B-Instruct unless said: Gandikota and Bau 2026 "
        "(arXiv 2606.14703).",
    )
    for row in ROWS:
        if row.name in outcomes:
            _section(report, context.out, row, outcomes[row.name])
    report.save(context.out / "report.html")


def _section(report: Report, out: Path, row: Row, outcome: Outcome) -> None:
    names = ", ".join((row.name, *row.also))
    report.section(f"{row.number}. {row.title} ({names})")
    if outcome.result is None:
        report.note(f"Impossible here. {outcome.reason}")
        report.table(HEADER[:2], [(name, str_of(value)) for name, value in row.paper.items()])
        return
    report.table(HEADER, cells_of(row, outcome.result.figures))
    judge = "" if outcome.result.judge is None else f" Judge: {outcome.result.judge}."
    report.note(f"Up to {outcome.cost.forwards:,} forwards, {outcome.seconds:.0f} s.{judge}", *outcome.result.notes)
    for artefact in outcome.result.artefacts:
        if artefact.endswith(".png"):
            report.figure(SavedPlot(out / artefact), artefact)


def cells_of(row: Row, figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """A line for each figure, ours beside the paper's; then those that only the paper has."""
    ours = {figure.name: figure for figure in figures}
    names = dict.fromkeys((*ours, *row.paper))
    lines: list[tuple[str, ...]] = []
    for name in names:
        figure = ours.get(name)
        paper = str_of(row.paper[name]) if name in row.paper else ""
        n_strips = "" if figure is None or figure.n_strips is None else str(figure.n_strips)
        lines.append((name, paper, figure.shown() if figure else "", figure.interval() if figure else "", n_strips))
    return lines


def markdown(outcomes: Mapping[str, Outcome]) -> str:
    """All rows as one table in Markdown: row, figure, paper, ours, interval, strips."""
    lines = ["| row | figure | paper | ours | 95 % interval | strips |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        outcome = outcomes.get(row.name)
        if outcome is None:
            continue
        if outcome.result is None:
            lines.append(f"| {row.number} {row.name} | {row.title} | | impossible here: {outcome.reason} | | |")
            continue
        cells = cells_of(row, outcome.result.figures)
        lines += [f"| {row.number} {row.name} | " + " | ".join(line) + " |" for line in cells]
    return "\n".join(lines) + "\n"
