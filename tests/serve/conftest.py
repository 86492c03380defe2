"""A server, and its page in headless Chromium."""

import pytest
from playwright.sync_api import expect
from serving import LONGEST, served

from gaze_lens import HeadSet
from gaze_lens.serve import Limits

HEADS = HeadSet(["L1H6", "L1H11"])


@pytest.fixture(scope="module")
def server(tiny_model):
    with served(tiny_model, HEADS, Limits(waiting=2)) as running:
        yield running


@pytest.fixture
def page(server, browser):
    """The page with a sample strip; fails where a script fails or anything is asked of another host."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    opened, wrong = context.new_page(), []
    opened.set_default_timeout(1000 * LONGEST)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: None if request.url.startswith(server.origin) else wrong.append(request.url))
    opened.goto(f"{server.origin}/?seed=5")
    expect(opened.locator(".target")).to_have_count(6)
    yield opened
    context.close()
    server.idle()
    assert not wrong
