"""Rows about scores of heads: which heads score high, and how far other ways to select heads agree (6, 11)."""

from gaze_lens import show
from gaze_lens.paper.context import Context
from gaze_lens.paper.row import Cost, Figure, Row, RowResult

HIGH = 0.5  # the score above which the paper's histogram has a tail


def gaze_scores(context: Context) -> RowResult:
    """Row 6: the gaze scores of all heads, and in which layers the chosen ones are."""
    scores, layers = context.scores.score, [head.layer for head in context.heads]
    artefacts = (
        *context.save("fig2a", "scores", show.scores(context.scores)),
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


ROWS = (
    Row(
        6, "fig2a", "Gaze score of every head", {
            "heads steered": 100, "first layer of these": 20, "last layer of these": 28,
            "heads with a score above 0.5": "a tail",
        },
        cost=lambda _settings: Cost(0), run=gaze_scores, also=("fig15", "fig16"),
    ),
)  # fmt: skip
