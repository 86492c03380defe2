"""The page of `gaze-lens serve` in headless Chromium: what a visitor sees when the mouse moves."""

import re

import pytest
from PIL import Image
from playwright.sync_api import expect
from serving_page import SLOW, aside, ask, captions, drag, finish, said, words

from gaze_lens import comics


def test_words_stream_in(page):
    ask(page, pause="0.1")
    expect(page.locator("#answer .word").first).to_be_visible()
    few = len(words(page))
    expect(page.locator("#status")).to_have_text("Writing …")
    finish(page)
    assert few < len(words(page))
    expect(page.locator("#status")).to_have_text(re.compile("Finished, .* tokens"))


def test_hovering_over_a_panel_in_mid_sentence_moves_the_description(page):
    shown = captions(page)
    ask(page, pause=SLOW)
    expect(page.locator("#answer .word").nth(2)).to_be_visible()
    before = len(words(page))
    page.locator(".target").nth(4).hover()
    chip = page.locator("#answer .switch")
    expect(chip).to_have_text("▸ panel 5")
    assert before < 20
    expect(page.locator("#answer")).to_contain_text(re.compile(f"panel 5.*{shown[4]}"))
    head = page.locator("#answer").inner_text().partition("▸ panel 5")[0]
    assert head.strip()
    assert shown[4] not in head, "it spoke of something else before"
    page.click("#stop")
    finish(page)
    last = page.locator("#answer .word").last
    assert last.get_attribute("data-region") == "panel 5"
    last.hover()
    expect(page.locator("#reading")).to_have_text(re.compile("panel 5 (9[0-9]|100) %"))


def test_a_held_target_stays_and_each_answer_is_steered_by_it(page):
    shown = captions(page)
    page.locator(".target").nth(1).click()
    aside(page)
    expect(page.locator(".target").nth(1)).to_have_attribute("aria-pressed", "true")
    ask(page, question=comics.OPEN)
    finish(page)
    assert said(page) == shown[1]
    page.locator(".target").nth(1).click()
    aside(page)
    expect(page.locator(".target[aria-pressed=true]")).to_have_count(0)
    ask(page, question=comics.OPEN)
    finish(page)
    expect(page.locator("#answer .switch")).to_have_count(0)
    assert shown[1] in page.locator("#earlier").inner_text(), "the answer before is kept"


def test_a_dragged_box_is_a_target_in_the_pictures_own_pixels(page):
    shown = captions(page)
    with page.expect_request(re.compile("/answers$")) as asked:
        drag(page, 2.1 / 6, 0.04, 2.9 / 6, 0.96)
        expect(page.locator(".target")).to_have_count(7)
        ask(page, question=comics.OPEN)
    question = asked.value.post_data_json
    assert question["target"]["name"] == "box 1"
    assert question["target"]["box"] == pytest.approx([67.2, 1.3, 92.8, 30.7], abs=1.0)
    assert question["regions"]["box 1"] == question["target"]["box"]
    finish(page)
    assert said(page) == shown[2]
    assert page.locator("#answer .word").last.get_attribute("data-region") == "box 1"


def test_everything_works_by_keyboard(page):
    shown = captions(page)
    page.select_option("#pause", "0")
    page.locator(".target").nth(0).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".target").nth(2)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("6")
    expect(page.locator(".target").nth(5)).to_have_attribute("aria-pressed", "true")
    page.focus("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type(comics.OPEN)
    page.keyboard.press("Enter")
    expect(page.locator("#answer .word").first).to_be_visible()
    finish(page)
    assert said(page) == shown[5]
    page.focus("#answer")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#reading")).to_have_text(re.compile(f"“{shown[5].split()[1]}”: panel 6"))
    page.locator("#boxes summary").press("Enter")
    for name, value in zip(("x0", "y0", "x1", "y1"), (32, 0, 64, 32), strict=True):
        page.fill(f"#box [name={name}]", str(value))
    page.keyboard.press("Enter")
    expect(page.locator(".target").nth(6)).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("way", ["button", "escape", "page closed"])
def test_stopping(server, page, way):
    ask(page, pause="0.6")
    expect(page.locator("#answer .word").first).to_be_visible()
    if way == "page closed":
        page.goto("about:blank")
        return server.idle()
    page.click("#stop") if way == "button" else page.keyboard.press("Escape")
    finish(page)
    expect(page.locator("#status")).to_have_text(re.compile("^Stopped, [1-9] tokens"))
    assert len(words(page)) < 10
    return None


def test_a_second_page_waits_its_turn_and_a_full_line_says_so(server, page):
    ask(page, pause="0.6")
    expect(page.locator("#answer .word").first).to_be_visible()
    others = [page.context.new_page() for _ in range(3)]
    for other in others:
        other.goto(server.origin)
        expect(other.locator(".target")).to_have_count(6)
    for other, message in zip(others, ("1 before", "2 before", "2 questions are waiting"), strict=True):
        ask(other)
        expect(other.locator("#status")).to_contain_text(message)
    page.click("#stop")
    for other in others[:2]:
        finish(other)
        expect(other.locator("#status")).to_contain_text("Finished")


def test_a_script_is_shown_as_text(page, tmp_path, monkeypatch, tiny_model):
    script = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    tokenizer = tiny_model.processor.tokenizer
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids, **_: script + " x" * len(ids))
    ask(page, question=script)
    finish(page)
    assert script in page.locator("#answer").inner_text(), "what the model writes"
    ask(page, question="again?")
    finish(page)
    assert script in page.locator("#earlier .question").inner_text(), "what the visitor asks"
    assert page.locator("#answer img, #answer script, #earlier img, #earlier script").count() == 0
    named = tmp_path / "<img src=x onerror=alert(3)>.png"
    Image.new("RGB", (96, 32), "teal").save(named)
    page.set_input_files("#file", named)
    expect(page.locator("#picture")).to_have_attribute("alt", named.name)
    assert dialogs == []


