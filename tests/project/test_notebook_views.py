"""What results show at the end of a notebook's cell, and that a model's repr is one line."""

import base64
import re
from io import BytesIO

import pytest
from PIL import Image

import gaze_lens as gl
from gaze_lens.html_tables import ROWS, html_table


@pytest.fixture(scope="module")
def strips():
    return gl.comics.synthetic(2, seed=4, panels=3)


@pytest.fixture(scope="module")
def inputs(tiny_model, strips):
    return tiny_model.prepare(strips[0], gl.comics.OPEN)


def cells(html):
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]


def test_a_model_is_one_line(tiny_model):
    text = repr(tiny_model)
    assert text == "HookedVLM of gaze_lens/tiny (Qwen3-VL): 6 layers x 12 heads, 128 wide, torch.float32 on cpu"
    assert "blocks" in str(tiny_model)  # TransformerLens' own tree


def test_a_table_escapes_text_and_says_how_much_it_leaves_out():
    html = html_table("<b>", ["<i>"], [["<script>"]] * (ROWS + 3))
    assert "<script>" not in html
    assert "<b>" not in html
    assert html.count("<tr>") == ROWS + 1
    assert "and 3 more" in html
    tinted = html_table("", ["a", "b"], [[0.25, float("nan")]], tint=True)
    assert tinted.count("rgba(224, 130, 60, 0.25)") == tinted.count("rgba") == 1


def test_a_picture_shows_itself_with_its_regions(strips):
    html = strips[0]._repr_html_()
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])
    assert Image.open(BytesIO(data)).size == strips[0].image.size
    assert cells(html)[::3] == ["panel 1", "panel 2", "panel 3"]
    assert cells(html)[2] == strips[0].captions["panel 1"]
    large = gl.Picture(Image.new("RGB", (4000, 3000)))._repr_html_()
    assert Image.open(BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", large)[1]))).size == (1000, 750)


def test_scores_and_heads_show_the_best(tiny_model, strips):
    scores = gl.score_heads(tiny_model, strips, progress=False)
    assert cells(scores._repr_html_())[:2] == [str(scores.top(1)[0]), f"{scores.score.max():.3f}"]
    assert len(cells(scores._repr_html_())) == 4 * 10
    assert cells(gl.HeadSet(["L1H6", "L1H11", "L2H0"])._repr_html_()) == ["L1", "H6, H11", "L2", "H0"]


def test_generations_trajectories_caches_and_sweeps_show_what_they_hold(tiny_model, strips, inputs):
    trajectory = gl.track(tiny_model, inputs, ["L1H6", "L1H11"], max_new_tokens=4)
    shown = cells(trajectory._repr_html_())
    assert shown[:3] == ["0", trajectory.tokens[0], f"{trajectory.mean[0, 0]:.3f}"]
    assert cells(trajectory.generation._repr_html_()) == ["0", trajectory.generation.texts[0]]
    _, cache = tiny_model.run_with_cache(inputs, names_filter="blocks.1.attn.hook_pattern")
    assert cells(cache._repr_html_())[:2] == [
        "blocks.1.attn.hook_pattern", str(list(cache["blocks.1.attn.hook_pattern"].shape)),
    ]  # fmt: skip
    pair = gl.counterfactual(tiny_model, strips[0], gl.comics.ask(0), gl.changes.ordinal("second"))
    metric = gl.metrics.logit_difference(tiny_model, " red", " blue")
    result = gl.patch(tiny_model, *pair, what="z", where=["L1H6"], positions=["last"], metric=metric)
    assert len(cells(result._repr_html_())) == result.table().size
