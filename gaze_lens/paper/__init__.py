"""The paper's experiments, one by one, on any supported model.

    found = gl.paper.reproduce(model, ["fig3a"], discovery=some, choosing=others, strips=still_others, out="paper")
    found["fig3a"].result.figures
    gl.paper.ROWS                                      # all rows, with the paper's figures

Gandikota and Bau 2026, "Gaze Heads: How VLMs Look at What They Describe" (arXiv 2606.14703).
"""

from gaze_lens.paper.context import Context
from gaze_lens.paper.files import Outcome
from gaze_lens.paper.page import markdown
from gaze_lens.paper.registry import ROWS, rows_named
from gaze_lens.paper.row import Cost, Figure, Row, RowResult, Run, Settings
from gaze_lens.paper.runner import reproduce

__all__ = [
    "ROWS", "Context", "Cost", "Figure", "Outcome", "Row", "RowResult", "Run", "Settings", "markdown", "reproduce",
    "rows_named",
]  # fmt: skip
