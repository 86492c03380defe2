"""Chromium for the tests of pages, and what happens where there is none."""

import os
import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import Error, sync_playwright

NO_BROWSER = "no Chromium: install Debian's package chromium, or run `playwright install chromium`"


@contextmanager
def chromium():
    """A headless Chromium: Debian's, else Playwright's own. Skips the test where there is neither.

    With GAZE_LENS_REQUIRE_BROWSER=1 a missing browser is a failure.
    """
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error as error:
            if "Executable doesn't exist" not in str(error):
                raise
            (pytest.fail if os.environ.get("GAZE_LENS_REQUIRE_BROWSER") == "1" else pytest.skip)(NO_BROWSER)
        try:
            yield browser
        finally:
            browser.close()


def report_skipped(reporter):
    """Say once, at the end of a run, why tests were skipped that need a browser."""
    n_skipped = sum(NO_BROWSER in str(report.longrepr) for report in reporter.stats.get("skipped", ()))
    if n_skipped:
        reporter.write_line(f"{n_skipped} tests skipped: {NO_BROWSER}")
