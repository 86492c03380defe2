"""axe-core on a page: what it finds is listed, one line for each fault."""

import pytest

WIDTHS, THEMES = (1400, 900, 390), ("light", "dark")


def violations(tab):
    """The faults of a page, of any impact, and the first place of each. Skips the test where axe is not installed."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    found = axe.run(tab).response["violations"]
    return [f"{one['impact']} {one['id']}: {one['help']}; {one['nodes'][0]['html'][:200]}" for one in found]
