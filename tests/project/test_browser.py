"""What happens to the tests of pages on a machine without a browser."""

import shutil
from types import SimpleNamespace

import pytest
from browsers import NO_BROWSER, chromium, report_skipped


@pytest.fixture
def no_browser(monkeypatch, tmp_path):
    """A machine without Debian's Chromium and without Playwright's own."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))


def test_a_missing_browser_skips_the_test_and_says_how_to_get_one(no_browser, monkeypatch):
    monkeypatch.delenv("GAZE_LENS_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="playwright install chromium"), chromium():
        pass


def test_a_missing_browser_is_a_failure_where_one_is_required(no_browser, monkeypatch):
    monkeypatch.setenv("GAZE_LENS_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="playwright install chromium"), chromium():
        pass


@pytest.mark.parametrize(
    ("reasons", "lines"),
    [([], []), (["other"], []), ([NO_BROWSER, NO_BROWSER, "other"], [f"2 tests skipped: {NO_BROWSER}"])],
)
def test_the_end_of_a_run_says_it_once(reasons, lines):
    written = []
    stats = {"skipped": [SimpleNamespace(longrepr=("test.py", 1, f"Skipped: {reason}")) for reason in reasons]}
    report_skipped(SimpleNamespace(stats=stats, write_line=written.append))
    assert written == lines
