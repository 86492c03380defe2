"""The viewer of prompts about text, in a browser: words in the place of the picture. And what both have in common."""

import numpy as np
import pytest
from accessibility import THEMES, WIDTHS, violations
from viewing import header_for, made_page, opened, page_of, recording_for

from gaze_lens import HookedVLM, passages, show, steer, testing

PEOPLE = ["Anna bakes bread.", "Ben flies to Rome.", "Cleo paints."]
HEADS = ["L0H1", "L1H0", "L1H1"]
TINTS = "nodes => nodes.map(node => parseInt(node.style.getPropertyValue('--tint')))"


@pytest.fixture(scope="module")
def viewer():
    model = HookedVLM.wrap(*testing.tiny("LlamaForCausalLM"))
    inputs = model.prepare(passages(PEOPLE), "What is said?")
    return show.attention(model, inputs, HEADS, spans=["said"], max_new_tokens=6)


@pytest.fixture(scope="module")
def saved(viewer, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "passages.html"
    viewer.save(path, steered=["segment 2", "said"])
    return path


@pytest.fixture
def tab(browser, saved):
    with opened(browser, saved) as tab:
        yield tab


def region(viewer, name):
    return next(one for one in viewer.header["regions"] if one["name"] == name)


def answer_words(viewer):
    return [(i, word["row"]) for i, word in enumerate(viewer.header["words"]) if word["kind"] == "answer"]


def key_tints(tab):
    return tab.eval_on_selector_all(".key", TINTS)


def word_tints(tab, name):
    return tab.eval_on_selector_all(f".{name} .word", TINTS)


def test_hovering_a_word_tints_the_words_that_it_looked_at(tab, viewer):
    mean, scaled = viewer.recording.mean(), viewer.header["subject"]["scaled"]
    measured = viewer.header["subject"]["measured"]
    rows = [word["row"] for word in viewer.header["words"] if word["row"] is not None]
    top = mean[rows][:, scaled].max()
    for word, row in answer_words(viewer)[:3]:
        tab.hover(f".word[data-word='{word}']")
        np.testing.assert_allclose(key_tints(tab), 60 * (mean[row] / top).clip(0, 1), atol=0.6)
        assert f"; {mean[row, measured].sum():.2f} on the segments" in tab.inner_text(".readout")
        for one in viewer.header["regions"]:
            chip = tab.inner_text(f".chip[data-region='{one['name']}'] b")
            assert float(chip) == pytest.approx(mean[row, one["tokens"]].sum(), abs=0.006)
    ticks = tab.locator(".ticks span").all_inner_texts()
    assert float(ticks[2].removesuffix(" or more")) == pytest.approx(top, abs=0.006)


def test_the_chosen_head_alone_tints_the_text(tab, viewer):
    values = viewer.recording.attention()[1]
    word, row = answer_words(viewer)[2]
    tab.click("[data-head='L1H0']")
    tab.hover(f".word[data-word='{word}']")
    tab.select_option("label:has-text('Colours') select", "word")
    top = values[row, viewer.header["subject"]["scaled"]].max()
    np.testing.assert_allclose(key_tints(tab), 60 * (values[row] / top).clip(0, 1), atol=0.6)


def test_segments_and_spans_are_outlined_and_named(tab, viewer):
    for name in ("segment 1", "segment 2", "segment 3", "said"):
        frame = tab.query_selector(f".framed[data-framed='{name}']")
        assert frame.query_selector(".name").inner_text() == name
        keys = [int(node.get_attribute("data-key")) for node in frame.query_selector_all(".key")]
        assert keys == region(viewer, name)["tokens"]
        assert frame.evaluate("node => getComputedStyle(node).borderTopWidth") == "1px"


def test_hovering_a_segment_tints_the_words_that_looked_there(tab, viewer):
    mean, tokens = viewer.recording.mean(), region(viewer, "segment 2")["tokens"]
    tab.hover(f".key[data-key='{tokens[1]}']")
    there = mean[:, tokens].sum(1)
    rows = [word["row"] for word in viewer.header["words"] if word["row"] is not None]
    tints = tab.eval_on_selector_all(".strip .word:not(.silent)", TINTS)
    np.testing.assert_allclose(tints, 60 * there[rows] / there.max(), atol=0.6)
    assert "looked at segment 2; most:" in tab.inner_text(".pointed")
    marked = tab.eval_on_selector_all(".key.marked", "nodes => nodes.map(node => +node.dataset.key)")
    assert marked == tokens
    tab.select_option("label:has-text('Under the mouse') select", "token")
    tab.hover(f".key[data-key='{tokens[0]}']")
    assert f"at position {viewer.recording.keys[tokens[0]]}; most:" in tab.inner_text(".pointed")


def drag_words(tab, first, last):
    for action, key in ((tab.mouse.down, first), (tab.mouse.up, last)):
        box = tab.query_selector(f".key[data-key='{key}']").bounding_box()
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        action()


def selected(tab):
    text = tab.get_attribute(".gaze-viewer", "data-selected")
    return None if text is None else [int(key) for key in text.split()]


def test_dragging_over_words_selects_them_and_a_click_selects_a_segment(tab, viewer):
    keys, tokens = viewer.recording.keys, region(viewer, "segment 1")["tokens"]
    drag_words(tab, tokens[4], tokens[1])
    assert selected(tab) == [keys[token] for token in tokens[1:5]]
    assert "(4 tokens)" in tab.inner_text(".state")
    tab.click(f".key[data-key='{tokens[2]}']")
    assert selected(tab) == [keys[token] for token in tokens]
    tab.select_option("label:has-text('Under the mouse') select", "token")
    tab.click(f".key[data-key='{tokens[2]}']")
    assert selected(tab) == [keys[tokens[2]]]


def test_the_text_can_be_walked_with_the_keyboard(tab, viewer):
    tab.select_option("label:has-text('Under the mouse') select", "token")
    tab.focus(".text")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "Enter"):
        tab.keyboard.press(key)
    assert selected(tab) == [viewer.recording.keys[1]]


