"""Rows about scores of heads: which heads score high, and how far other ways to select heads agree (6, 11)."""

from typing import TYPE_CHECKING

from gaze_lens import show
from gaze_lens.heads.comparison import compare_rankings
from gaze_lens.paper.choosing import scaled
from gaze_lens.paper.context import Context
from gaze_lens.paper.row import Cost, Figure, Row, RowResult
from gaze_lens.paper.selected_heads import SELECTORS, eligible

if TYPE_CHECKING:
    from pandas import DataFrame

HIGH = 0.5  # the score above which the paper's histogram has a tail


def gaze_scores(context: Context) -> RowResult:
    """Row 6: the gaze scores of all heads, and in which layers the chosen ones are."""
    scores, layers = context.scores.score, [head.layer for head in context.heads]
    plots = {
        "scores": show.scores(context.scores), "histogram": show.score_histogram(context.scores, context.heads),
        "chosen": show.chosen_heads(context.scores, context.heads),
        "layers": show.heads_per_layer(context.heads, n_layers=len(scores)),
    }  # fmt: skip
    artefacts = (
        *(path for name, plot in plots.items() for path in context.save("fig2a", name, plot)),
        *context.save("fig2a", "matrices", show.matrices(context.scores, context.heads[:8])),
    )
    n_strips = len(context.scores.samples)
    figures = (
        Figure("heads steered", len(layers)),
        Figure("first layer of these", min(layers)),
        Figure("last layer of these", max(layers)),
        Figure("heads with a score above 0.5", int((scores > HIGH).sum()), n_strips=n_strips),
        Figure("largest score", float(scores.max()), n_strips=n_strips),
    )
    notes = (f"The model has layers 0 to {len(scores) - 1}. The number of heads was chosen on strips of their own.",)
    return RowResult(figures, notes=notes, artefacts=artefacts)


def selector_overlap(context: Context) -> RowResult:
    """Row 11: how many of the best heads the three selectors share, at the shares of heads that 10 and 100 are."""
    n_heads, figures, notes = context.settings.n_heads, [], []
    for published in (10, 100):
        k = scaled(published, n_heads)
        able = [name for name, by in SELECTORS.items() if eligible(context.scores, by) >= k]
        notes.append(f"{published} of 1,152 heads are {k} of this model's {n_heads}.")
        notes += [f"{name} ranks fewer than {k} heads." for name in SELECTORS if name not in able]
        if len(able) > 1:
            table = compare_rankings(context.scores, [SELECTORS[name] for name in able], counts=[k])
            figures += _overlaps(table, published)
    return RowResult(tuple(figures), notes=tuple(notes))


def _overlaps(table: "DataFrame", published: int) -> list[Figure]:
    """The figures of one number of heads: shared heads, their Jaccard index, and what chance gives."""
    names, figures = {by: name for name, by in SELECTORS.items()}, []
    for row in table.to_dict("records"):
        which = "all three" if row["first"] == "all" else f"{names[row['first']]} and {names[row['second']]}"
        figures.append(Figure(f"{published}: {which}", int(row["shared"])))
        figures.append(Figure(f"{published}: {which}, Jaccard", float(row["jaccard"])))
    pair = table[table["first"] != "all"].iloc[0]
    return [*figures, Figure(f"{published}: two by chance", float(pair.expected))]


ROWS = (
    Row(
        6, "fig2a", "Gaze score of every head", {
            "heads steered": 100, "first layer of these": 20, "last layer of these": 28,
            "heads with a score above 0.5": "a tail",
        },
        cost=lambda _settings: Cost(0), run=gaze_scores, also=("fig15", "fig16"),
    ),
    Row(
        11, "tab6", "Agreement of the selectors", {
            "10: gaze and Image Heads": 0, "10: gaze and Localization Heads": 1,
            "10: Image Heads and Localization Heads": 0, "10: two by chance": 0.1, "100: gaze and Image Heads": 43,
            "100: gaze and Localization Heads": 26, "100: Image Heads and Localization Heads": 33,
            "100: all three": 13, "100: two by chance": 8.7,
        },
        cost=lambda _settings: Cost(0), run=selector_overlap,
    ),
)  # fmt: skip
