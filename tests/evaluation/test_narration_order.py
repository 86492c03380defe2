"""The order in which narrations mention panels."""

import math

import pytest

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges import CaptionMatch, Judgement
from gaze_lens.evaluation.narration_order import NarrationOrders, by_captions, by_judge, narrate_in_order, reversed_rho


def test_rho_is_that_of_the_ranks():
    for panels in ([0, 1, 2, 3], [5, 4, 2], [3, 0, 1, 5, 2, 4]):
        ranks = [sorted(panels, reverse=True).index(panel) for panel in panels]
        n, squares = len(panels), sum((place - rank) ** 2 for place, rank in enumerate(ranks))
        assert reversed_rho(panels) == pytest.approx(1 - 6 * squares / (n * (n**2 - 1)))
    assert reversed_rho([5, 4, 3]) == 1
    assert math.isnan(reversed_rho([5, 0]))


def test_labels_are_found_as_words(strip):
    picture = gl.Picture(strip.image, strip.regions, dict(zip(strip.regions, ["K", "B", "T"], strict=True)))
    assert by_captions("T: a dog. In B a cat; T again, then (K).", picture) == (2, 1, 0)
    assert by_captions("The kitten Bob. k", picture) == ()
    with pytest.raises(InputError, match="'panel 1' has no caption"):
        by_captions("K", gl.Picture(strip.image, strip.regions))


def test_the_summary_is_that_of_a_small_case():
    orders = NarrationOrders(("a", "b", "c", "d"), ((2, 1, 0), (0, 1, 2), (2, 0), ()), (3, 3, 3, 3))
    table = orders.table()
    assert table.rho[:2].tolist() == [1, -1]
    assert table.rho[2:].isna().all()
    assert table.begins_with_last[:3].tolist() == [1, 0, 1]
    assert orders.rho().value == 0
    assert orders.begins_with_last().value == pytest.approx(2 / 3)
    assert orders.begins_with_last().n == 3
    assert NarrationOrders(("",), ((),), (3,)).rho() is None


@pytest.fixture(scope="module")
def strips():
    return comics.synthetic(3, seed=21, panels=3)


def test_the_embedded_model_narrates_as_panels_stand(tiny_model, strips):
    options = {"judge": CaptionMatch(), "max_new_tokens": 60, "progress": False}
    plain = narrate_in_order(tiny_model, strips, comics.NARRATE, batch_size=2, **options)
    assert plain.mentions == ((0, 1, 2),) * 3
    assert plain.rho().value == -1
    assert plain.texts[1] == str(tiny_model.generate(tiny_model.prepare(strips[1], comics.NARRATE), max_new_tokens=60))


def test_a_direction_acts_at_the_last_prompt_token_and_at_every_generated_one(tiny_model, strips):
    first, last = (tiny_model.prepare(strips, [comics.ask(k)] * 3) for k in (0, 2))
    direction = gl.mean_difference(tiny_model, last, first)
    options = {"judge": CaptionMatch(), "max_new_tokens": 60, "progress": False}
    steered = narrate_in_order(
        tiny_model, strips, comics.NARRATE, direction=direction, band=range(1, 3), scale=4.0, **options
    )
    vectors = {layer: 4.0 * direction.vector(layer) for layer in (1, 2)}

    def add(stream, hook):  # the last position of the prefill, and the only one of a decode step
        stream[:, -1] += vectors[hook.layer()]
        return stream

    hooks = [(f"blocks.{layer}.hook_resid_pre", add) for layer in vectors]
    for strip, text in zip(strips, steered.texts, strict=True):
        inputs = tiny_model.prepare(strip, comics.NARRATE)
        assert text == str(tiny_model.generate(inputs, fwd_hooks=hooks, max_new_tokens=60))
    assert steered.texts != narrate_in_order(tiny_model, strips, comics.NARRATE, **options).texts


def test_a_judge_that_fails_is_no_order(strips):
    class Broken(CaptionMatch):
        def judge_all(self, descriptions, *, progress=True):  # noqa: ARG002
            return [Judgement(None, None, error="no reply") for _ in descriptions]

    with pytest.raises(JudgeError, match="2 of 2 sentences could not be judged: no reply"):
        by_judge("One. Two.", strips[0], Broken())
