"""The data of the image-attention viewer: what is recorded against whole patterns, and what a page is made of."""

import base64
import html
import importlib.util
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import tower_runs
from viewing import header_for, page_of

from gaze_lens import Box, HeadScores, HeadSet, HookedVLM, Picture, passages, show, steer, suppress_image, testing
from gaze_lens.comics.generator import scenes
from gaze_lens.comics.questions import OPEN
from gaze_lens.errors import HeadError, InputError, RegionError
from gaze_lens.regions.layout import Region
from gaze_lens.show.interactive.page import page
from gaze_lens.show.interactive.recording import LEVELS, quantised, record
from gaze_lens.show.interactive.words import words_of
from gaze_lens.text.token_texts import pieces

HEADS = ["L2H1", "L0H3"]


@pytest.fixture(scope="module")
def viewer(tiny_model, strip):
    return show.attention(tiny_model, tiny_model.prepare(strip, OPEN), ["L1H0", "L2H0"], max_new_tokens=10)


def patterns(model, inputs, heads, keys, **options):
    """{query position: [head, image token]} and the answer's ids, from whole patterns of an ordinary generation."""
    generation = model.generate(inputs, names_filter=lambda name: name.endswith("attn.hook_pattern"), **options)
    rows = {}
    for step in range(generation.n_steps):
        first = 0 if step == 0 else inputs.layout.length + step - 1
        blocks = [generation.activations[f"blocks.{layer}.attn.hook_pattern"][step] for layer, _ in heads]
        for query in range(blocks[0].shape[2]):
            of_heads = [block[0, head, query] for block, (_, head) in zip(blocks, heads, strict=True)]
            rows[first + query] = np.stack([row[list(keys)].numpy() for row in of_heads])
    return rows, tuple(generation.tokens[0].tolist())


def check(recording, rows):
    """Every recorded row is the true one, within its steps, and has its sum."""
    values = recording.attention()
    for word, query in enumerate(recording.queries):
        true = rows[query]
        np.testing.assert_allclose(values[:, word].sum(-1), true.sum(-1), atol=1e-5)
        most = true.max(-1, keepdims=True)
        np.testing.assert_allclose(np.sqrt(values[:, word] / most), np.sqrt(true / most), atol=1.5 / LEVELS)


# --- what is recorded ---------------------------------------------------------------------------------------------


def test_recorded_rows_are_those_of_whole_patterns(model, strip):
    inputs = model.prepare(strip, "What is this, do you think?")
    recording = record(model, inputs, HEADS, max_new_tokens=5)
    rows, answer = patterns(model, inputs, HeadSet(HEADS), recording.keys, max_new_tokens=5)
    assert recording.keys == inputs.layout.images[0]
    assert recording.answer == answer
    last = inputs.last_position
    after = [p for p in inputs.text_positions[0] if p > max(recording.keys)]
    assert recording.queries == (*after, *range(last + 1, last + len(answer)))
    check(recording, rows)


def test_a_given_answer_is_read_and_not_generated(model, strip):
    inputs = model.prepare(strip, "What is this?", answers=["a red square."])
    recording = record(model, inputs, HEADS)
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    keys = list(recording.keys)
    rows = {
        query: np.stack(
            [cache[f"blocks.{la}.attn.hook_pattern"][0, h, query, keys].numpy() for la, h in HeadSet(HEADS)]
        )
        for query in recording.queries
    }
    check(recording, rows)
    assert recording.queries[-1] == inputs.last_position - 1
    assert "".join(pieces(inputs.tokenizer, recording.answer)).strip().startswith("a red square.")
    with pytest.raises(InputError, match="hold an answer, so nothing is generated, and max_new_tokens"):
        record(model, inputs, HEADS, max_new_tokens=3)


def test_values_are_weighted_by_the_norms_of_their_own_heads(model, strip):
    inputs = model.prepare(strip, "What is this?")
    recording = record(model, inputs, HEADS, max_new_tokens=2)
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_v"))
    for index, (layer, head) in enumerate(HeadSet(HEADS)):
        values = cache[f"blocks.{layer}.attn.hook_v"][0]
        group = head // (model.cfg.n_heads // values.shape[1])
        for token, key in enumerate(recording.keys):
            norm = sum(float(x) ** 2 for x in values[key, group]) ** 0.5
            assert recording.norms[index, token] == pytest.approx(norm, rel=1e-4)
    raw, weighted = recording.attention(), recording.attention(weighted=True)
    np.testing.assert_allclose(weighted[1, 3], raw[1, 3] * recording.norms[1], rtol=1e-5)


