"""The page of `gaze-lens serve`: spotlight, boxes, sliders, phones, reloads, and names for screen readers."""

import re

import pytest
from PIL import Image
from playwright.sync_api import expect
from serving_page import SLOW, aside, ask, captions, drag, finish, said

from gaze_lens import comics


def spot(page, x, y):
    """Move the spotlight to a part of the picture, in fractions of it; where that is, in its pixels."""
    frame = page.locator("#picture").bounding_box()
    page.mouse.move(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"], steps=3)
    return [192 * x, 32 * y]


def test_a_spotlight_follows_the_mouse_and_the_wheel_changes_its_radius(page):
    page.check("#with-spotlight")
    radius = page.locator("#radius")
    first = float(radius.input_value())
    x, y = spot(page, 3.35 / 6, 0.5)
    page.mouse.wheel(0, 400)
    expect(radius).not_to_have_value(str(first))
    small = float(radius.input_value())
    assert small < first
    expect(page.locator("#spot")).to_be_visible()
    page.mouse.down()
    page.mouse.up()
    aside(page)
    expect(page.locator("#spot")).to_have_class("held")
    with page.expect_request(re.compile("/answers$")) as asked:
        ask(page, question=comics.OPEN)
    sent = asked.value.post_data_json["target"]
    assert (sent["name"], sent["disc"]) == ("spotlight", pytest.approx([x, y, small], abs=0.5))
    finish(page)
    assert page.locator("#answer .switch").inner_text() == "▸ spotlight"
    assert page.evaluate("scrollY") == 0, "the wheel belongs to the spotlight"


def test_a_spotlight_about_a_panel_is_the_panel_unless_snapping_is_off(page):
    page.check("#with-spotlight")
    spot(page, 2.5 / 6, 0.5)
    expect(page.locator(".target").nth(2)).to_have_attribute("aria-pressed", "true")
    page.uncheck("#snap")
    spot(page, 2.51 / 6, 0.5)
    expect(page.locator("#spot")).to_be_visible()
    expect(page.locator(".target[aria-pressed=true]")).to_have_count(0)


def test_a_stray_drag_makes_no_box_and_boxes_can_be_removed(page):
    first = page.locator("#picture").get_attribute("src")
    with page.expect_response(lambda answer: answer.url.endswith("/token") and first not in answer.url) as answered:
        page.click("#sample")
    assert answered.value.json() == {"width": 16, "height": 16}
    expect(page.locator("#picture")).to_have_attribute("alt", re.compile("6$"))
    drag(page, 0.5, 0.5, 0.5 + 15 / 192, 0.99)
    expect(page.locator(".target")).to_have_count(6)
    drag(page, 2.02 / 6, 0.02, 2.98 / 6, 0.98)
    expect(page.locator(".target").nth(2)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".target")).to_have_count(6)
    drag(page, 0.2, 0.1, 0.6, 0.9)
    expect(page.locator(".target")).to_have_count(7)
    page.get_by_role("button", name="Remove box 1").click()
    aside(page)
    expect(page.locator(".target")).to_have_count(6)
    expect(page.locator(".target[aria-pressed=true]")).to_have_count(0)


def test_a_box_without_a_token_is_told_and_does_not_block_the_question(page):
    page.locator("#boxes summary").click()
    for name, value in zip(("x0", "y0", "x1", "y1"), (40.1, 0.1, 40.4, 0.4), strict=True):
        page.fill(f"#box [name={name}]", str(value))
    page.keyboard.press("Enter")
    expect(page.locator(".target")).to_have_count(7)
    page.locator(".target").nth(1).click()
    aside(page)
    ask(page, question=comics.OPEN)
    expect(page.locator(".target")).to_have_count(6)
    finish(page)
    assert said(page) == captions(page)[1]


def test_the_answer_is_in_sight_beside_the_picture_and_beside_the_unsteered_one(page, tiny_model):
    page.set_viewport_size({"width": 1400, "height": 900})
    page.locator(".target").nth(1).click()
    ask(page, question=comics.OPEN)
    finish(page)
    picture, steered, free = (page.locator(name).bounding_box() for name in ("#picture", "#answer", "#baseline"))
    assert picture["x"] + picture["width"] <= steered["x"]
    assert steered["x"] + steered["width"] <= free["x"]
    assert steered["y"] + steered["height"] < 450
    strip = comics.synthetic(1, seed=5)[0]
    alone = str(tiny_model.generate(tiny_model.prepare(strip, comics.OPEN), max_new_tokens=100))
    assert page.locator("#baseline").inner_text() == alone != said(page)
    line, tint = page.locator("#answer .word").first.evaluate(
        "word => [getComputedStyle(word).borderBottomColor, getComputedStyle(document.querySelector('#answer .switch'))"
        ".backgroundColor]"
    )
    assert line == tint, "the line under a word has its target's colour"
    assert (
        page.locator("#baseline .word").first.evaluate("word => getComputedStyle(word).borderBottomColor")
        == "rgba(0, 0, 0, 0)"
    )


def test_on_a_phone_the_picture_stays_in_sight_and_a_finger_scrolls(page):
    page.set_viewport_size({"width": 390, "height": 500})
    ask(page, question=comics.OPEN)
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#stage").evaluate("stage => getComputedStyle(stage).touchAction") == "manipulation"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.evaluate("scrollY") > 100
    assert page.locator("#picture").bounding_box()["y"] >= 0
    assert page.locator("#answer").bounding_box()["y"] < 500


