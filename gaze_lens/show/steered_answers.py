"""Answers without and with steering, side by side.

texts = {name: model.generate(inputs, fwd_hooks=gl.steer(heads, inputs.region(name))) for name in strip.regions}
gl.show.steering(strip, model.generate(inputs), texts)
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gaze_lens.errors import InputError
from gaze_lens.regions.picture import Picture
from gaze_lens.show.picture_axes import Sheet
from gaze_lens.show.plot import ACCENT, FAINT, WIDTH, Plot, axes_at, figure_style, new_figure, write_at
from gaze_lens.text.caption_matching import best_match

LINES = 8  # of a text, at most
LINE = 0.165  # inches
LETTER = 0.064  # inches, a little more than the mean
GREEN, RED = "#00694f", "#9c1f1f"


@dataclass(frozen=True)
class _Row:
    """One text. target: the region steered to, None for the baseline. verdict: which region it describes, in words.
    described: that region, or None.

    hit: whether that is the target; None where there is no target, or there are no captions.
    """

    target: str | None
    text: str
    verdict: str
    hit: bool | None
    described: str | None = None

    def wrapped(self, inches: float) -> list[str]:
        lines = textwrap.wrap(" ".join(self.text.split()), int(inches / LETTER)) or ["(no text)"]
        return lines if len(lines) <= LINES else [*lines[: LINES - 1], lines[LINES - 1][:-1] + "…"]


@dataclass(frozen=True)
class _Page:
    """The layout, in inches: a wide picture above the rows of text, any other picture left of them."""

    sheet: Sheet

    @property
    def wide(self) -> bool:
        return self.sheet.aspect >= 2

    @property
    def picture(self) -> float:
        """Width of the picture."""
        return WIDTH - 0.1 if self.wide else min(3.6, 4.5 * self.sheet.aspect)

    @property
    def small(self) -> float:
        """Width of the small pictures."""
        return 3.2 if self.wide else min(1.2, 0.9 * self.sheet.aspect)

    @property
    def corner(self) -> tuple[float, float]:
        """Left and top of the first row of text."""
        top = 0.4 + self.sheet.head_room
        return (0.05, top + self.picture / self.sheet.aspect + 0.25) if self.wide else (self.picture + 0.3, top)

    @property
    def text(self) -> float:
        """Left of the texts."""
        return self.corner[0] + self.small + 0.2

    def height(self, row: _Row) -> float:
        lines = len(row.wrapped(WIDTH - self.text))
        return max(self.small / self.sheet.aspect, (lines + 1.3) * LINE) + 0.18


def steering(picture: Picture, baseline: Any, steered: Mapping[str, Any]) -> Plot:
    """`gl.show.steering(strip, baseline, {"panel 4": text, ...})`: what the model says, unsteered and steered.

    baseline: the unsteered text, or a `Generation`. steered: {name of a region: the text
    steered to it}. Where the picture has captions, each text is matched with them, and hits are marked
    (`gaze_lens.text.caption_matching.best_match`).
    data: "targets"; "baseline"; "texts"; "described", the region that each text describes best, or None; "hits".
    The last two are None without captions.
    Raises InputError where there is no steered text, or no picture; RegionError for a region that the picture does not
    have.
    """
    if not steered:
        raise InputError("There is no steered text to show: give a mapping such as {'panel 4': text}.")
    if not isinstance(picture, Picture):
        raise InputError(f"{picture!r:.80} was given to show beside the texts; expected a gl.Picture.")
    for name in steered:
        picture.region(name)
    rows = [_row(picture, None, str(baseline)), *(_row(picture, name, str(text)) for name, text in steered.items())]
    captioned = bool(picture.captions)
    hits = np.array([row.hit for row in rows[1:]], bool) if captioned else None
    title = "What the model says, unsteered and steered"
    if hits is not None:
        title += f": {hits.sum()} of {len(hits)} describe the region steered to"
    with figure_style():
        figure = _draw(_Page(Sheet.of([picture])), rows, title)
    lines = [title]
    lines += [f"  {row.target or 'unsteered'}: {row.text!r}" + f"  ({row.verdict})" * bool(row.verdict) for row in rows]
    data: dict[str, Any] = {"targets": tuple(steered), "baseline": rows[0].text}
    data["texts"] = tuple(row.text for row in rows[1:])
    data["described"] = tuple(row.described for row in rows[1:]) if captioned else None
    data["hits"] = hits
    return Plot(figure, data, "\n".join(lines))


def _row(picture: Picture, target: str | None, text: str) -> _Row:
    if not picture.captions:
        return _Row(target, text, "", None)
    described = best_match(text, picture.captions, target=target)
    hit = None if target is None else described == target
    sign = "" if hit is None else "✓ " if hit else "✗ "
    return _Row(target, text, f"{sign}describes {described or 'no region in particular'}", hit, described)


def _draw(page: _Page, rows: list[_Row], title: str) -> Figure:
    """The picture, and a row for each text with the target picked out in a small picture."""
    sheet, width = page.sheet, page.picture
    heights = [page.height(row) for row in rows]
    left, top = page.corner
    bottom = max(top + sum(heights), 0.4 + width / sheet.aspect + 0.1)
    figure = new_figure(bottom, layout=None)
    write_at(figure, 0.05, 0.08, title, fontsize=10, weight="bold")
    axes = axes_at(figure, 0.05, 0.4 + sheet.head_room, width=width, height=width / sheet.aspect)
    sheet.draw(axes)
    sheet.outline(axes)
    sheet.label(axes, [""] * len(list(sheet.shapes())), width=width)
    for row, height in zip(rows, heights, strict=True):
        axes = axes_at(figure, left, top, width=page.small, height=page.small / sheet.aspect)
        sheet.draw(axes)
        if row.target is not None:
            sheet.dim(axes, row.target)
            sheet.outline(axes, only=row.target, colour=ACCENT, width=2.0)
        _write(figure, row, page, top)
        top += height
    return figure


def _write(figure: Figure, row: _Row, page: _Page, top: float) -> None:
    heading = "unsteered" if row.target is None else f"steered to {row.target}"
    colour = FAINT if row.target is None else ACCENT
    write_at(figure, page.text, top, heading, color=colour, fontsize=9, weight="bold")
    colour = FAINT if row.hit is None else GREEN if row.hit else RED
    write_at(figure, WIDTH - 0.1, top, row.verdict, color=colour, fontsize=8.5, ha="right")
    text = "\n".join(row.wrapped(WIDTH - page.text))
    write_at(figure, page.text, top + 1.2 * LINE, text, fontsize=9, linespacing=1.25)
