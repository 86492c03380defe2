"""The image-attention viewer in a browser, against the data in its page. The network is cut off throughout."""

import base64
import itertools
import json
import re
import time

import numpy as np
import pytest
from viewing import CELL, header_for, made_page, opened, page_of, recording_for

from gaze_lens import Box, show, steer, suppress_image
from gaze_lens.comics.generator import scenes, synthetic
from gaze_lens.comics.questions import OPEN
from gaze_lens.show.interactive.page import SCRIPT, STYLE

GRID = (4, 6)
CORNERS = [
    {"name": "left", "image": 0, "tokens": [0, 1, 6, 7], "outline": [[[0, 0], [32, 0], [32, 32], [0, 32], [0, 0]]]},
    {"name": "right", "image": 0, "tokens": [16, 17, 22, 23], "outline": [[[64, 32], [96, 32], [96, 64], [64, 64]]]},
]
RECTANGLES = "which => JSON.stringify([...document.querySelectorAll(which)].map(one => one.getBoundingClientRect()))"
ALPHAS = """([canvas, boxes, width, height]) => {
    const context = canvas.getContext('2d');
    return boxes.map(([x0, y0, x1, y1]) => {
        const x = Math.floor((x0 + x1) / 2 / width * canvas.width);
        const y = Math.floor((y0 + y1) / 2 / height * canvas.height);
        return context.getImageData(x, y, 1, 1).data[3];
    });
}"""


@pytest.fixture
def made_up(browser, tmp_path):
    """(tab, recording) of a page with three heads, twelve words and 4 x 6 tokens."""
    path = tmp_path / "made_up.html"
    path.write_text(page_of(3, 12, GRID, regions=CORNERS), encoding="utf-8")
    with opened(browser, path) as tab:
        yield tab, recording_for(3, 12, GRID)


@pytest.fixture(scope="module")
def viewer(tiny_model):
    """Two images and an answer of the embedded model."""
    strip, scene = synthetic(1, seed=5, panels=3)[0], scenes(1, seed=0)[0]
    inputs = tiny_model.prepare([[strip, scene]], [OPEN])
    return show.attention(tiny_model, inputs, ["L1H0", "L1H6", "L1H11"], max_new_tokens=8)


def alphas(tab, boxes, size, image=0):
    """How opaque the heat map is in the middle of each box: the more, the more attention."""
    canvas = tab.query_selector(f".picture[data-image='{image}'] canvas")
    return np.array(tab.evaluate(ALPHAS, [canvas, boxes, *size]), dtype=float)


def strongest(tab, boxes, size, image=0):
    return int(alphas(tab, boxes, size, image).argmax())


def tints(tab):
    nodes = tab.query_selector_all(".word:not(.silent)")
    return [int(node.evaluate("n => n.style.getPropertyValue('--tint')").rstrip("%")) for node in nodes]


def mean(recording, heads=slice(None), *, weighted=False):
    return recording.attention(weighted=weighted)[heads].mean(0)


def boxes_of(grid):
    header = header_for(1, 1, grid)
    return header["tokens"]["boxes"], header["images"][0]["size"]


def grip(tab, x, y, image=0):
    """A point of a picture, in its own pixels, as a point of the screen."""
    frame = tab.query_selector(f".picture[data-image='{image}']")
    frame.scroll_into_view_if_needed()
    place = frame.query_selector("canvas").bounding_box()
    _, _, width, height = map(float, frame.query_selector("svg").get_attribute("viewBox").split())
    return place["x"] + x / width * place["width"], place["y"] + y / height * place["height"]


def drag(tab, box, image=0):
    tab.mouse.move(*grip(tab, box[0], box[1], image))
    tab.mouse.down()
    tab.mouse.move(*grip(tab, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, image))
    tab.mouse.move(*grip(tab, box[2], box[3], image))
    tab.mouse.up()


def selected(tab):
    return [int(key) for key in tab.get_attribute(".gaze-viewer", "data-selected").split()]


# --- looking ------------------------------------------------------------------------------------------------------