def test_prompt_words_limits_the_prompt_alone(model, strip):
    inputs = model.prepare(strip, "What is this?")
    recording = record(model, inputs, HEADS, prompt_words=0, max_new_tokens=4)
    assert recording.queries[0] == inputs.last_position
    few = record(model, inputs, HEADS, prompt_words=3, max_new_tokens=4)
    assert few.queries[:3] == inputs.text_positions[0][-3:]


def test_a_model_that_drops_early_queries_records_them(shelf, strip):
    model, _ = shelf.get("Gemma 4")
    inputs = model.prepare(strip, "What is this, I ask?")
    heads, keys = (
        HeadSet([(layer, 0) for layer in range(model.cfg.n_layers)]),
        inputs.image_tokens[0].positions.tolist(),
    )
    recording = record(model, inputs, heads, max_new_tokens=3)
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("attn.hook_pattern"))
    prompt = [query for query in recording.queries if query < inputs.layout.length]
    assert len(prompt) > 4
    for word, query in enumerate(prompt):
        for index, (layer, head) in enumerate(heads):
            row = cache[f"blocks.{layer}.attn.hook_pattern"][0, head, query, keys].numpy()
            assert recording.attention()[index, word].sum() == pytest.approx(row.sum(), abs=1e-4)


def test_hooks_that_come_along_are_seen(model, strip):
    inputs = model.prepare(strip, "What is this?")
    heads, region = HeadSet(HEADS), inputs.region("panel 2")
    recording = record(model, inputs, heads, fwd_hooks=steer(heads, region), max_new_tokens=3)
    outside = [i for i, key in enumerate(recording.keys) if key not in region.positions[0]]
    assert recording.attention()[..., outside].max() < 1e-6


def test_several_images_lie_one_behind_the_other(model, strip):
    inputs = model.prepare([[strip, scenes(1, seed=0)[0]]], ["What?"])
    recording = record(model, inputs, HEADS, max_new_tokens=3)
    rows, _ = patterns(model, inputs, HeadSet(HEADS), recording.keys, max_new_tokens=3)
    assert len(recording.keys) == sum(map(len, inputs.image_tokens))
    check(recording, rows)
    between = [p for p in inputs.text_positions[0] if recording.keys[0] < p < recording.keys[-1]]
    assert set(between) < set(recording.queries)
    second = len(inputs.image_tokens[0])
    assert (recording.attention()[:, recording.queries.index(between[0]), second:] == 0).all()


def test_an_image_reached_by_cross_attention(shelf, strip):
    model = shelf.get("Mllama")[0]
    inputs = model.prepare(strip, "What is this?")
    cross_attention = next(layer for layer in range(model.cfg.n_layers) if model.blocks[layer].attn.is_cross_attention)
    recording = record(model, inputs, [(cross_attention, 1), (0, 0)], max_new_tokens=3)
    _, cache = model.run_with_cache(inputs, names_filter=f"blocks.{cross_attention}.attn.hook_pattern")
    row = cache[f"blocks.{cross_attention}.attn.hook_pattern"][0, 1, -1, list(recording.keys)].numpy()
    word = recording.queries.index(inputs.last_position)
    values = recording.attention()[:, word]
    np.testing.assert_allclose(np.sqrt(values[0] / row.max()), np.sqrt(row / row.max()), atol=1.5 / LEVELS)
    assert (values[1] == 0).all()
    words = words_of(inputs, recording.answer, recording.queries)
    assert [word.text for word in words if word.kind == "image"] == ["image"]


