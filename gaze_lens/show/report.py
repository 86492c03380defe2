"""A report as one HTML file: text, tables and figures. It loads nothing from anywhere.

report = Report("Gaze heads", "what was run")
report.section("Scores", "Which heads look where.").figure(plot, "what it shows").table(header, rows)
report.save("report.html")
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaze_lens.runs.files import write_whole
from gaze_lens.show.pages.templates import render


class Report:
    """An HTML page that grows from top to bottom; every method returns the report. All text is escaped."""

    def __init__(self, title: str, lead: str) -> None:
        self.title, self.lead = title, lead
        self.parts: list[dict[str, Any]] = []

    def _add(self, kind: str, **content: Any) -> "Report":
        self.parts.append({"kind": kind, **content})
        return self

    def section(self, heading: str, *paragraphs: str) -> "Report":
        """A heading and paragraphs of plain text."""
        return self._add("heading", text=heading).note(*paragraphs)

    def note(self, *paragraphs: str) -> "Report":
        """Paragraphs of plain text without a heading."""
        for paragraph in paragraphs:
            self._add("paragraph", text=paragraph)
        return self

    def facts(self, facts: Sequence[tuple[str, str]]) -> "Report":
        """Large figures with what they mean: (figure, meaning)."""
        return self._add("facts", facts=list(facts))

    def figure(self, plot: Any, caption: str) -> "Report":
        """A figure of `gl.show`, as a picture inside the page."""
        png, size = plot._repr_png_()
        return self._add("figure", png=base64.b64encode(png).decode(), width=size["width"], caption=caption)

    def page(self, html: str, caption: str, *, file: str) -> "Report":
        """A whole page inside this one, such as the viewer's. file: where it is written by itself, for a link."""
        return self._add("page", html=html, caption=caption, file=file)

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], good: Sequence[bool | None] | None = None
    ) -> "Report":
        """A table. good: for each row, whether its last cell is coloured as good or as bad; None leaves it plain."""
        marks = [None] * len(rows) if good is None else good
        return self._add("table", header=header, rows=list(zip(rows, marks, strict=True)))

    def code(self, text: str) -> "Report":
        """Text in a fixed font."""
        return self._add("code", text=text)

    def to_html(self) -> str:
        """The page."""
        return render("report.html", title=self.title, lead=self.lead, parts=self.parts)

    def save(self, path: str | Path) -> None:
        """Write the page, whole or not at all."""
        write_whole(Path(path), self.to_html().encode())