def test_hovering_a_word_shows_where_it_looked(made_up):
    tab, recording = made_up
    boxes, size = boxes_of(GRID)
    for word in (3, 0, 11):
        tab.hover(f".word[data-word='{word}']")
        row = mean(recording)[word]
        assert strongest(tab, boxes, size) == row.argmax()
        assert f"“w{word}”; {row.sum():.2f} on the image" in tab.inner_text(".readout")
        chips = [tab.inner_text(f".chip[data-region='{region['name']}'] b") for region in CORNERS]
        assert [float(chip) for chip in chips] == pytest.approx([row[r["tokens"]].sum() for r in CORNERS], abs=0.006)


def test_nothing_jumps_when_another_word_is_shown(browser, tmp_path):
    outline = [[[0, 0], [16, 0], [16, 16], [0, 16], [0, 0]]]
    regions = [{"name": f"token {i}", "image": 0, "tokens": [i], "outline": outline} for i in range(24)]
    path = tmp_path / "page.html"
    path.write_text(page_of(3, 12, GRID, regions=regions), encoding="utf-8")
    with opened(browser, path) as tab:
        places, texts = set(), set()
        for word in range(12):
            tab.hover(f".word[data-word='{word}']")
            places.add(tab.evaluate(RECTANGLES, ".chip, .strip"))
            texts.update(tab.locator(".chip b").all_inner_texts())
    assert {len(text) for text in texts} == {4, 5, 6}
    assert "<0.001" in texts
    assert len(places) == 1


def test_opacity_follows_attention_and_the_scale_has_its_numbers(made_up):
    tab, recording = made_up
    boxes, size = boxes_of(GRID)
    tab.hover(".word[data-word='4']")
    row = mean(recording)[4]
    opacity = alphas(tab, boxes, size)
    order = row.argsort()
    assert (np.diff(opacity[order]) >= 0).all()
    ticks = [float(tick) for tick in tab.locator(".ticks span").all_inner_texts()]
    top = mean(recording).max()
    assert ticks == pytest.approx([0, top / 2, top], abs=0.006)
    tab.select_option("label:has-text('Colours') select", "word")
    assert float(tab.locator(".ticks span").last.inner_text()) == pytest.approx(row.max(), abs=0.006)
    assert alphas(tab, boxes, size).max() >= 0.85 * 255


def test_arrow_keys_go_from_word_to_word(made_up):
    tab, recording = made_up
    boxes, size = boxes_of(GRID)
    tab.focus(".strip")
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.get_attribute(".word[aria-selected='true']", "data-word") == "2"
    assert strongest(tab, boxes, size) == mean(recording)[2].argmax()
    active = tab.get_attribute(".strip", "aria-activedescendant")
    assert tab.get_attribute(f"#{active}", "data-word") == "2"
    tab.keyboard.press("End")
    tab.keyboard.press("ArrowRight")
    assert tab.get_attribute(".word[aria-selected='true']", "data-word") == "11"


def test_one_head_several_heads_and_all(made_up):
    tab, recording = made_up
    boxes, size = boxes_of(GRID)
    tab.hover(".word[data-word='5']")
    tab.click("[data-head='L0H1']")
    assert tab.inner_text(".who") == "L0H1"
    assert strongest(tab, boxes, size) == mean(recording, [1])[5].argmax()
    tab.click("[data-head='L0H2']", modifiers=["Shift"])
    assert tab.inner_text(".who") == "mean of 2 heads"
    assert strongest(tab, boxes, size) == mean(recording, [1, 2])[5].argmax()
    tab.focus("[data-head='L0H2']")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press(" ")
    assert tab.inner_text(".who") == "L0H2"
    tab.click(".every")
    assert strongest(tab, boxes, size) == mean(recording)[5].argmax()


def test_weighted_values_and_shares(made_up):
    tab, recording = made_up
    boxes, size = boxes_of(GRID)
    tab.hover(".word[data-word='7']")
    tab.select_option("label:has-text('Show') select", "weighted")
    weighted = mean(recording, weighted=True)
    assert strongest(tab, boxes, size) == weighted[7].argmax()
    assert float(tab.locator(".ticks span").last.inner_text()) == pytest.approx(weighted.max(), abs=0.006)
    assert "norm" in tab.inner_text(".unit")
    tab.select_option("label:has-text('Show') select", "share")
    shares = mean(recording) / mean(recording).sum(-1, keepdims=True)
    assert float(tab.locator(".ticks span").last.inner_text()) == pytest.approx(shares.max(), abs=0.006)
    left = float(tab.inner_text(".chip[data-region='left'] b"))
    assert left == pytest.approx(shares[7, CORNERS[0]["tokens"]].sum(), abs=0.006)


