"""The page "Reproduce the paper" has every row, and its table is that of the files that the command wrote."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from gaze_lens import paper
from gaze_lens.paper.files import read_rows

NAMES = ("fig1", "fig10", "fig11", "fig12", "fig13", "fig2b", "fig3a", "fig3b", "tab5", "tab4", "tab7", "tab3", "fig6")
DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_is_made_of_the_files():
    spec = spec_from_file_location("make_paper", DOCS / "make_paper.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "paper" / "table.md").read_text() == module.table(), "run: python docs/make_paper.py"


def test_every_row_is_on_the_page():
    text = (DOCS / "paper.md").read_text()
    assert [row.name for row in paper.ROWS if row.name not in text] == []


def test_the_forwards_on_the_page_are_those_of_the_costs():
    text, settings = (DOCS / "paper.md").read_text(), paper.Settings()
    for name in NAMES:
        (row,) = paper.rows_named([name])
        (line,) = (line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[2])
        assert line.rstrip("| ").split("|")[-1].strip() == f"{row.cost(settings).forwards:,}"


def test_what_is_shown_was_measured_on_six_strips_at_most():
    found = read_rows(DOCS / "paper")
    figures = [figure for one in found.values() if one.result for figure in one.result.figures]
    assert max(figure.n_strips for figure in figures if figure.n_strips is not None) == 6
