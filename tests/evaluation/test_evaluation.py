"""Accuracy, judging, and the protocols, against slow versions and on the embedded model."""

import numpy as np
import pytest

from gaze_lens import Box, HeadSet, Picture, evaluation
from gaze_lens.comics.generator import synthetic
from gaze_lens.comics.questions import NARRATE, OPEN
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Answer, accuracy, answer, judge_pieces, random_order, steer_to_every_panel
from gaze_lens.interventions.steering import steer


def answers(hits, per_picture):
    return [
        Answer(index // per_picture, "panel 1", "", "panel 1" if hit else None, exact=False)
        for index, hit in enumerate(hits)
    ]


def test_accuracy_equals_a_slow_bootstrap():
    rng = np.random.default_rng(5)
    hits = rng.random(60) < 0.6
    found = accuracy(answers(hits, 6), resamples=4000, seed=1)
    assert found.value == hits.mean()
    assert found.n == 60
    shares = [np.concatenate([hits[6 * k : 6 * k + 6] for k in rng.integers(10, size=10)]).mean() for _ in range(4000)]
    assert found.low == pytest.approx(np.quantile(shares, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(shares, 0.975), abs=0.02)


def test_accuracy_is_the_same_for_the_same_seed_and_certain_where_all_agree():
    some = answers([True, False, True, True], 2)
    assert accuracy(some, seed=3) == accuracy(some, seed=3)
    sure = accuracy(answers([True] * 12, 6))
    assert (sure.value, sure.low, sure.high) == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="no answers"):
        accuracy([])


def test_an_answer_is_judged_by_forced_choice_and_word_for_word():
    (strip,) = synthetic(1, seed=3)
    names = list(strip.regions)
    said = answer(0, strip, names[2], strip.captions[names[2]].upper() + " ")
    assert said.hit
    assert said.exact
    other = answer(0, strip, names[2], strip.captions[names[4]])
    assert other.chosen == names[4]
    assert not other.hit
    assert answer(0, strip, names[2], "").chosen is None


def test_a_random_order_keeps_no_panel_in_its_place():
    (strip,) = synthetic(1, seed=3)
    names = list(strip.regions)
    orders = [random_order(strip, seed=seed) for seed in range(20)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert all(a != b for order in orders for a, b in zip(order, names, strict=True))
    assert len({tuple(order) for order in orders}) > 10


def test_steering_every_panel_equals_steering_one_by_one(tiny_model):
    strips = synthetic(2, seed=77)
    heads = HeadSet(["L3H1", "L4H0", "L2H2"])
    together = evaluation.steer_to_every_panel(tiny_model, strips, heads, batch_size=5, progress=False)
    assert [(a.picture, a.target) for a in together] == [(i, n) for i, s in enumerate(strips) for n in s.regions]
    for index in (0, 7):
        inputs = tiny_model.prepare(strips[together[index].picture], OPEN)
        hooks = steer(heads, inputs.region(together[index].target))
        assert str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=15)) == together[index].text


def test_a_schedule_moves_on_where_a_piece_of_text_ends(tiny_model):
    (strip,) = synthetic(1, seed=5, panels=3)
    order = random_order(strip, seed=1)
    heads = HeadSet(["L4H0"])
    generation, switches, pieces = evaluation.switch_at_panel_ends(
        tiny_model, strip, heads, order, end=".", max_new_tokens=40
    )
    assert len(pieces) == len(switches) <= 3
    assert switches[0] == 0
    assert switches == sorted(set(switches))
    assert " ".join(pieces) in " ".join(str(generation).split())
    judged = judge_pieces(0, strip, order, pieces)
    assert [a.target for a in judged] == order
    inputs = tiny_model.prepare(strip, NARRATE)
    schedule = [(step, inputs.region(name)) for step, name in zip(switches, order, strict=False)]
    again = tiny_model.generate(inputs, fwd_hooks=steer(heads, schedule=schedule), max_new_tokens=40)
    assert str(again) == str(generation)


def test_a_region_without_a_token_has_no_answer(tiny_model):
    strip = synthetic(1, seed=5)[0]
    speck = Picture(strip.image, {**strip.regions, "speck": Box(0, 0, 0.5, 0.5)}, {**strip.captions, "speck": "dust"})
    answers = steer_to_every_panel(tiny_model, [speck], HeadSet(["L1H6", "L1H11"]), progress=False)
    assert [answer.target for answer in answers] == list(strip.regions)