FINGER = """([kind, x, y]) => {
    const target = document.elementFromPoint(x, y);
    target.dispatchEvent(new PointerEvent(kind, { clientX: x, clientY: y, pointerType: "touch", pointerId: 7,
        button: 0, bubbles: true }));
}"""


def test_a_finger_that_moves_makes_no_box_and_a_tap_holds(page):
    frame = page.locator("#picture").bounding_box()
    x, y = frame["x"] + frame["width"] / 4, frame["y"] + frame["height"] / 2
    for kind, where in (("pointerdown", x), ("pointermove", x + 150), ("pointerup", x + 150)):
        page.evaluate(FINGER, [kind, where, y])
    expect(page.locator(".target")).to_have_count(6)
    expect(page.locator(".target[aria-pressed=true]")).to_have_count(0)
    for kind in ("pointerdown", "pointerup"):
        page.evaluate(FINGER, [kind, x, y])
    expect(page.locator(".target").nth(1)).to_have_attribute("aria-pressed", "true")


def test_sliders_say_how_it_is_steered_also_while_it_writes(page):
    page.locator(".target").nth(4).click()
    aside(page)
    page.select_option("#by", "mass")
    page.locator("#heads").fill("1")
    with page.expect_request(re.compile("/answers$")) as asked:
        ask(page, pause=SLOW)
    box = [128, 0, 160, 32]
    sent = asked.value.post_data_json["target"]
    assert sent == {"name": "panel 5", "box": pytest.approx(box, abs=2), "mass": 0.8, "n_heads": 1}
    expect(page.locator("#answer .word").nth(1)).to_be_visible()
    with page.expect_request(re.compile("/target$")) as moved:
        page.locator("#mass").fill("60")
    assert moved.value.post_data_json["target"]["mass"] == 0.6
    expect(page.locator("#mass")).to_have_attribute("aria-valuetext", "60 % of attention")
    page.click("#stop")
    finish(page)


def test_a_target_that_is_chosen_while_the_question_travels_counts(page):
    """The server cannot be told of it yet: the answer has no key."""
    held = []
    page.route("**/answers", lambda route: held.append(route))  # noqa: PLW0108 (Playwright sets attributes on it)
    page.locator(".target").nth(1).click()
    ask(page, pause="0.1")
    expect(page.locator("#stop")).to_be_enabled()
    page.locator(".target").nth(4).click()
    (route,) = held
    assert route.request.post_data_json["target"]["name"] == "panel 2"
    with page.expect_request(re.compile("/target$")) as moved:
        route.continue_()
    assert moved.value.post_data_json["target"]["name"] == "panel 5"
    expect(page.locator("#answer .switch").last).to_have_text("▸ panel 5")
    page.click("#stop")
    finish(page)


def test_answers_and_picture_survive_a_reload(page):
    page.locator(".target").nth(1).click()
    drag(page, 0.2, 0.1, 0.6, 0.9)
    ask(page, question=comics.OPEN)
    finish(page)
    text, picture = said(page), page.locator("#picture").get_attribute("src")
    colour = page.locator("#answer .word").first.evaluate("word => getComputedStyle(word).backgroundColor")
    page.reload()
    expect(page.locator("#earlier li")).to_have_count(1)
    assert text in page.locator("#earlier").inner_text()
    kept = page.locator("#earlier .word").first
    assert kept.evaluate("word => getComputedStyle(word).backgroundColor") == colour
    expect(page.locator(".target")).to_have_count(7)
    assert page.locator("#picture").get_attribute("src") == picture
    expect(page.locator("#prompt")).to_have_value(comics.OPEN)


def test_a_slow_upload_never_replaces_a_newer_one(page, tmp_path):
    for name in ("slow", "quick"):
        Image.new("RGB", (96, 64), "teal").save(tmp_path / f"{name}.png")
    held = []
    page.route("**/pictures", lambda route: route.continue_() if held else held.append(route))
    page.set_input_files("#file", tmp_path / "slow.png")
    expect(page.locator("#status")).to_have_text(re.compile("^Loading slow"))
    page.set_input_files("#file", tmp_path / "quick.png")
    expect(page.locator("#picture")).to_have_attribute("alt", "quick.png")
    expect(page.locator(".target")).to_have_count(0)  # not cut into panels unless asked
    (slow,) = held
    slow.continue_()
    page.wait_for_timeout(500)
    expect(page.locator("#picture")).to_have_attribute("alt", "quick.png")


UNNAMED = """() => [...document.querySelectorAll("button, input, select, output, [tabindex], img, summary")]
    .filter((element) => !(element.labels?.length || element.getAttribute("aria-label") || element.alt
        || (element.matches("button, summary, output") && element.textContent.trim())))
    .map((element) => element.outerHTML)"""
LEVELS = "() => [...document.querySelectorAll('h1, h2, h3')].map((heading) => Number(heading.tagName[1]))"
LABELLED = """() => [...document.querySelectorAll("[aria-label]")]
    .filter((element) => element.matches("p, span, div") && !element.getAttribute("role"))
    .map((element) => element.outerHTML)"""


def test_every_control_has_a_name_and_headings_have_an_order(page):
    drag(page, 0.2, 0.1, 0.6, 0.9)
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(LABELLED) == [], "a name on an element without a role is not read"
    levels = page.evaluate(LEVELS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert page.locator("button button").count() == 0
    assert {section.get_attribute("aria-labelledby") for section in page.locator("section, #ask").all()} == {
        "picture-heading", "question-heading", "answer-heading"
    }  # fmt: skip
    for slider in page.locator("input[type=range]").all():
        assert slider.get_attribute("aria-valuetext")