def test_hovering_the_picture_tints_the_words_that_looked_there(made_up):
    tab, recording = made_up
    values = mean(recording)
    tab.select_option("label:has-text('Under the mouse') select", "token")
    tab.mouse.move(*grip(tab, 3.5 * CELL, 2.5 * CELL))
    there = values[:, 2 * GRID[1] + 3]
    np.testing.assert_allclose(tints(tab), 60 * there / there.max(), atol=0.6)
    assert f"position {10 + 2 * GRID[1] + 3}; most: “w{there.argmax()}”" in tab.inner_text(".pointed")
    tab.select_option("label:has-text('Under the mouse') select", "region")
    tab.mouse.move(*grip(tab, 5, 5))
    left = values[:, CORNERS[0]["tokens"]].sum(1)
    np.testing.assert_allclose(tints(tab), 60 * left / left.max(), atol=0.6)
    tab.hover(".chip[data-region='right']")
    right = values[:, CORNERS[1]["tokens"]].sum(1)
    np.testing.assert_allclose(tints(tab), 60 * right / right.max(), atol=0.6)
    tab.hover(".readout")
    total = values.sum(1)
    np.testing.assert_allclose(tints(tab), 60 * total / total.max(), atol=0.6)


def test_the_picture_can_be_walked_with_the_keyboard(made_up):
    tab, _ = made_up
    tab.select_option("label:has-text('Under the mouse') select", "token")
    tab.focus(".picture")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "Enter"):
        tab.keyboard.press(key)
    assert selected(tab) == [10 + GRID[1] + 1]


WATCH = """() => {
    window.hovered = [];
    new MutationObserver((changes) => changes
        .filter(({ target }) => target.getAttribute("aria-selected") === "true")
        .forEach(({ target }) => window.hovered.push(target.dataset.word)),
    ).observe(document.querySelector(".strip"), { attributeFilter: ["aria-selected"], subtree: true });
}"""


def test_the_slider_and_play_go_through_the_answer(made_up):
    tab, recording = made_up
    boxes, size = boxes_of(GRID)
    tab.focus(".player input")
    tab.keyboard.press("ArrowRight")
    assert tab.get_attribute(".word[aria-selected='true']", "data-word") == "1"
    tab.select_option(".player select", "10")
    tab.evaluate(WATCH)
    tab.click(".play")
    tab.wait_for_selector(".play:has-text('play')", timeout=60_000)
    assert tab.evaluate("window.hovered") == [str(word) for word in range(2, 12)]
    assert strongest(tab, boxes, size) == mean(recording)[11].argmax()


def test_views_that_overlap_are_averaged(browser, tmp_path):
    boxes = [[0, 0, 16, 16], [16, 0, 32, 16], [8, 0, 24, 16]]
    recording = recording_for(2, 3, (1, 3))
    header = header_for(2, 3, (1, 3))
    header["tokens"]["boxes"], header["images"][0]["size"] = boxes, (32, 16)
    path = tmp_path / "views.html"
    path.write_text(made_page(header, recording), encoding="utf-8")
    with opened(browser, path) as tab:
        tab.select_option("label:has-text('Colours') select", "word")
        for word, (a, b, c) in enumerate(mean(recording).tolist()):
            tab.hover(f".word[data-word='{word}']")
            parts = {(0, 8): a, (8, 16): (a + c) / 2, (16, 24): (b + c) / 2, (24, 32): b}
            opacity = alphas(tab, [[x0, 0, x1, 16] for x0, x1 in parts], (32, 16))
            order = np.argsort(list(parts.values()))
            assert (np.diff(opacity[order]) >= 0).all()
            assert opacity.argmax() == order[-1]


