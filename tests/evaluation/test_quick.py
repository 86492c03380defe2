"""Narrations in an order of one's own, and what version 0.1 offered in place of `gl.evaluate`."""

from itertools import product

import pytest

import gaze_lens as gl
from gaze_lens import Box, HeadSet, Picture, comics, evaluation
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, asking, random_order, switch_at_panel_ends
from gaze_lens.evaluation.judges import ExactDescription
from gaze_lens.interventions.steering import steer

HEADS = HeadSet(["L1H6", "L1H11", "L2H2"])


def test_a_random_order_keeps_no_panel_in_its_place():
    (strip,) = comics.synthetic(1, seed=3)
    names = list(strip.regions)
    orders = [random_order(strip, seed=seed) for seed in range(20)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert all(a != b for order in orders for a, b in zip(order, names, strict=True))
    assert len({tuple(order) for order in orders}) > 10


def test_a_schedule_moves_on_where_a_piece_of_text_ends(tiny_model):
    (strip,) = comics.synthetic(1, seed=5, panels=3)
    order = random_order(strip, seed=1)
    heads = HeadSet(["L4H0"])
    generation, steps, pieces = switch_at_panel_ends(tiny_model, strip, heads, order, end=".", max_new_tokens=40)
    assert len(pieces) == len(steps) <= 3
    assert steps[0] == 0
    assert steps == sorted(set(steps))
    assert " ".join(pieces) in " ".join(str(generation).split())
    inputs = tiny_model.prepare(strip, comics.NARRATE)
    schedule = [(step, inputs.region(name)) for step, name in zip(steps, order, strict=False)]
    again = tiny_model.generate(inputs, fwd_hooks=steer(heads, schedule=schedule), max_new_tokens=40)
    assert str(again) == str(generation)


@pytest.fixture(scope="module")
def strips():
    """Two strips; the first has a region without an image token."""
    first, second = comics.synthetic(2, seed=77, panels=3)
    regions, captions = {**first.regions, "speck": Box(0, 0, 0.5, 0.5)}, {**first.captions, "speck": "dust"}
    return [Picture(first.image, regions, captions), second]


@pytest.mark.parametrize("kind", ["steered", "asked"])
def test_functions_of_version_01_warn_and_give_what_evaluate_gives(tiny_model, strips, kind):
    if kind == "steered":
        with pytest.warns(DeprecationWarning, match=r"steer_to_every_panel is now called gl\.evaluate"):
            answers = evaluation.steer_to_every_panel(tiny_model, strips, HEADS, progress=False)
        results = gl.evaluate(tiny_model, strips, [Condition(kind, HEADS)], progress=False)
    else:
        with pytest.warns(DeprecationWarning, match=r"ask_every_panel is now called gl\.evaluate"):
            answers = evaluation.ask_every_panel(tiny_model, strips, progress=False)
        results = gl.evaluate(tiny_model, strips, [Condition(kind)], protocol=asking(), progress=False)
    rows = results.answers[results.answers.skipped.isna()]
    expected = [(row.picture, row.target, row.text, row.match, bool(row.correct)) for row in rows.itertuples()]
    assert [(str(a.picture), a.target, a.text, a.chosen, a.hit) for a in answers] == expected
    assert len(answers) == 6
    exact = gl.rejudge(results.generations, ExactDescription(), progress=False)
    for word_for_word, judged in ((False, results), (True, exact)):
        with pytest.warns(DeprecationWarning, match=r"evaluation\.accuracy is now called Results\.accuracy"):
            share = evaluation.accuracy(answers, exact=word_for_word)
        estimate = judged.accuracy(kind)
        assert share.to_dict() == {key: value for key, value in estimate.to_dict().items() if key != "n_strips"}
    assert str(share) == "{:.1f} % [{:.1f}, {:.1f}] of 6".format(
        *(100 * x for x in (share.value, share.low, share.high))
    )


def test_texts_were_judged_by_forced_choice_and_word_for_word(strips):
    names = list(strips[1].regions)
    for target, caption in product(names, names):
        with pytest.warns(DeprecationWarning, match="answer is now called"):
            judged = evaluation.answer(1, strips[1], target, strips[1].captions[caption].upper() + " ")
        assert (judged.chosen, judged.hit, judged.exact) == (caption, caption == target, caption == target)
    order = names[::-1]
    with pytest.warns(DeprecationWarning, match="judge_pieces is now called"):
        judged = evaluation.judge_pieces(1, strips[1], order, [strips[1].captions[order[0]]])
    assert [(one.target, one.hit) for one in judged] == list(zip(order, [True, False, False], strict=True))
    with pytest.warns(DeprecationWarning, match="accuracy is now"), pytest.raises(InputError, match="no answers"):
        evaluation.accuracy([])
