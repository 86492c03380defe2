"""One reproduction on the embedded model that the tests of this folder share."""

import pytest

from gaze_lens import comics, paper

ROWS = [
    "fig2a", "fig2b", "fig3a", "tab5", "tab6", "tab4", "tab7", "tab3", "fig6", "tab8", "tab9", "junk", "encoder",
]  # fmt: skip


@pytest.fixture(scope="session")
def strips():
    """Strips to score heads on, to choose their number on, and to steer."""
    return {
        "discovery": comics.synthetic(2, seed=1, panels=3), "choosing": comics.synthetic(1, seed=2, panels=3),
        "strips": comics.synthetic(1, seed=3, panels=3),
    }  # fmt: skip


@pytest.fixture(scope="session")
def reproduced(tiny_model, strips, tmp_path_factory):
    """(folder, outcomes, printed lines)."""
    out, lines = tmp_path_factory.mktemp("paper"), []
    found = paper.reproduce(tiny_model, ROWS, **strips, out=out, draws=1, every=8, progress=False, echo=lines.append)
    return out, found, lines
