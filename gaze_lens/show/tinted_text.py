"""Text with a tint under every token, drawn on axes; segments are framed and named in the margin.

block = TintedText(words, {"segment 1": (12, 13, 14)})
block.draw(figure, (x, y), width, values, scale, notes)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from gaze_lens.show.plot import FAINT, INK, axes_at, shorten

SIZE, LINE = 8.0, 0.2  # points; inches from line to line
MARGIN = 1.35  # inches: names and numbers of segments
MAX_LINES = 60  # of a longer text, the lines of its segments and the last ones

Piece = tuple[int, str, float, float]  # index of the word, text, left side and width in inches


@dataclass(frozen=True)
class TintedText:
    """words: of a text, one for each token. segments: name -> indices of its words."""

    words: tuple[str, ...]
    segments: Mapping[str, tuple[int, ...]]

    def lines(self, width: float) -> list[list[Piece]]:
        """The text broken into lines of a width in inches; a line end is a sign at the end of its line."""
        lines: list[list[Piece]] = [[]]
        x = 0.0
        for index, word in enumerate(self.words):
            for number, part in enumerate(word.split("\n")):
                if number:
                    lines[-1].append((index, "↵", x, _width("↵")))
                    lines.append([])
                    x = 0.0
                if not part:
                    continue
                size = _width(part)
                if x + size > width and lines[-1]:
                    lines.append([])
                    x = 0.0
                lines[-1].append((index, part, x, size))
                x += size
        lines = [line for line in lines if line]
        return lines if len(lines) <= MAX_LINES else self._shortened(lines)

    def _shortened(self, lines: list[list[Piece]]) -> list[list[Piece]]:
        inside = {index for indices in self.segments.values() for index in indices}
        last = len(lines) - 4
        kept = [line for i, line in enumerate(lines) if i >= last or any(index in inside for index, *_ in line)]
        return kept[:MAX_LINES]

    def height(self, width: float) -> float:
        """Inches."""
        return LINE * len(self.lines(width - self.margin))

    @property
    def margin(self) -> float:
        """Inches to the left of the text."""
        return MARGIN if self.segments else 0.0

    def draw(
        self,
        figure: Figure,
        corner: tuple[float, float],
        width: float,
        values: Float[np.ndarray, " word"],
        scale: ScalarMappable,
        notes: Sequence[str],
    ) -> None:
        """Draw at a corner, in inches. values: one for each word. notes: one for each segment."""
        lines = self.lines(width - self.margin)
        height = LINE * len(lines)
        axes = axes_at(figure, *corner, width=width, height=height)
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.patch.set_visible(False)
        for number, line in enumerate(lines):
            for index, text, x, size in line:
                at, colour = (self.margin + x, LINE * number), scale.to_rgba(np.array(values[index]))
                axes.add_patch(Rectangle(at, size, LINE * 0.92, facecolor=colour, edgecolor="none"))
                ink = FAINT if text == "↵" else INK
                axes.text(at[0], at[1] + 0.72 * LINE, text, fontsize=SIZE, color=ink)
        for (name, indices), note in zip(self.segments.items(), notes, strict=True):
            self._frame(axes, lines, name, set(indices), note)

    def _frame(self, axes: Axes, lines: list[list[Piece]], name: str, indices: set[int], note: str) -> None:
        """Frame a segment on each of its lines; name and note beside the first."""
        first = True
        for number, line in enumerate(lines):
            mine = [(x, x + size) for index, text, x, size in line if index in indices and text != "↵"]
            if not mine:
                continue
            left, right = self.margin + mine[0][0], self.margin + mine[-1][1]
            corner, height = (left, LINE * number), LINE * 0.92
            axes.add_patch(Rectangle(corner, right - left, height, fill=False, edgecolor=INK, linewidth=0.6))
            if first:
                label = f"{shorten(name, MARGIN - 0.45, size=SIZE - 1)} {note}"
                axes.text(0, LINE * (number + 0.72), label, fontsize=SIZE - 1, color=INK)
            first = False


@cache
def _width(text: str) -> float:
    """Inches of a text in the figures' font. Spaces at its ends count."""
    font = FontProperties(family="DejaVu Sans", size=SIZE)
    ends = text_to_path.get_text_width_height_descent("..", font, ismath=False)[0]
    whole = text_to_path.get_text_width_height_descent(f".{text}.", font, ismath=False)[0]
    return (whole - ends) / 72
