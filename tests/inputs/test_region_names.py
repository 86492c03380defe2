"""Regions of several pictures in one prompt: told apart by name, in every function that takes regions."""

import pytest
import torch
from reference import picture

import gaze_lens as gl
from gaze_lens import Box, Picture, comics, show
from gaze_lens.errors import RegionError

HEADS = ["L1H0", "L2H1"]


@pytest.fixture(scope="module")
def inputs(model):
    """Two strips, with the same names, and a photograph with one of its own."""
    first, second = comics.synthetic(2, seed=3)
    third = Picture(picture(64, 64), {"dog": Box(0, 0, 32, 64)})
    return model.prepare([[first, second, third]], "What is in the second picture?")


def test_names_tell_pictures_apart(inputs):
    names = [f"panel {k} of image {image}" for image in (1, 2) for k in range(1, 7)]
    assert inputs.region_names() == (*names, "dog")
    for image in (0, 1):
        expected = inputs.region("panel 3", image=image).positions
        assert inputs.region(f"panel 3 of image {image + 1}").positions == expected
        assert inputs.region(f"panel 3 of image {image + 1}", image=image).positions == expected
    assert inputs.region("dog of image 3").positions == inputs.region("dog").positions


def test_a_whole_picture_is_a_region(inputs):
    for index, tokens in enumerate(inputs.image_tokens):
        region = inputs.region(f"image {index + 1}")
        assert region.positions == (tuple(tokens.positions.tolist()),)
        others = [p for other in inputs.image_tokens for p in other.positions.tolist() if other.image != index]
        assert sorted(region.others[0]) == sorted(others)


@pytest.mark.parametrize(
    ("where", "image", "message"),
    [
        ("image 4", None, "'image 4' was given for a prompt of 3 images"),
        ("panel 1 of image 1", 1, "'panel 1 of image 1' and image=1 was given"),
        ("image 0", None, "No picture of row 0 has a region 'image 0'"),
        ("panel 9 of image 1", None, "No picture of row 0 has a region 'panel 9'"),
        ("panel 1", None, "'panel 1' may be in 2 of them; say which with image=0, image=1, ..., or by name"),
    ],
)
def test_names_that_are_not_there(inputs, where, image, message):
    with pytest.raises(RegionError, match=message):
        inputs.region(where, image=image)


def test_a_picture_may_have_such_a_name_itself(model):
    named = Picture(picture(64, 64), {"image 2": Box(0, 0, 32, 64)})
    inputs = model.prepare([[named, picture(64, 64)]], "What?")
    assert inputs.region("image 2").positions == inputs.region((0, 0, 32, 64), image=0).positions


@torch.no_grad()
def test_heads_are_steered_to_one_of_two_panels_of_one_name(model, inputs):
    name = "blocks.2.attn.hook_pattern"
    region = inputs.region("panel 3 of image 2")
    with model.hooks(gl.steer(HEADS, region)):
        _, cache = model.run_with_cache(inputs, names_filter=name)
    pattern = cache[name][0, 1, -1]
    assert pattern[list(region.positions[0])].sum() > 0.999 * pattern[list(inputs.layout.images[0])].sum()


def test_a_trajectory_has_all_panels(model, inputs):
    trajectory = gl.track(model, inputs, HEADS, max_new_tokens=2)
    assert trajectory.regions == inputs.region_names()
    assert trajectory.captions["panel 3 of image 2"] == inputs.pictures[0][1].captions["panel 3"]
    one = gl.track(model, inputs, HEADS, regions=["panel 3 of image 2", "image 1"], max_new_tokens=2)
    assert torch.equal(one.mass[..., 0], trajectory.mass[..., inputs.region_names().index("panel 3 of image 2")])
    torch.testing.assert_close(one.mass[..., 1], trajectory.mass[..., :6].sum(-1), atol=1e-6, rtol=0)


def test_pages_name_them(model, inputs):
    names = inputs.region_names()
    labels = show.circuitsvis(model, inputs, HEADS[:1]).data["tokens"]
    assert {f"[{name}]" for name in names} < set(labels)
    viewer = show.attention(model, inputs, HEADS, max_new_tokens=1)
    assert viewer.to_html(steered=["panel 3 of image 2"]).count("panel 3 of image 2") > 1