def test_the_steered_answer_is_tinted_beside_the_baseline(tab, viewer):
    model, inputs = viewer.model, viewer.inputs
    tab.click(".chip[data-region='segment 2']")
    hooks = steer(HEADS, inputs.region("segment 2"))
    assert tab.text_content(".said") == str(model.generate(inputs, fwd_hooks=hooks, max_new_tokens=6))
    tokens, steered = region(viewer, "segment 2")["tokens"], viewer.steer("segment 2")
    mean = viewer.recording.mean()
    rows = [row for i, row in answer_words(viewer) if not viewer.header["words"][i]["special"]]
    values = mean[rows][:, tokens].sum(1), steered.attention[:, tokens].sum(1)
    top = max(map(max, values))
    for name, expected in zip(("baseline", "said"), values, strict=True):
        np.testing.assert_allclose(word_tints(tab, name), 60 * expected / top, atol=0.6)
    sums = tab.locator(".sum").all_inner_texts()
    assert [float(text.split()[0]) for text in sums] == pytest.approx([one.mean() for one in values], abs=0.006)
    visible = next(i for i, text in enumerate(steered.words) if text.strip())
    tab.hover(f".said .word >> nth={visible}")
    row, scaled = steered.attention[visible], viewer.header["subject"]["scaled"]
    np.testing.assert_allclose(key_tints(tab), 60 * (row / row[scaled].max()).clip(0, 1), atol=0.6)
    assert "in the steered answer, when it wrote" in tab.inner_text(".readout")


def test_escape_clears_everything(tab, viewer):
    before = tab.inner_text(".readout"), tab.inner_text(".said"), tab.inner_text(".pointed")
    tab.click("[data-head='L1H0']")
    tab.click(".chip[data-region='segment 2']")
    tokens = region(viewer, "segment 1")["tokens"]
    tab.mouse.move(*[sum(pair) for pair in middle(tab, tokens[0])])
    tab.mouse.down()
    tab.mouse.move(*[sum(pair) for pair in middle(tab, tokens[3])])
    tab.keyboard.press("Escape")
    tab.mouse.up()
    tab.hover("h1")
    assert selected(tab) is None
    assert not tab.query_selector_all(".key.marked")
    assert (tab.inner_text(".readout"), tab.inner_text(".said"), tab.inner_text(".pointed")) == before
    assert tab.inner_text(".steering h3 >> nth=1") == "Steered"
    assert tab.inner_text(".who") == "mean of 3 heads"
    assert not any(word_tints(tab, "baseline"))


def middle(tab, key):
    box = tab.query_selector(f".key[data-key='{key}']").bounding_box()
    return (box["x"], box["width"] / 2), (box["y"], box["height"] / 2)


# --- layout, heads, heat ------------------------------------------------------------------------------------------


def place(tab, selector):
    return tab.query_selector(selector).bounding_box()