def test_each_of_several_images_has_its_own_heat(browser, viewer, tmp_path):
    viewer.save(tmp_path / "two.html")
    recording, values = viewer.recording, mean(viewer.recording)
    with opened(browser, tmp_path / "two.html") as tab:
        answer = [(i, word["row"]) for i, word in enumerate(viewer.header["words"]) if word["kind"] == "answer"]
        for i, row in answer[:3]:
            tab.hover(f".word[data-word='{i}']")
            for tokens in viewer.inputs.image_tokens:
                mine = [recording.keys.index(position) for position in tokens.positions.tolist()]
                opacity = alphas(tab, tokens.boxes.tolist(), tokens.size, tokens.image)
                true = values[row, mine]
                assert true[opacity.argmax()] >= 0.97 * true.max()
        alts = [image.get_attribute("alt") for image in tab.query_selector_all(".picture img")]
        assert [alt.split(",")[0] for alt in alts] == ["Image 1 of 2", "Image 2 of 2"]


# --- selecting ----------------------------------------------------------------------------------------------------


def test_dragging_a_box_selects_the_positions_that_inputs_region_would(browser, viewer, tmp_path):
    viewer.save(tmp_path / "two.html")
    with opened(browser, tmp_path / "two.html") as tab:
        for image, box in [(0, (3, 2, 61, 30)), (0, (33, 1, 95, 15)), (1, (10, 10, 50, 75)), (1, (90, 60, 20, 20))]:
            drag(tab, box, image)
            x0, y0, x1, y1 = box
            whole = Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
            assert selected(tab) == list(viewer.inputs.region(whole, image=image).positions[0])
        tab.click(".clear")
        assert tab.get_attribute(".gaze-viewer", "data-selected") is None


def test_a_box_between_the_centres_selects_nothing_and_says_so(made_up):
    tab, _ = made_up
    drag(tab, (9, 9, 15, 15))
    assert tab.get_attribute(".gaze-viewer", "data-selected") is None
    assert "drag a larger one" in tab.inner_text(".pointed")


def test_a_click_selects_the_region_under_it_or_the_token(made_up):
    tab, _ = made_up
    tab.mouse.click(*grip(tab, 70, 40))
    assert selected(tab) == [10 + token for token in CORNERS[1]["tokens"]]
    tab.mouse.click(*grip(tab, 40, 8))
    assert selected(tab) == [12]
    tab.click(".chip[data-region='left']")
    assert selected(tab) == [10 + token for token in CORNERS[0]["tokens"]]


# --- steering -----------------------------------------------------------------------------------------------------


def test_a_saved_page_shows_the_steered_answers_that_it_holds(browser, viewer, tmp_path):
    viewer.save(tmp_path / "steered.html", steered=["panel 2"])
    with opened(browser, tmp_path / "steered.html") as tab:
        baseline = viewer.model.generate(viewer.inputs, max_new_tokens=8)
        assert tab.inner_text(".baseline") == str(baseline)
        tab.click(".chip[data-region='panel 2']")
        hooks = steer(viewer.recording.heads, viewer.inputs.region("panel 2"))
        steered = viewer.model.generate(viewer.inputs, fwd_hooks=hooks, max_new_tokens=8)
        assert str(steered) != str(baseline)
        assert tab.inner_text(".said") == str(steered)
        assert not tab.query_selector(".steering select")
        tab.click(".chip[data-region='panel 1']")
        assert tab.inner_text(".state") == "No steered answer to panel 1 was saved."


def test_a_page_without_steered_answers_offers_none(browser, viewer, tmp_path):
    viewer.save(tmp_path / "plain.html")
    with opened(browser, tmp_path / "plain.html") as tab:
        assert not tab.query_selector(".steering")