def test_a_picture_of_ones_own(page, tmp_path):
    strip = comics.synthetic(1, seed=77, panels=3)[0]
    strip.image.save(tmp_path / "mine.png")
    page.fill("#panels", "3")
    page.set_input_files("#file", tmp_path / "mine.png")
    expect(page.locator("#picture")).to_have_attribute("alt", "mine.png")
    expect(page.locator(".target")).to_have_count(3)
    page.locator(".target").nth(1).click()
    ask(page, question=comics.OPEN)
    finish(page)
    assert said(page) == strip.captions["panel 2"]


def test_files_that_are_no_pictures_or_too_large_are_refused(page, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("I am no picture.")
    page.set_input_files("#file", text)
    expect(page.locator("#status")).to_contain_text("no picture; expected PNG")
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    page.set_input_files("#file", large)
    expect(page.locator("#status")).to_contain_text("large.png is larger than 20 MB")
    expect(page.locator("#status")).to_have_class("bad")
    assert page.locator(".target").count() == 6, "the picture before stays"


def test_another_sites_page_cannot_post_or_read(server, browser):
    """A page on another origin of this machine: localhost is another origin than 127.0.0.1."""
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.goto(server.origin.replace("127.0.0.1", "localhost"))
    sends = """async (origin) => {
        const form = { method: "POST", mode: "no-cors", body: '{"seed": 1}' };
        const read = await fetch(origin + "/about").then(() => "read", () => "kept from it");
        await fetch(origin + "/samples", form).catch(() => null);
        return read;
    }"""
    before = len(server.state.images._pictures)
    assert page.evaluate(sends, server.origin) == "kept from it"
    assert len(server.state.images._pictures) == before
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(server, browser, scheme):
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{server.origin}/?seed=5")
    expect(page.locator(".target")).to_have_count(6)
    page.keyboard.press("4")
    ask(page, question=comics.OPEN)
    finish(page)
    for selector, least in (("#answer .word >> nth=2", 4.5), (".hint >> nth=0", 4.5), ("#go", 4.5)):
        assert contrast(page, selector) >= least, selector
    context.close()


CONTRAST = """(element) => {
    const canvas = document.createElement("canvas").getContext("2d");
    const pixel = (colours) => {
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    return [pixel([...grounds, getComputedStyle(element).color]), pixel(grounds)];
}"""


def contrast(page, selector):
    """The contrast of an element's text and ground, as WCAG 2 defines it."""

    def luminance(pixel):
        parts = [value / 255 for value in pixel]
        red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, bright = sorted(luminance(pixel) for pixel in page.locator(selector).evaluate(CONTRAST))
    return (bright + 0.05) / (dark + 0.05)


def test_the_regions_lie_on_the_picture_in_a_narrow_window(page):
    page.set_viewport_size({"width": 400, "height": 700})
    frame = page.locator("#picture").bounding_box()
    last = page.locator(".target").nth(5).bounding_box()
    assert frame["width"] < 400
    assert last["x"] + last["width"] == pytest.approx(frame["x"] + frame["width"], abs=1.5)
    assert frame["width"] / frame["height"] == pytest.approx(6, rel=0.03)
