"""Write docs/paper/table.md from docs/paper/rows, which `gaze-lens paper` wrote: python docs/make_paper.py

The rows come from `gaze-lens paper --limit 6 --models tiny,zoo-free --out paper`, where zoo-free is a link to the
checkpoint of the zoo's member "free"; then `cp paper/paper.json docs/paper; cp paper/rows/*.json docs/paper/rows`.
"""

from pathlib import Path

from gaze_lens.paper import markdown
from gaze_lens.paper.files import read_rows

FOLDER = Path(__file__).parent / "paper"


def table() -> str:
    """The table of all rows."""
    return markdown(read_rows(FOLDER))


if __name__ == "__main__":
    (FOLDER / "table.md").write_text(table(), encoding="utf-8")