def test_a_window_that_leaves_the_image_behind(shelf, strip):
    model, _ = shelf.get("Qwen2.5-VL", sliding_window=24, use_sliding_window=True, max_window_layers=0)
    inputs = model.prepare(strip, "What?")
    recording = record(model, inputs, HEADS, max_new_tokens=16)
    seen = recording.attention().sum((0, 2))
    assert seen[0] > 0
    for word, query in enumerate(recording.queries):
        unseen = [i for i, key in enumerate(recording.keys) if key <= query - 24]
        assert (recording.attention()[:, word, unseen] == 0).all()


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.1, 6), st.integers(1, 400))
def test_levels_keep_sums_exactly_and_values_closely(seed, spread, n_tokens):
    scores = spread * torch.randn(2, 3, n_tokens, generator=torch.Generator().manual_seed(seed))
    rows = 0.7 * scores.softmax(-1)
    levels, scales = quantised(rows)
    values = scales[..., None].astype(np.float64) * levels.astype(np.float64) ** 2
    true = rows.numpy()
    np.testing.assert_allclose(values.sum(-1), true.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(values, true, atol=0.06 * true.max())
    assert levels.max(-1).min() == LEVELS


def test_a_row_without_attention_stays_empty():
    levels, scales = quantised(torch.zeros(1, 2, 5))
    assert (levels == 0).all()
    assert (scales == 0).all()


def test_what_cannot_be_shown_is_refused(model, strip, monkeypatch):
    inputs = model.prepare(strip, "What?")
    with pytest.raises(HeadError, match="set of heads is empty"):
        show.attention(model, inputs, [])
    with pytest.raises(HeadError, match="L9H9 lie outside"):
        show.attention(model, inputs, ["L9H9"])
    with pytest.raises(InputError, match="these inputs have 2 rows"):
        show.attention(model, model.prepare([strip, strip], ["What?", "Why?"]), HEADS)
    with pytest.raises(InputError, match="expected a list"):
        show.attention(model, inputs, HEADS, spans="What")
    with pytest.raises(InputError, match="expected text of the prompt"):
        show.attention(model, inputs, HEADS, spans=[inputs.region("panel 1")])
    with pytest.raises(RegionError, match="'Why' is not in the prompt"):
        show.attention(model, inputs, HEADS, spans=["Why"])
    with pytest.raises(RegionError, match="was made for"):
        show.attention(model, inputs, HEADS, spans=[model.prepare(strip, "What is it?").span("What")])
    answered = model.prepare(strip, "What?", answers=["red."])
    with pytest.raises(InputError, match="'red' lies in the answer"):
        show.attention(model, answered, HEADS, spans=[answered.span("red")])
    with pytest.raises(InputError, match="leave out num_beams"):
        show.attention(model, inputs, HEADS, num_beams=2, max_new_tokens=3)
    with pytest.raises(InputError, match=r"scores have shape \(2, 2\): expected one for each of 4 layers x 4 heads"):
        show.attention(model, inputs, HEADS, scores=np.zeros((2, 2)), max_new_tokens=1)
    monkeypatch.setattr("gaze_lens.show.interactive.recording.MAX_VALUES", 50)
    with pytest.raises(InputError, match="Give fewer heads, prompt_words or max_new_tokens"):
        show.attention(model, inputs, HEADS, max_new_tokens=3)


# --- words --------------------------------------------------------------------------------------------------------


def test_the_strip_is_the_prompt_with_images_collapsed_and_the_answer(viewer):
    inputs, words = viewer.inputs, viewer.header["words"]
    texts = [word["text"] for word in words if word["kind"] != "answer"]
    tokens = inputs.str_tokens(collapse=True)
    assert [t for t in texts if not t.startswith("image")] == [t for t in tokens if "image:" not in t]
    assert [word["text"] for word in words if word["kind"] == "image"] == [
        f"image: {len(inputs.image_tokens[0])} tokens"
    ]
    ids = viewer.recording.answer
    assert "".join(viewer.answer) == inputs.tokenizer.decode(ids)
    queries = viewer.recording.queries
    answer = [word for word in words if word["kind"] == "answer"]
    assert [queries[word["row"]] for word in answer] == [inputs.last_position + step for step in range(len(ids))]


@pytest.mark.parametrize("text", ["a blue ring", "日本語 ☂ é", "tab\tand\nline", "🙂🙃"])
def test_pieces_make_up_the_text_and_no_character_is_cut(tiny_model, text):
    tokenizer = tiny_model.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = pieces(tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids)
    assert text not in tokenizer.decode(ids) or not any("\ufffd" in piece for piece in texts)


def test_words_of_a_sentencepiece_tokenizer_keep_their_spaces():
    class Tokenizer:
        names = ("▁a", "▁red", "dish", "▁ring")

        def convert_ids_to_tokens(self, ids):
            return [self.names[i] for i in ids]

        def decode(self, ids):
            return "".join(self.names[i] for i in ids).replace("▁", " ").strip()

    assert pieces(Tokenizer(), [0, 1, 2, 3]) == [" a", " red", "dish", " ring"]


# --- the page -----------------------------------------------------------------------------------------------------


def contents(text):
    """(header, scales, norms, levels) as the page's own script reads them."""
    header = json.loads(re.search(r'id="header">(.*?)</script>', text, re.DOTALL)[1])
    packed = re.search(r'id="arrays">(.*?)</script>', text, re.DOTALL)[1]
    data = zlib.decompress(base64.b64decode(packed))
    heads, words, tokens = header["shape"]
    scales = np.frombuffer(data, "<f4", heads * words).reshape(heads, words)
    most = np.frombuffer(data, "<f4", heads, 4 * scales.size)
    norms = np.frombuffer(data, "<u2", heads * tokens, 4 * (scales.size + heads)).reshape(heads, tokens)
    levels = np.frombuffer(data, np.uint8, -1, 4 * (scales.size + heads) + 2 * norms.size)
    norms, levels = most[:, None] * norms, levels.reshape(heads, words, tokens)
    return header, scales, norms, levels


def test_a_page_holds_what_was_recorded_and_nothing_to_load(viewer, tmp_path):
    viewer.save(tmp_path / "new" / "attention.html")
    text = (tmp_path / "new" / "attention.html").read_text(encoding="utf-8")
    header, scales, norms, levels = contents(text)
    np.testing.assert_allclose(scales, viewer.recording.scales, rtol=1e-6)
    np.testing.assert_allclose(norms, viewer.recording.norms, atol=1e-5 * viewer.recording.norms.max())
    np.testing.assert_array_equal(levels, viewer.recording.levels)
    assert header["steering"] is None
    assert header["tokens"]["keys"] == list(viewer.recording.keys)
    np.testing.assert_allclose(header["tokens"]["boxes"], viewer.inputs.image_tokens[0].boxes, atol=0.01)
    addresses = set(re.findall(r"https?://[^\"'\s)]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nothing asks for
    assert "default-src 'none'" in text


def test_regions_are_those_of_the_inputs_and_one_smaller_than_a_token_holds_none(model, strip):
    picture = Picture(strip.image, {"all": Box(0, 0, 96, 32), "dot": Box(1, 1, 3, 3)}, {"all": "a strip"})
    inputs = model.prepare(picture, "What?")
    header = show.attention(model, inputs, HEADS, max_new_tokens=1).header
    every, dot = header["regions"]
    assert tuple(header["tokens"]["keys"][token] for token in every["tokens"]) == inputs.region("all").positions[0]
    assert dot["tokens"] == []
    assert header["images"][0]["alt"] == "The image, 96 x 32 pixels. Regions: all: a strip; dot."


def test_scores_colour_the_grid(tiny_model, viewer, strip):
    n_layers, n_heads = tiny_model.cfg.n_layers, tiny_model.cfg.n_heads
    samples = torch.rand(2, n_layers, n_heads, 3, 3, generator=torch.Generator().manual_seed(1))
    scores = HeadScores(samples)
    values = show.attention(tiny_model, viewer.inputs, ["L0H0"], scores=scores, max_new_tokens=1).header["scores"]
    np.testing.assert_allclose(values, scores.score, atol=1e-4)
    holes = scores.score.clone()
    holes[0, 0] = torch.nan
    assert (
        show.attention(tiny_model, viewer.inputs, ["L0H0"], scores=holes, max_new_tokens=1).header["scores"][0][0]
        is None
    )


@pytest.mark.parametrize("kind", ["even", "attention"])
def test_a_page_of_forty_heads_three_hundred_words_and_fifteen_hundred_tokens_stays_small(kind):
    text = page_of(40, 300, (30, 50), kind=kind)
    assert len(text.encode()) < 10_000_000


def test_nothing_that_a_model_or_user_writes_becomes_html():
    header = header_for(1, 2, (1, 1))
    evil = "</script><img src=x onerror=alert(1)><!--"
    header["words"][0]["text"] = evil
    text = page(header, zlib.compress(b""), title=evil)
    assert evil not in text
    assert contents_header(text)["words"][0]["text"] == evil
    assert html.escape(evil) in text


def contents_header(text):
    return json.loads(re.search(r'id="header">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize("name", ["attention.png", "attention", "attention.html.txt"])
def test_another_suffix_is_refused(viewer, tmp_path, name):
    with pytest.raises(InputError, match="ends in .html"):
        viewer.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# --- steering -----------------------------------------------------------------------------------------------------


def test_steered_answers_are_those_of_gl_steer(viewer):
    model, inputs, heads = viewer.model, viewer.inputs, viewer.recording.heads
    for where, mode in (("panel 2", None), ((32, 0, 64, 32), suppress_image(3.0))):
        region = inputs.region(where)
        expected = model.generate(inputs, fwd_hooks=steer(heads, region, mode=mode), max_new_tokens=10)
        steered = viewer.steer(where, mode=mode)
        assert "".join(steered.words) == str(expected)
        assert steered.positions == region.positions[0]


def test_steering_again_does_not_encode_the_image_again(viewer):
    viewer.steer("panel 1")
    with tower_runs(viewer.model) as runs:
        viewer.steer("panel 2")
    assert not runs


def test_a_page_holds_the_steered_answers_that_were_asked_for(viewer):
    steering = contents_header(viewer.to_html(steered=["panel 1", "panel 3"]))["steering"]
    assert [answer["region"] for answer in steering["answers"]] == ["panel 1", "panel 3"]
    for answer in steering["answers"]:
        assert tuple(answer["words"]) == viewer.steer(answer["region"]).words
    assert "".join(steering["baseline"]) == str(viewer.model.generate(viewer.inputs, max_new_tokens=10))
    assert steering["given"].startswith("added to scores, in logits, 10000 on the region, -10000 on the rest")
    with pytest.raises(RegionError, match="region 'panel 7': expected some of panel 1, panel 2, panel 3"):
        viewer.to_html(steered=["panel 7"])
    with pytest.raises(InputError, match="expected a list of names"):
        viewer.to_html(steered="panel 1")


def test_a_given_answer_cannot_be_steered(model, strip):
    prepared = show.attention(model, model.prepare(strip, "What?", answers=["red."]), HEADS)
    assert not prepared.can_steer
    assert prepared.widget.header["steering"] is None
    with pytest.raises(InputError, match="given, not generated"):
        prepared.steer("panel 1")


def request(**changes):
    base = {"kind": "steer", "id": 7, "image": 0, "region": "panel 2", "mode": "boost_and_suppress", "strength": 1e4}
    return {**base, **changes}


def replies(viewer, monkeypatch, content):
    replies = []
    monkeypatch.setattr(viewer.widget, "send", replies.append)
    viewer.widget._receive(viewer.widget, content, [])
    return replies


def test_the_widget_answers_requests_by_name_and_by_box(viewer, monkeypatch):
    (reply,) = replies(viewer, monkeypatch, request())
    assert (reply["kind"], reply["id"], reply["region"]) == ("steered", 7, "panel 2")
    assert reply["words"] == viewer.steer("panel 2").words
    box = [32.0, 0.0, 64.0, 32.0]
    (by_box,) = replies(viewer, monkeypatch, request(region=None, box=box, mode="suppress_image", strength=2.0))
    assert by_box["positions"] == viewer.inputs.region(tuple(box)).positions[0]
    assert by_box["words"] == viewer.steer(tuple(box), mode=suppress_image(2.0)).words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region": "panel 9"}, "has a region 'panel 9'"),
        ({"region": None, "box": [0, 0, 1, 1]}, "holds no image token"),
        ({"mode": "all"}, "There is no mode 'all'"),
        ({"strength": float("nan")}, "four numbers"),
        ({"kind": "other"}, "expected a request to steer"),
    ],
)
def test_the_widget_says_why_it_cannot(viewer, monkeypatch, changes, message):
    (reply,) = replies(viewer, monkeypatch, request(**changes))
    assert (reply["kind"], reply["id"]) == ("refused", 7)
    assert message in reply["message"]


def test_the_page_is_answered_even_where_the_model_fails(viewer, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("out of memory")

    replies = []
    widget = replace(viewer).widget
    monkeypatch.setattr(widget, "send", replies.append)
    monkeypatch.setattr(widget, "answer", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        widget._receive(widget, request(), [])
    assert [(reply["kind"], reply["id"]) for reply in replies] == [("refused", 7)]


# --- text ---------------------------------------------------------------------------------------------------------

PEOPLE = ["Anna bakes bread.", "Ben flies to Rome."]


@pytest.fixture(scope="module")
def llama():
    return HookedVLM.wrap(*testing.tiny("LlamaForCausalLM"))


def whole_rows(model, inputs, heads, queries):
    """[head, query, position] of whole patterns over the prompt."""
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("attn.hook_pattern"))
    rows = [cache[f"blocks.{layer}.attn.hook_pattern"][0, head, list(queries)].numpy() for layer, head in heads]
    return np.stack(rows)


def test_passages_are_what_is_looked_at_where_there_is_no_picture(llama):
    inputs = llama.prepare(passages(PEOPLE), "What is said in segment 2?")
    heads = HeadSet([(1, 1), (0, 0)])
    viewer = show.attention(llama, inputs, heads, max_new_tokens=4, prompt_words=7)
    recording, header = viewer.recording, viewer.header
    assert recording.keys == inputs.text_positions[0]
    assert "".join(word["text"] for word in header["text"]) == inputs.tokenizer.decode(inputs.input_ids[0])
    prompt = [query for query in recording.queries if query < inputs.layout.length]
    assert len(prompt) == 7
    true = whole_rows(llama, inputs, heads, prompt)
    values = recording.attention()[:, : len(prompt)]
    np.testing.assert_allclose(np.sqrt(values), np.sqrt(true), atol=1.5 / LEVELS)
    assert [region["name"] for region in header["regions"]] == ["segment 1", "segment 2"]
    for region in header["regions"]:
        positions = tuple(header["tokens"]["keys"][token] for token in region["tokens"])
        assert positions == inputs.region(region["name"]).positions[0]
    measured = {recording.keys[token] for token in header["subject"]["measured"]}
    assert measured == set(inputs.layout.all_segments[0])
    assert header["subject"]["name"] == "the segments"
    steered = viewer.steer("segment 2")
    hooks = steer(heads, inputs.region("segment 2"))
    assert "".join(steered.words) == str(llama.generate(inputs, fwd_hooks=hooks, max_new_tokens=4))


def test_the_attention_of_a_steered_answer_is_that_of_its_run(llama):
    inputs = llama.prepare(passages(PEOPLE), "What is said?")
    heads = HeadSet([(1, 1), (0, 0)])
    viewer = show.attention(llama, inputs, heads, max_new_tokens=5)
    steered = viewer.steer("segment 1")
    on_segments = [viewer.keys.indices(viewer.keys.regions[name]) for name in ("segment 1", "segment 2")]
    np.testing.assert_allclose(steered.attention[:, on_segments[1]], 0, atol=1e-6)
    assert (steered.attention[:, on_segments[0]].sum(-1) > 0.5).all()
    assert steered.attention.shape == (len(steered.words), len(viewer.recording.keys))
    hooks = steer(heads, inputs.region("segment 1"))
    rows, _ = patterns(llama, inputs, heads, viewer.recording.keys, max_new_tokens=5, fwd_hooks=hooks)
    for word, row in enumerate(steered.attention):
        np.testing.assert_allclose(row, rows[inputs.last_position + word].mean(0), atol=0.02)


def test_spans_of_a_plain_prompt_are_regions_and_are_numbered(llama):
    inputs = llama.prepare(None, "The red car and the red house.")
    spans = [inputs.span("red", occurrence=0), inputs.span("red", occurrence=1), "house"]
    viewer = show.attention(llama, inputs, ["L0H0"], spans=spans, max_new_tokens=3)
    header = viewer.header
    assert [region["name"] for region in header["regions"]] == ["red", "red (2)", "house"]
    assert header["subject"] == {
        "name": "the prompt",
        "measured": list(range(len(header["text"]))),
        "scaled": [i for i in range(1, len(header["text"])) if not header["text"][i]["special"]],
    }
    steered = viewer.steer("red (2)")
    region = inputs.region(inputs.span("red", occurrence=1))
    assert steered.positions == region.positions[0]
    expected = llama.generate(inputs, fwd_hooks=steer(["L0H0"], region), max_new_tokens=3)
    assert "".join(steered.words) == str(expected)


def test_pictures_and_passages_and_spans_in_one_prompt(model, strip):
    both = model.prepare([[strip, passages(PEOPLE)]], ["What?"])
    viewer = show.attention(model, both, HEADS, spans=["What"], max_new_tokens=3)
    names = [region["name"] for region in viewer.header["regions"]]
    assert names == [*strip.regions, "segment 1", "segment 2", "What"]
    n_image = len(both.image_tokens[0])
    assert viewer.recording.keys[:n_image] == both.layout.images[0]
    assert viewer.recording.keys[n_image:] == both.text_positions[0]
    prompt = [query for query in viewer.recording.queries if query < both.layout.length]
    true = whole_rows(model, both, HeadSet(HEADS), prompt)[..., list(viewer.recording.keys)]
    values = viewer.recording.attention()[:, : len(prompt)]
    np.testing.assert_allclose(np.sqrt(values), np.sqrt(true), atol=1.5 / LEVELS)
    assert viewer.header["subject"]["name"] == "the image and the segments"
    assert viewer.steer("panel 2", image=0).positions == both.region("panel 2").positions[0]
    assert viewer.steer("segment 2", image=1).positions == both.region("segment 2").positions[0]
    assert viewer.steer("What", image=1).positions == both.span("What").rows[0]


def test_text_and_an_image_reached_by_cross_attention(shelf, strip):
    model = shelf.get("Mllama")[0]
    crossing = next(layer for layer in range(model.cfg.n_layers) if model.blocks[layer].attn.is_cross_attention)
    inputs = model.prepare(strip, "What is this?")
    heads = HeadSet([(crossing, 1), (0, 0)])
    recording = show.attention(model, inputs, heads, spans=["this"], max_new_tokens=2).recording
    n_image = len(inputs.image_tokens[0])
    word, values = recording.queries.index(inputs.last_position), recording.attention()
    assert values[0, word, :n_image].sum() > 0.01
    assert (values[0, word, n_image:] == 0).all()
    assert (values[1, word, :n_image] == 0).all()
    assert values[1, word, n_image:].sum() == pytest.approx(1, abs=1e-4)
    assert (recording.norms[0, n_image:] == 0).all()
    assert (recording.norms[1, n_image:] > 0).all()


def test_the_page_steers_to_selected_words(llama, monkeypatch):
    inputs = llama.prepare(passages(PEOPLE), "What is said?")
    viewer = show.attention(llama, inputs, ["L1H1"], max_new_tokens=3)
    inside = inputs.region("segment 2").positions[0][:3]
    (reply,) = replies(viewer, monkeypatch, request(region=None, image=0, positions=list(inside)))
    assert (reply["kind"], reply["positions"]) == ("steered", inside)
    region = inputs.region("segment 1") | inputs.region("segment 2")
    chosen = Region("some", (inside,), inputs.layout, region.positions)
    expected = llama.generate(inputs, fwd_hooks=steer(["L1H1"], chosen), max_new_tokens=3)
    assert "".join(reply["words"]) == str(expected)
    last = [inputs.last_position]
    (reply,) = replies(viewer, monkeypatch, request(region=None, image=0, positions=last))
    assert reply["positions"] == (inputs.last_position,)


# --- notebooks ----------------------------------------------------------------------------------------------------


def test_notebooks_show_the_widget(viewer):
    bundle = viewer._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == viewer.widget.model_id
    assert viewer.widget is viewer.widget
    assert viewer._display_() is viewer.widget
    assert str(viewer).startswith("Where 2 heads look, word by word (")


def test_without_anywidget_there_is_the_page_and_word_of_what_is_missing(viewer, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bundle = viewer._repr_mimebundle_()
    frame = re.search(r'srcdoc="(.*?)"></iframe>', bundle["text/html"], re.DOTALL)[1]
    assert html.unescape(frame) == viewer.to_html()
    assert "gaze-lens[notebooks]" in bundle["text/html"]
    with pytest.raises(InputError, match=r"pip install 'gaze-lens\[notebooks\]'"):
        _ = replace(viewer).widget
