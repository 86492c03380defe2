"""What protocols say beside the question: targets, when they change, how answers are generated, published rounding."""

import json

import pytest

import gaze_lens as gl
from gaze_lens import HeadSet, comics
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, Protocol, dynamic_narration, generate_answers, question
from gaze_lens.interventions.steering import boost_and_suppress

HEADS = HeadSet(["L1H6", "L1H11"])
GAZE = [Condition("gaze", HEADS)]


@pytest.fixture(scope="module")
def strip():
    return comics.synthetic(1, seed=60, panels=3)[0]


def alone(model, strip, target, steering, **options):
    inputs = model.prepare(strip, comics.OPEN)
    hooks = gl.steer(HEADS, inputs.region(target), **steering)
    return str(model.generate(inputs, fwd_hooks=hooks, max_new_tokens=12, **options))


@pytest.mark.parametrize(
    ("options", "steering", "generation"),
    [
        ({"where": ("decode",)}, {"where": ("decode",)}, {}),
        ({"repetition_penalty": 0.05}, {}, {"repetition_penalty": 0.05}),
        ({"no_repeat_ngram": 1}, {}, {"no_repeat_ngram_size": 1}),
    ],
)
def test_answers_are_generated_and_steered_as_the_protocol_says(tiny_model, strip, options, steering, generation):
    protocol = question(max_new_tokens=12, **options)
    answers = generate_answers(tiny_model, [strip], GAZE, protocol=protocol, progress=False)
    plain = generate_answers(tiny_model, [strip], GAZE, protocol=question(max_new_tokens=12), progress=False)
    expected = [alone(tiny_model, strip, name, steering, **generation) for name in strip.regions]
    assert [record.text for record in answers.records] == expected
    assert expected != [record.text for record in plain.records], "the option does something"


@pytest.mark.parametrize("make", [question, lambda **options: dynamic_narration(every=4, max_new_tokens=12, **options)])
def test_published_rounding_reaches_the_steering(tiny_model, strip, monkeypatch, make):
    given = []
    monkeypatch.setattr(
        "gaze_lens.evaluation.steered_rows.steer",
        lambda *a, **b: given.append(b.get("as_published", False)) or gl.steer(*a, **b),
    )
    for published in (True, False):
        generate_answers(tiny_model, [strip], GAZE, protocol=make(as_published=published), progress=False)
        assert set(given) == {published}
        given.clear()


def test_published_rounding_is_for_biases(tiny_model, strip):
    mass = [Condition("gaze", HEADS, mass=0.8)]
    with pytest.raises(InputError, match="as_published"):
        generate_answers(tiny_model, [strip], mass, protocol=question(as_published=True), progress=False)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_targets_change_with_the_delay(tiny_model, strip, delay):
    protocol = dynamic_narration(every=5, delay=delay, max_new_tokens=16)
    (record,) = generate_answers(tiny_model, [strip], GAZE, protocol=protocol, progress=False).records
    assert tuple(record.steps) == (0, 5 + delay, 10 + delay)


def test_some_regions_are_targets_the_same_ones_in_every_run(tiny_model, strip):
    protocol = question(n_targets=2, max_new_tokens=2)
    drawn = [[name for (name,) in protocol.targets(strip, seed=(0, index))] for index in range(20)]
    assert {len(names) for names in drawn} == {2}
    assert {name for names in drawn for name in names} == set(strip.regions)
    assert all(names == [name for name in strip.regions if name in names] for names in drawn), "in their order"
    conditions = [*GAZE, Condition("none")]
    records = generate_answers(tiny_model, [strip], conditions, protocol=protocol, progress=False).records
    assert [record.targets[0] for record in records] == drawn[0] * 2
    assert question(n_targets=9).targets(strip, seed=(0, 0)) == question().targets(strip, seed=(0, 0))


def test_protocols_without_the_new_options_are_written_as_before():
    assert list(question().to_dict()) == ["name", "prompt", "max_new_tokens", "where", "every", "end"]
    changed = question(where=("decode",), n_targets=2, as_published=True, repetition_penalty=1.1, no_repeat_ngram=3)
    assert Protocol.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_targets": 0}, "n_targets=0"), ({"delay": 1}, "delay=1 was given; give fewer tokens than every=None"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"), ({"no_repeat_ngram": 0}, "no_repeat_ngram=0"),
        ({"every": 5, "delay": 5}, "delay=5"), ({"every": 5, "n_targets": 2}, "n_targets=2"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        question(**options)


def test_strength_and_rounding_go_together(tiny_model, strip):
    weak = [Condition("gaze", HEADS, boost_and_suppress(2.0))]
    protocol = question(as_published=True, max_new_tokens=12)
    (first, *_) = generate_answers(tiny_model, [strip], weak, protocol=protocol, progress=False).records
    steering = {"mode": boost_and_suppress(2.0), "as_published": True}
    assert first.text == alone(tiny_model, strip, "panel 1", steering)
