"""The vision tower's own trainings: what is matched with what, and that the tower alone is trained."""

import math

import numpy as np
import pytest
import torch

from gaze_lens import comics
from training.batches import narrate, strip_batch
from training.llava import FRAME
from training.recipe import Size
from training.tower import TowerTrainer, contrast_loss, single_panels, strip_content

SMALL = Size(width=32, layers=1, heads=4, kv_heads=2, head_width=16, mlp=48, vision_width=32, vision_mlp=48)


@pytest.mark.parametrize("kind", ["contrast", "classify"])
def test_the_tower_is_trained_and_nothing_else_of_the_model(kind):
    trainer = TowerTrainer(kind, seed=3, size=SMALL, steps=2)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    record = trainer.step()
    assert all(math.isfinite(value) for value in record.values())
    assert record.keys() == (
        {"strips facts", "scenes facts"}
        if kind == "classify"
        else {f"{part} {figure}" for part in ("panels", "strips", "scenes") for figure in ("loss", "matched")}
    )
    for name, parameter in trainer.model.named_parameters():
        assert parameter.equal(before[name]) == ("vision_tower" not in name), name


def test_both_kinds_start_from_the_same_tower_and_one_that_is_continued_goes_on_as_it_would_have():
    contrast, again = (TowerTrainer("contrast", seed=1, size=SMALL, steps=3) for _ in range(2))
    start = TowerTrainer("classify", seed=1, size=SMALL, steps=3).model.state_dict()
    assert all(value.equal(start[name]) for name, value in contrast.model.state_dict().items())
    contrast.step()
    again.load(contrast.state())
    assert contrast.step() == again.step()


def test_single_panels_are_cut_at_their_borders():
    tokenizer = TowerTrainer("classify", seed=0, size=SMALL, steps=1).processor.tokenizer
    strips = strip_batch(np.random.default_rng(1), tokenizer, 3, 4, ("in order",), FRAME)
    pixels, content = single_panels(strips, 4)
    wide = strips.pixels.shape[2] // 4
    assert pixels.shape == (12, 32, wide, 3)
    assert pixels[4 * 2 + 1].equal(strips.pixels[2, :, wide : 2 * wide])
    told = tokenizer.decode(strips.labels[2][strips.labels[2] != -100], skip_special_tokens=True)
    assert told == narrate(strip_content(strips, 4)[2], np.arange(4))
    assert comics.caption(content[4 * 2 + 1]) in told


def test_the_loss_is_that_of_right_pairs_and_equal_captions_are_no_mistake():
    ids = torch.tensor([[1, 2], [3, 4], [1, 2]])
    scores = torch.tensor([[2.0, 0.0, 9.0], [0.0, 1.0, 0.0], [9.0, 0.0, 2.0]])
    loss, matched = contrast_loss(scores, ids)
    assert matched == 1.0
    rows = [-math.log(math.exp(2) / (math.exp(2) + 1)), -math.log(math.e / (math.e + 2))]
    assert loss.item() == pytest.approx((2 * rows[0] + rows[1]) / 3)
    different, matched = contrast_loss(scores, torch.tensor([[1, 2], [3, 4], [5, 6]]))
    assert different > loss
    assert matched == pytest.approx(1 / 3)


def test_padding_does_not_change_a_texts_vector():
    head = TowerTrainer("contrast", seed=0, size=SMALL, steps=1).classifier.eval()
    short, long = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 7, 0, 0]])
    assert torch.allclose(head.text(short, short != 0), head.text(long, long != 0), atol=1e-5)