@pytest.mark.parametrize("width", WIDTHS)
def test_words_are_beside_what_is_looked_at_or_it_stays_in_sight(browser, saved, tmp_path, width):
    picture = tmp_path / "picture.html"
    header = header_for(3, 400, (12, 18))
    header["subject"]["name"] = "the image and the segments"  # the longest text of a choice
    picture.write_text(made_page(header, recording_for(3, 400, (12, 18))), encoding="utf-8")
    for path, seen in ((saved, ".text"), (picture, ".picture")):
        with opened(browser, path, size=(width, 700)) as tab:
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            left, right = place(tab, seen), place(tab, ".strip")
            if width == 1400:
                assert left["x"] + left["width"] <= right["x"]
                assert right["y"] < 200
                assert place(tab, ".player")["y"] < 700
            else:
                assert left["y"] + left["height"] <= right["y"]
                assert left["height"] < 0.5 * 700
                tab.evaluate("window.scrollTo(0, 350)")
                assert 0 <= place(tab, seen)["y"] < 20


def test_the_original_is_seen_while_a_key_or_button_is_held(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page_of(2, 5, (4, 6)), encoding="utf-8")

    def seen(tab):
        image = tab.evaluate("getComputedStyle(document.querySelector('.picture img')).filter")
        return float(tab.evaluate("getComputedStyle(document.querySelector('canvas')).opacity")), image

    with opened(browser, path) as tab:
        assert seen(tab) == (1, "grayscale(0.7)")
        tab.keyboard.down("o")
        assert seen(tab) == (0, "grayscale(0)")
        tab.keyboard.up("o")
        assert seen(tab)[0] == 1
        tab.hover(".original")
        tab.mouse.down()
        assert seen(tab) == (0, "grayscale(0)")
        tab.mouse.up()
        tab.focus(".original")
        tab.keyboard.down(" ")
        assert seen(tab)[0] == 0
        tab.keyboard.up(" ")
        tab.fill("[aria-label='Opacity of the heat map']", "40")
        assert seen(tab) == (0.4, "grayscale(0.28)")


def test_the_grid_names_its_columns(browser, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page_of(12, 3, (2, 2)), encoding="utf-8")
    with opened(browser, path) as tab:
        for head in range(8):
            label = tab.query_selector(f"[role='columnheader'][aria-label='H{head}']")
            assert label.inner_text() == f"H{head}"
            cell = place(tab, f"[data-head='L0H{head}']")
            assert label.bounding_box()["x"] == pytest.approx(cell["x"], abs=1)


# --- accessibility ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_no_fault(browser, saved, tmp_path, width, theme):
    outline = [[[0, 0], [16, 0], [16, 16], [0, 16], [0, 0]]]
    regions = [{"name": "corner", "image": 0, "tokens": [0], "outline": outline}]
    header = header_for(3, 12, (4, 6), regions=regions)
    header["words"][3] = {"text": "\n", "kind": "prompt", "row": 3, "special": False}
    header["scores"] = [[0.1 * head for head in range(8)]]
    header["steering"] = {"heads": "L0H0", "n": 3, "baseline": [" w"], "live": False, "answers": [], "given": "much"}
    picture = tmp_path / "picture.html"
    picture.write_text(made_page(header, recording_for(3, 12, (4, 6))), encoding="utf-8")
    for path in (saved, picture):
        with opened(browser, path, theme=theme, size=(width, 900)) as tab:
            assert violations(tab) == []
            tab.click(".chip >> nth=0")
            tab.hover(".strip .word:not(.silent) >> nth=2")
            assert violations(tab) == []


# --- large recordings ---------------------------------------------------------------------------------------------


def test_a_large_recording_has_fewer_levels_and_exact_regions(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("gaze_lens.show.interactive.packing.MAX_BYTES", 400)
    recording = recording_for(5, 7, (6, 9))
    regions = [{"name": "odd", "image": 0, "tokens": list(range(1, 54, 2)), "outline": []}]
    header = header_for(5, 7, (6, 9), regions=regions)
    path = tmp_path / "page.html"
    path.write_text(made_page(header, recording), encoding="utf-8")
    with opened(browser, path) as tab:
        assert tab.evaluate("JSON.parse(document.getElementById('header').textContent).levels") == 5
        values = recording.attention()
        for head in (None, 3, 4):
            of_head = values.mean(0) if head is None else values[head]
            if head is not None:
                tab.click(f"[data-head='L0H{head}']")
            for word in (0, 6):
                tab.hover(f".word[data-word='{word}']")
                chip = tab.inner_text(".chip b")
                assert float(chip) == pytest.approx(of_head[word, 1::2].sum(), abs=0.0006 if len(chip) > 4 else 0.006)
                total = tab.inner_text(".readout").split("; ")[1].removesuffix(" on the image")
                assert float(total) == pytest.approx(of_head[word].sum(), abs=0.006)
