"""Pictures that a processor would cut: `fit` stretches them first, and regions stay in the picture's own pixels."""

import numpy as np
import pytest
import torch
from painting import noise
from PIL import Image

import gaze_lens as gl
from gaze_lens.errors import InputError, RegionError
from gaze_lens.evaluation import Condition
from gaze_lens.inputs.fitting import fitted
from gaze_lens.regions.picture import Picture, check_fit, panels


@pytest.fixture(scope="module")
def llava(shelf):
    """A tiny LLaVA, whose processor scales the short edge and cuts the middle out."""
    model = shelf.get("LLaVA")[0]
    assert model.processor.image_processor.do_center_crop
    return model


def strip(n=3, width=240, height=60, fit=None):
    regions = panels(n, width, height)
    return Picture(Image.fromarray(noise(width, height)), regions, dict.fromkeys(regions, "a cat"), fit)


def side(model):
    return model.processor.image_processor.crop_size["width"]


def test_whole_is_the_picture_stretched_by_hand(llava):
    picture, n = strip(), side(llava)
    inputs = llava.prepare(picture, "look", fit="whole")
    by_hand = llava.prepare(picture.image.resize((n, n), Image.Resampling.BICUBIC), "look")
    assert inputs.tensors.keys() == by_hand.tensors.keys()
    for name, tensor in inputs.tensors.items():
        assert torch.equal(tensor, by_hand.tensors[name]), name
    ours, theirs = inputs.image_tokens[0], by_hand.image_tokens[0]
    scale = torch.tensor([240 / n, 60 / n, 240 / n, 60 / n])
    torch.testing.assert_close(ours.boxes, theirs.boxes * scale)
    assert ours.size == (240, 60)
    kept = ours.boxes[~ours.boxes[:, 0].isnan()]
    assert (kept[:, :2].amin(0).tolist(), kept[:, 2:].amax(0).tolist()) == ([0, 0], [240, 60])


def test_every_panel_has_tokens_where_the_processor_would_cut_some_off(llava):
    with pytest.raises(RegionError, match=r"'panel 1'.*keeps only x 90 to 150 and y 0 to 60.*fit='whole'"):
        llava.prepare(strip(), "look").region("panel 1")
    inputs = llava.prepare(strip(), "look", fit="whole")
    counts = [len(inputs.region(f"panel {k}").positions[0]) for k in (1, 2, 3)]
    assert min(counts) > 0
    assert sum(counts) == int((~inputs.image_tokens[0].boxes[:, 0].isnan()).sum())


def test_a_change_of_pixels_reaches_the_tokens_of_its_region(llava):
    picture = strip()
    image = picture.image.copy()
    image.paste((255, 0, 0), (0, 0, 80, 60))  # panel 1
    changed = Picture(image, picture.regions)
    before, after = (llava.prepare(one, "look", fit="whole") for one in (picture, changed))
    pixels = (before.tensors["pixel_values"] != after.tensors["pixel_values"]).any(1)[0].float()
    columns = pixels.mean(0).nonzero()[:, 0]
    assert columns.max() <= side(llava) / 3 + 2  # bicubic resampling mixes two pixels of the neighbour in


@pytest.mark.parametrize("fit", [(64, 32), (28, 28)])
def test_a_size_is_given_to_any_processor(model, fit):
    inputs = model.prepare(strip(), "look", fit=fit)
    by_hand = model.prepare(strip().image.resize(fit, Image.Resampling.BICUBIC), "look")
    assert torch.equal(inputs.tensors["pixel_values"], by_hand.tensors["pixel_values"])
    assert torch.equal(inputs.input_ids, by_hand.input_ids)
    boxes = inputs.image_tokens[0].boxes
    assert boxes[:, 2:].amax(0).tolist() == pytest.approx([240, 60])


def test_whole_changes_nothing_where_nothing_is_cut(model):
    plain, whole = (model.prepare(strip(), "look", fit=fit) for fit in (None, "whole"))
    assert torch.equal(plain.tensors["pixel_values"], whole.tensors["pixel_values"])
    assert torch.equal(plain.image_tokens[0].boxes, whole.image_tokens[0].boxes)


def test_scores_with_fit_are_those_of_pictures_with_fit(llava):
    with pytest.raises(RegionError, match="fit='whole'"):
        gl.score_heads(llava, [strip()], progress=False)
    scores = gl.score_heads(llava, [strip()], fit="whole", progress=False)
    of_pictures = gl.score_heads(llava, [strip(fit="whole")], share_prefix=False, progress=False)
    torch.testing.assert_close(scores.samples, of_pictures.samples, atol=1e-5, rtol=0)
    assert scores.score.sum() > 0


def test_an_evaluation_with_fit(llava):
    conditions = [Condition("gaze", gl.HeadSet(["L0H0"]))]
    results = gl.evaluate(
        llava, [strip()], conditions, fit="whole", progress=False, protocol=gl.evaluation.question(max_new_tokens=3)
    )
    assert len(results.judgements) == 3


def test_lazy_pictures_keep_their_names_and_get_the_fit(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(noise(60, 30)).save(tmp_path / f"{name}.png")
    pictures = gl.data.read_pages(tmp_path, 2)
    whole = fitted(pictures, "whole")
    assert whole.names == pictures.names
    assert {one.fit for one in (*whole, *whole[:1], *whole.check())} == {"whole"}
    assert pictures[0].fit is None
    assert [one.fit for one in fitted([pictures[0]], (8, 8))] == [(8, 8)]
    assert fitted(pictures, None) is pictures


def test_a_run_with_another_fit_is_another_run():
    from gaze_lens.data.picture_digests import picture_digest, pictures_digest

    assert picture_digest(strip()) != picture_digest(strip(fit="whole")) != picture_digest(strip(fit=(8, 8)))
    assert pictures_digest([strip()]) != pictures_digest([strip(fit="whole")])


@pytest.mark.parametrize("fit", ["all", (0, 5), (5,), 7, [5, 5]])
def test_what_is_no_fit_is_refused(fit):
    with pytest.raises(InputError, match=r"fit=.*give 'whole', \(width, height\) in pixels, or None"):
        check_fit(fit)


def test_a_processor_that_cuts_a_square_too_is_refused(llava, monkeypatch):
    n = side(llava)
    monkeypatch.setattr(llava.processor.image_processor, "size", {"shortest_edge": 2 * n})
    with pytest.raises(InputError, match=r"fit='whole' cannot be had.*Set the processor's size and crop_size equal"):
        llava.prepare(strip(), "look", fit="whole")


def test_capabilities_say_what_part_of_a_picture_is_seen(llava, model):
    shown = " ".join(str(llava.capabilities((1536, 256))).split())
    assert "seen: x 640 to 896, y 0 to 256: 17% of the picture; fit='whole' keeps all of it" in shown
    assert llava.capabilities((64, 64)).image.seen == pytest.approx((0, 0, 64, 64))
    assert "seen:" not in str(model.capabilities((1536, 256)))
    assert np.prod(llava.capabilities((1536, 256)).image.size) == 1536 * 256
