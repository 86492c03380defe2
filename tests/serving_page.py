"""What tests of the page of `gaze-lens serve` do on it and read from it."""

from playwright.sync_api import expect
from serving import LONGEST

expect.set_options(timeout=1000 * LONGEST)
SLOW = "0.25"  # seconds a token: time for the mouse


def captions(page):
    """What each panel of the sample shows."""
    return [page.locator(".target").nth(index).get_attribute("title") for index in range(6)]


def ask(page, *, pause="0", question=None):
    page.select_option("#pause", pause)
    if question is not None:
        page.fill("#prompt", question)
    page.click("#go")


def finish(page):
    expect(page.locator("#stop")).to_be_disabled()


def words(page):
    return page.locator("#answer .word").all_inner_texts()


def said(page):
    """The answer without the marks of its targets."""
    keep = "p => [...p.childNodes].filter((node) => node.className !== 'switch').map((node) => node.textContent)"
    return "".join(page.locator("#answer").evaluate(keep))


def aside(page):
    """Take the mouse off the picture."""
    page.mouse.move(5, 5)


def drag(page, x0, y0, x1, y1):
    """Drag over a part of the picture, in fractions of it."""
    frame = page.locator("#picture").bounding_box()
    page.mouse.move(frame["x"] + x0 * frame["width"], frame["y"] + y0 * frame["height"])
    page.mouse.down()
    page.mouse.move(frame["x"] + x1 * frame["width"], frame["y"] + y1 * frame["height"], steps=5)
    page.mouse.up()
    aside(page)
