"""A row of the paper's table of experiments: what it is called, what the paper found, what it costs, how it is run.

    ROW = Row(8, "fig3a", "Question steering", {"gaze": 83.1}, cost=cost, run=run)
    RowResult((Figure.rate("gaze", results.accuracy("gaze")),), judge=results.judge)

A row has `run`, or for rows that rest on `gl.evaluate` also `runs`, which --shard shares out by strips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gaze_lens.evaluation.condition import Condition
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from gaze_lens.paper.context import Context

FEWEST = 6  # strips; a rate over fewer says nothing
Unit = Literal["%", "rho", ""]


@dataclass(frozen=True)
class Settings:
    """What the costs of rows depend on.

    strips, discovery, choosing: numbers of strips to steer, to score heads on, and to choose the number of heads on.
    panels: of a strip. layers, heads: of the model, heads in each layer. chosen: heads that are steered; 0 if they are
    not chosen yet. draws: of random heads. pictures: photographs or scenes. models: of the rows over several models.
    every: tokens after which the target of a dynamic narration changes.
    """

    strips: int = 500
    discovery: int = 500
    choosing: int = 50
    panels: int = 6
    layers: int = 36
    heads: int = 32
    chosen: int = 100
    draws: int = 5
    pictures: int = 0
    models: int = 0
    every: int = 50
    seed: int = 0

    @property
    def n_heads(self) -> int:
        """All heads of the model."""
        return self.layers * self.heads


@dataclass(frozen=True)
class Cost:
    """Forwards of one prompt each: prefills, and decode steps with a cache. An upper bound: answers may end early."""

    prefills: int
    steps: int = 0

    @property
    def forwards(self) -> int:
        """All of them."""
        return self.prefills + self.steps

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.prefills + other.prefills, self.steps + other.steps)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.prefills * times, self.steps * times)


def answers(number: int, tokens: int) -> Cost:
    """The cost of so many answers of so many tokens."""
    return Cost(number, number * (tokens - 1))


@dataclass(frozen=True)
class Figure:
    """One number of a row. value, low, high: in the unit that the paper's figure has; percent for "%".

    n_strips: strips (or pictures) that it was measured on; None for what is no statistic over strips.
    """

    name: str
    value: float | str | None
    low: float | None = None
    high: float | None = None
    n_strips: int | None = None
    unit: Unit = ""

    @classmethod
    def rate(cls, name: str, estimate: Estimate | None) -> "Figure":
        """A share, in percent, from an estimate; without a value where nothing was judged."""
        if estimate is None:
            return cls(name, None, unit="%")
        value, low, high = (100 * one for one in (estimate.value, estimate.low, estimate.high))
        return cls(name, value, low, high, estimate.n_strips, "%")

    @classmethod
    def rho(cls, name: str, estimate: Estimate | None) -> "Figure":
        """A rank correlation, from an estimate."""
        if estimate is None:
            return cls(name, None, unit="rho")
        return cls(name, estimate.value, estimate.low, estimate.high, estimate.n_strips, "rho")

    @property
    def is_too_few(self) -> bool:
        """Whether it is a rate, or a correlation, over too few strips."""
        return bool(self.unit) and self.n_strips is not None and self.n_strips < FEWEST

    def shown(self) -> str:
        """The value as text; "too few" in place of a rate over fewer than six strips."""
        if self.is_too_few:
            return "too few"
        return "" if self.value is None else str_of(self.value, self.unit)

    def interval(self) -> str:
        """The interval as text, or nothing."""
        if self.is_too_few or self.low is None or self.high is None:
            return ""
        return f"[{str_of(self.low, self.unit)}, {str_of(self.high, self.unit)}]"


def str_of(value: float | str, unit: str = "") -> str:
    """A number as text, with the digits that its unit has."""
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if unit == "%" else f"{value:.3g}"


@dataclass(frozen=True)
class RowResult:
    """What a row found.

    figures: ours; those that have the name of one of the paper's stand beside it. judge: of the answers, if there were
    any. notes: what is different from the paper. artefacts: files in the results folder, as paths relative to it; PNG
    files are shown on the page.
    """

    figures: tuple[Figure, ...]
    judge: str | None = None
    notes: tuple[str, ...] = ()
    artefacts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "figures": [asdict(figure) for figure in self.figures], "judge": self.judge, "notes": list(self.notes),
            "artefacts": list(self.artefacts),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RowResult":
        """From what `to_dict` returned."""
        figures = tuple(Figure(**figure) for figure in values["figures"])
        return cls(figures, values["judge"], tuple(values["notes"]), tuple(values["artefacts"]))


@dataclass(frozen=True)
class Run:
    """One call of `gl.evaluate` that rows rest on. name: of its folder; rows may share it."""

    name: str
    conditions: Sequence[Condition]
    protocol: Protocol


@dataclass(frozen=True)
class Row:
    """A row of the paper's table.

    number, name, also: its place in the table, the first of the figures and tables where it is, and the others.
    paper: the paper's figures by name, in percent where they are shares.
    cost: forwards for the settings. run: the experiment.
    runs: the evaluations that `run` takes from `context.results`, for rows that rest on evaluations alone.
    reason: why it is impossible on this model with these pictures, or None. `run` is then not called.
    """

    number: int
    name: str
    title: str
    paper: Mapping[str, float | str]
    cost: Callable[[Settings], Cost]
    run: Callable[["Context"], RowResult]
    runs: Callable[["Context"], Sequence[Run]] | None = None
    reason: Callable[["Context"], str | None] = field(default=lambda _context: None)
    also: tuple[str, ...] = ()