@pytest.fixture
def live(browser, viewer, monkeypatch):
    """(tab, requests): the widget as anywidget loads it, with the messages of its two halves handed over."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 1400})
    tab, requests, widget, replies = context.new_page(), [], viewer.widget, []
    monkeypatch.setattr(widget, "send", replies.append)

    def python(message):
        requests.append(message)
        widget._receive(widget, message, [])
        return json.loads(json.dumps(replies.pop()))

    tab.expose_function("python", python)
    tab.set_content("<body style='background: white'><div id='cell'></div></body>")
    tab.add_style_tag(path=STYLE)
    traits = {"header": json.loads(json.dumps(widget.header)), "arrays": base64.b64encode(widget.arrays).decode()}
    tab.evaluate(
        """async ([source, traits]) => {
            const widget = (await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })))).default;
            const bytes = Uint8Array.from(atob(traits.arrays), (c) => c.charCodeAt(0));
            const values = { header: traits.header, arrays: new DataView(bytes.buffer) };
            const heard = new Set();
            const model = { get: (name) => values[name], on: (_, hear) => heard.add(hear),
                off: (_, hear) => heard.delete(hear),
                send: async (message) => {
                    const reply = await window.python(message);
                    heard.forEach((hear) => hear(reply));
                } };
            window.stop = await widget.render({ model, el: document.getElementById("cell") });
            window.heard = heard;
        }""",
        [SCRIPT.read_text(encoding="utf-8"), traits],
    )
    yield tab, requests
    tab.evaluate("window.stop()")
    assert tab.evaluate("window.heard.size") == 0
    context.close()


def settled(tab):
    tab.wait_for_selector(".steering:not([aria-busy])", timeout=60_000)


def test_dragging_a_box_steers_the_model_to_it(live, viewer):
    tab, requests = live
    model, inputs, heads = viewer.model, viewer.inputs, viewer.recording.heads
    drag(tab, (33, 1, 63, 31))
    settled(tab)
    region = inputs.region((33, 1, 63, 31), image=0)
    expected = model.generate(inputs, fwd_hooks=steer(heads, region), max_new_tokens=8)
    assert tab.inner_text(".said") == str(expected)
    assert [int(p) for p in tab.get_attribute(".steering", "data-positions").split()] == list(region.positions[0])
    assert tab.inner_text(".baseline") == str(model.generate(inputs, max_new_tokens=8))
    assert requests[-1]["box"] == pytest.approx([33, 1, 63, 31], abs=0.5)
    assert (requests[-1]["mode"], requests[-1]["strength"]) == ("boost_and_suppress", 10_000)


def test_a_named_region_mode_and_strength(live, viewer):
    tab, requests = live
    model, inputs, heads = viewer.model, viewer.inputs, viewer.recording.heads
    tab.click(".chip[data-region='panel 3']")
    settled(tab)
    assert requests[-1]["region"] == "panel 3"
    tab.select_option("label:has-text('Mode') select", "suppress_image")
    settled(tab)
    tab.select_option("label:has-text('Strength') select", "2")
    settled(tab)
    assert (requests[-1]["mode"], requests[-1]["strength"]) == ("suppress_image", 2)
    hooks = steer(heads, inputs.region("panel 3"), mode=suppress_image(2.0))
    assert tab.inner_text(".said") == str(model.generate(inputs, fwd_hooks=hooks, max_new_tokens=8))
    assert tab.inner_text(".steering h3 >> nth=1") == "Steered to panel 3"


def test_what_python_refuses_is_said_on_the_page(live, viewer, monkeypatch):
    tab, _ = live
    monkeypatch.setattr(viewer.widget, "answer", lambda content: {"kind": "refused", "message": "<b>no</b>"})
    tab.click(".chip[data-region='panel 1']")
    settled(tab)
    assert tab.inner_text(".state") == "<b>no</b>"


# --- safety, speed, legibility ------------------------------------------------------------------------------------


def test_what_a_model_writes_is_text(browser, tmp_path):
    header = header_for(1, 3, (2, 2), regions=[{**CORNERS[0], "tokens": [0], "name": "<img src=x onerror=alert(1)>"}])
    script = "<script>window.caught = true</script><img src=x onerror='window.caught = true'>"
    header["words"][1]["text"] = f"</script>{script}"
    steering = {"heads": "L0H0", "n": 1, "baseline": ["<b>bold</b>"], "live": False, "answers": [], "given": script}
    header["steering"] = steering
    path = tmp_path / "evil.html"
    path.write_text(made_page(header, recording_for(1, 3, (2, 2)), title="</title><script>1"), encoding="utf-8")
    with opened(browser, path) as tab:
        assert tab.evaluate("window.caught") is None
        assert tab.inner_text(".baseline") == "<b>bold</b>"
        assert tab.inner_text(".word[data-word='1']") == header["words"][1]["text"]
        assert len(tab.query_selector_all("img")) == 1
        tab.hover(".chip")
        assert "<img src=x" in tab.inner_text(".pointed")


def test_a_large_recording_opens_and_follows_the_mouse(browser, tmp_path):
    path = tmp_path / "large.html"
    regions = [{"name": "all", "image": 0, "tokens": list(range(1500)), "outline": []}]
    path.write_text(page_of(40, 300, (30, 50), regions=regions), encoding="utf-8")
    started = time.monotonic()
    with opened(browser, path) as tab:
        opening = time.monotonic() - started
        assert opening < 20
        measure = """async ([kind, targets]) => {
            const times = [];
            for (const target of targets) {
                const node = document.querySelector(target);
                const start = performance.now();
                node.dispatchEvent(new MouseEvent(kind, { bubbles: true }));
                times.push(performance.now() - start);
                await new Promise(requestAnimationFrame);
            }
            return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
        }"""
        words = tab.evaluate(measure, ["pointerover", [f".word[data-word='{i}']" for i in range(0, 300, 10)]])
        heads = tab.evaluate(measure, ["click", [f"[data-head='L{i}H3']" for i in range(5)] + [".every"] * 6])
        assert words < 50, "milliseconds, of the median word"
        assert heads < 500, "milliseconds, of the mean over 40 heads"


def luminance(colour):
    channels = [float(value) / 255 for value in re.findall(r"[\d.]+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


COLOURS = """selector => {
    const style = getComputedStyle(document.querySelector(selector));
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const seen = (...colours) => {
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return 'rgb(' + canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).join(',') + ')';
    };
    const paper = getComputedStyle(document.querySelector('.gaze-viewer')).backgroundColor;
    return [seen(style.color), seen(paper, style.backgroundColor)];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_is_legible_in_light_and_dark(browser, tmp_path, theme):
    path = tmp_path / "page.html"
    path.write_text(page_of(3, 12, GRID, regions=CORNERS), encoding="utf-8")
    with opened(browser, path, theme=theme) as tab:
        assert tab.get_attribute(".gaze-viewer", "data-theme") == theme
        paper = tab.evaluate(COLOURS, ".gaze-viewer")[1]
        assert luminance(paper) > 0.9 if theme == "light" else luminance(paper) < 0.05
        tab.click(".chip[data-region='left']")
        darkest = int(np.argmax(tints(tab)))
        for selector in (".readout", ".note", ".unit", ".chip", "select", ".tag", f".word[data-word='{darkest}']"):
            ink, ground = tab.evaluate(COLOURS, selector)
            assert contrast(ink, ground) >= 4.5, selector


def test_heat_can_be_told_by_lightness_alone(made_up):
    tab, _ = made_up
    stops = re.findall(r"rgba?\(([^)]*)\)", tab.locator(".bar").get_attribute("style"))
    values = [[float(value) for value in stop.split(",")] for stop in stops]
    seen = [[a * c + (1 - a) * 255 for c in (r, g, b)] for r, g, b, a in values]
    lightness = [luminance(str(colour)) for colour in seen]
    assert all(after < before - 0.02 for before, after in itertools.pairwise(lightness))


def test_all_that_the_mouse_can_do_has_a_name_and_a_key(made_up):
    tab, _ = made_up
    for selector in (".picture", ".strip", ".grid", ".player input"):
        assert tab.get_attribute(selector, "aria-label")
    reachable = tab.evaluate("""() => [...document.querySelectorAll('.gaze-viewer [tabindex="0"], .gaze-viewer button, '
        + '.gaze-viewer select, .gaze-viewer input, .gaze-viewer summary')].map((n) => n.className || n.tagName)""")
    assert {"picture", "strip", "cell recorded", "chip", "play", "every", "SELECT", "INPUT"} <= set(reachable)
