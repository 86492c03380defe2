"""What `gl.show` functions return: a figure, the numbers in it, and the same as text.

    plot = gl.show.scores(scores)
    plot                                        # in Jupyter: the picture
    plot.save("scores.png"); plot.save("scores.pdf"); plot.to_csv("scores.csv")
    plot.data["values"]; print(plot)

Figures are built without pyplot: no window opens, no backend is selected, and no figure stays in memory. The user's own
matplotlib settings have no effect on them and are not changed.
"""

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from gaze_lens.errors import InputError
from gaze_lens.runs.files import write_whole
from gaze_lens.show.plot_numbers import csv_of

WIDTH = 9.0  # inches: what a notebook shows at full size
DPI = 160
INK, FAINT, ACCENT = "#222222", "#777777", "#d55e00"  # accent: vermillion, which colour-blind readers tell from blue
BLUES = ("#c3d6ea", "#6ea3cf", "#2b6cab", "#0a3263")
MASS = LinearSegmentedColormap.from_list("mass", ["#f7f9fc", *BLUES])
SIGNED = LinearSegmentedColormap.from_list(  # white is zero
    "signed", [(0, "#4d4d4d"), (0.5, "#fafafa"), *((0.5 + 0.125 * i, blue) for i, blue in enumerate(BLUES, 1))]
)
KINDS = {"png": {"Software": "gaze_lens"}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
CJK = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Arial Unicode MS",
)  # fmt: skip
STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": "#999999", "xtick.color": INK, "ytick.color": INK, "text.parse_math": False,
    "font.size": 9.0, "axes.titlesize": 10.0, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.labelsize": 9.0, "xtick.labelsize": 8.0, "ytick.labelsize": 8.0, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "hatch.linewidth": 0.4, "hatch.color": "#bbbbbb", "svg.hashsalt": "gaze_lens", "pdf.fonttype": 42,
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Plot:
    """A figure that Jupyter shows, and that can be saved, printed as text, and checked.

    figure: the matplotlib Figure; changes to it are shown and saved.
    data: the numbers shown, by name: numpy arrays, and tuples of names along their axes.
    text: the same as text.
    """

    figure: Figure
    data: Mapping[str, Any]
    text: str

    def __post_init__(self) -> None:
        """Lay the figure out once: otherwise every drawing would move things a little."""
        if self.figure.get_layout_engine() is not None:
            with figure_style():
                self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def save(self, path: str | os.PathLike[str]) -> None:
        """`plot.save("scores.png")`, `.svg` or `.pdf`; complete or not there at all.

        PNG files have 160 dots an inch. Raises InputError for another suffix.
        """
        suffix = Path(path).suffix.lower().removeprefix(".")
        if suffix not in KINDS:
            raise InputError(f"{path} cannot be written: expected a name that ends in .{', .'.join(KINDS)}.")
        write_whole(path, self.render(suffix))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """`plot.to_csv("scores.csv")`: the numbers shown, with columns name, index and value; complete or not at all.

        index: along each axis of that number in `data`, from 0, with spaces between.
        """
        write_whole(path, csv_of(self.data).encode())

    def render(self, kind: str = "png") -> bytes:
        """`plot.render("svg")`: the bytes of the file that `save` would write. The same figure gives the same bytes."""
        if kind not in KINDS:
            raise InputError(f"A figure cannot be rendered as {kind!r}: expected one of {', '.join(KINDS)}.")
        buffer = io.BytesIO()
        with figure_style():
            self.figure.savefig(buffer, format=kind, dpi=DPI, metadata=KINDS[kind])
        return buffer.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture for Jupyter, and the size to show it at, which makes it sharp on screens of high resolution."""
        width, height = (round(inches * 96) for inches in self.figure.get_size_inches())
        return self.render("png"), {"width": width, "height": height}

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"Plot of {width:.1f} x {height:.1f} inches: {self.text.splitlines()[0]}"


@contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib's defaults with the changes in `STYLE`, inside the block."""
    with matplotlib.style.context(["default", STYLE, {"font.family": _fonts()}]), warnings.catch_warnings():
        # A character that no installed font has is drawn as a box; the warning adds nothing.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@cache
def _fonts() -> list[str]:
    """matplotlib's own font, then the installed fonts that have Chinese and Japanese characters."""
    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in CJK if name in installed)]


def new_figure(height: float, *, width: float = WIDTH, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure, sizes in inches; as wide as a notebook by default."""
    return Figure(figsize=(width, height), layout=layout)


def set_title(axes: Axes, title: str, note: str = "") -> None:
    """A title that says what is shown, and a note under it on how to read it."""
    axes.set_title(title, pad=18 if note else 6)
    style: dict[str, Any] = {"fontsize": 8, "color": FAINT, "textcoords": "offset points", "xycoords": "axes fraction"}
    axes.annotate(note, (0, 1), xytext=(0, 5), **style)


def text_colour(image: ScalarMappable, value: float) -> str:
    """White or ink: the colour of text that is legible on the colour of a value."""
    red, green, blue, _ = image.to_rgba(np.array(value))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else INK


def axes_at(figure: Figure, x: float, y: float, *, width: float, height: float) -> Axes:
    """Axes with their upper left corner at (x, y), all in inches, y down from the top of the figure."""
    total_width, total_height = figure.get_size_inches()
    bottom = 1 - (y + height) / total_height
    return figure.add_axes((x / total_width, bottom, width / total_width, height / total_height))


def write_at(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    """Text with its upper left corner at (x, y), in inches, y down from the top of the figure."""
    width, height = figure.get_size_inches()
    figure.text(x / width, 1 - y / height, text, **{"va": "top", **options})


def shorten(text: str, inches: float, *, size: float) -> str:
    """As much of a text as about fits a width at a font size in points."""
    room = max(1, int(inches * 72 / (0.6 * size)))
    return text if len(text) <= room else text[: max(1, room - 1)].rstrip() + "…"
