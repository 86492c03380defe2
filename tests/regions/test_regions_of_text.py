"""Regions of text: spans as targets, what surrounds them, and what cannot be combined."""

import pytest
import torch
from painting import noise
from PIL import Image

import gaze_lens as gl
from gaze_lens.errors import RegionError
from gaze_lens.regions.picture import Picture, panels

PROMPT = "a red car, a blue car, and a dog"


@pytest.fixture(scope="module")
def inputs(model):
    picture = Picture(Image.fromarray(noise(96, 64)), panels(3, 96, 64))
    return model.prepare([picture, None], [PROMPT, "look: " + PROMPT])


def test_a_span_becomes_a_region_with_nothing_around_it(inputs):
    span = inputs.span("blue car")
    region = inputs.region(span)
    assert region.positions == span.rows
    assert region.others == ((), ())
    assert [len(row) for row in region.rest_of_text] == [
        len(text) - len(row) for text, row in zip(inputs.layout.text, span.rows, strict=True)
    ]


def test_others_are_the_rest_of_the_text_or_of_a_group(inputs):
    span = inputs.span("red car")
    in_text = inputs.region(span, around="text")
    for row in range(2):
        assert set(in_text.others[row]) == set(inputs.layout.text[row]) - set(span.rows[row])
    assert in_text.rest_of_text == ((), ())
    listed = inputs.span(PROMPT)
    among = inputs.region(span, around=listed)
    for row in range(2):
        assert set(among.others[row]) == set(listed.rows[row]) - set(span.rows[row])
        assert set(among.rest_of_text[row]) == set(inputs.layout.text[row]) - set(listed.rows[row])
    assert among.after == tuple(1 + max(row) for row in listed.rows)


def test_occurrences(inputs):
    with pytest.raises(RegionError, match=r"'car' is 2 times in the prompt; say which"):
        inputs.span("car")
    first, last = (inputs.region(inputs.span("car", occurrence=n), around="text") for n in (0, -1))
    assert len(first | last) == 2 * len(first)
    with pytest.raises(RegionError, match="holds no token"):
        first & last


def test_regions_of_different_things_are_not_combined(model, inputs):
    picture = Picture(Image.fromarray(noise(96, 64)), panels(3, 96, 64))
    one = model.prepare(picture, PROMPT)
    with pytest.raises(RegionError, match="are parts of different things"):
        one.region("panel 1") | one.region(one.span("red car"))
    with pytest.raises(RegionError, match="was made for"):
        one.region(inputs.span("red car"))
    with pytest.raises(RegionError, match="says what a span of text is a part of"):
        one.region("panel 1", around="text")
    with pytest.raises(RegionError, match='give "text", a Group'):
        one.region(one.span("red car"), around="image")


@torch.no_grad()
@pytest.mark.parametrize("family", ["Qwen3-VL", "Mllama", "Gemma 3"])
def test_heads_are_steered_to_text_beside_a_picture(shelf, family):
    model = shelf.get(family)[0]
    picture = Picture(Image.fromarray(noise(96, 64)), panels(3, 96, 64))
    inputs = model.prepare(picture, PROMPT)
    target = inputs.region(inputs.span("blue car"), around="text")
    layer = {"Gemma 3": 2}.get(family, 0)  # one that sees the whole prompt
    name, columns = f"blocks.{layer}.attn.hook_pattern", list(target.positions[0])
    hooks = gl.steer([(layer, 1)], target), gl.knockout([(layer, 1)], gl.patching.group(inputs, "last"), target)
    masses = []
    for edits in hooks:
        with model.hooks(edits):
            _, cache = model.run_with_cache(inputs, names_filter=name)
        masses.append(cache[name][0, 1, -1, columns].sum())
    assert masses[0] > 0.99
    assert masses[1] == 0
