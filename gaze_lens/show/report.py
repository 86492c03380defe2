"""A report as one HTML file: text, tables and figures, with nothing to load from anywhere.

report = Report("Gaze heads", "what was run")
report.section("Scores", "Which heads look where.").figure(plot, "what it shows").table(header, rows)
report.save("report.html")
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaze_lens.runs.files import write_whole

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #ffffff; --soft: #5b6675; --line: #dfe4ea; --good: #0b6e4f;
  --bad: #a8324a; --band: #f5f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf1; --paper: #14181d; --soft: #9aa6b4; --line: #303841;
  --good: #5fd0a8; --bad: #f08ca0; --band: #1b2128; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem 5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; } h2 { font-size: 1.3rem; margin: 2.8rem 0 .4rem; }
p { max-width: 46rem; margin: .5rem 0; } .lead { color: var(--soft); font-size: 1.08rem; }
figure { margin: 1.1rem 0; } figcaption { color: var(--soft); font-size: .9rem; margin-top: .35rem; max-width: 46rem; }
figure img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .9rem 0; font-size: .94rem; min-width: 24rem; }
th { text-align: left; border-bottom: 2px solid var(--line); padding: .35rem .8rem .35rem 0; white-space: nowrap; }
td { border-bottom: 1px solid var(--line); padding: .35rem .8rem .35rem 0; vertical-align: top; }
tr.good td:last-child { color: var(--good); font-weight: 600; } tr.bad td:last-child { color: var(--bad); }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--band); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto;
  font-size: .86rem; }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.4rem 0; }
.fact { background: var(--band); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; flex: 1 1 11rem; }
.fact b { display: block; font-size: 1.6rem; line-height: 1.2; } .fact span { color: var(--soft); font-size: .88rem; }
"""


class Report:
    """An HTML page that grows from top to bottom; every method returns the report. All text is escaped."""

    def __init__(self, title: str, lead: str) -> None:
        self.title = title
        self.parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="lead">{html.escape(lead)}</p>']

    def section(self, heading: str, *paragraphs: str) -> "Report":
        """A heading and paragraphs of plain text."""
        self.parts.append(f"<h2>{html.escape(heading)}</h2>")
        return self.note(*paragraphs)

    def note(self, *paragraphs: str) -> "Report":
        """Paragraphs of plain text without a heading."""
        self.parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs]
        return self

    def facts(self, facts: Sequence[tuple[str, str]]) -> "Report":
        """Large figures with what they mean: (figure, meaning)."""
        cells = "".join(
            f'<div class="fact"><b>{html.escape(f)}</b><span>{html.escape(m)}</span></div>' for f, m in facts
        )
        self.parts.append(f'<div class="facts">{cells}</div>')
        return self

    def figure(self, plot: Any, caption: str) -> "Report":
        """A figure of `gl.show`, as a picture inside the page."""
        png, size = plot._repr_png_()
        data = base64.b64encode(png).decode()
        alt = html.escape(caption, quote=True)
        self.parts.append(
            f'<figure><img width="{size["width"]}" alt="{alt}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
        return self

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], good: Sequence[bool | None] | None = None
    ) -> "Report":
        """A table; `good` colours the last cell of each row, None leaves it."""
        marks = [None] * len(rows) if good is None else good
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        lines = []
        for row, mark in zip(rows, marks, strict=True):
            kind = {True: ' class="good"', False: ' class="bad"', None: ""}[mark]
            lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>")
        body = "".join(lines)
        self.parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
        return self

    def code(self, text: str) -> "Report":
        """Text in a fixed font."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")
        return self

    def to_html(self) -> str:
        """The page."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width, initial-scale=1"><title>{html.escape(self.title)}</title>'
            f"<style>{STYLE}</style></head><body>{''.join(self.parts)}</body></html>"
        )

    def save(self, path: str | Path) -> None:
        """Write the page, whole or not at all."""
        write_whole(Path(path), self.to_html().encode())
