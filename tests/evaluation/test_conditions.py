"""Conditions: the heads that controls are made of, and protocols: what is asked and where it is steered."""

import json

import numpy as np
import pytest
import torch

from gaze_lens import Box, HeadSet, Picture, boost_and_suppress, comics, panels, suppress_all
from gaze_lens.errors import HeadError, InputError
from gaze_lens.evaluation import (
    Condition,
    Protocol,
    asking,
    conditions,
    dynamic_narration,
    head_counts,
    masses,
    question,
    random_order,
    regions,
    strengths,
)
from gaze_lens.evaluation.condition import NAMES
from gaze_lens.evaluation.generate import plan
from gaze_lens.evaluation.protocols import elsewhere
from gaze_lens.heads.head_scores import HeadScores

GAZE = HeadSet(["L2H0", "L1H4", "L1H8"])


@pytest.fixture
def scores(tiny_model):
    """Random scores of the embedded model's shape, all different, in which GAZE is best."""
    samples = torch.rand(2, 6, 12, 3, 3, generator=torch.Generator().manual_seed(0)) / 6
    for layer, head in GAZE:
        samples[:, layer, head] += 0.3
    return HeadScores(samples, fingerprint=tiny_model.fingerprint)


def test_a_control_from_a_band_of_layers(tiny_model, scores):
    selected = conditions(tiny_model, GAZE, ["band"], draws=40)  # needs no scores
    drawn = [head for condition in selected for head in condition.heads]
    assert {head.layer for head in drawn} == {1, 2}, "the layers that the set spans"
    assert all(len(condition.heads) == 3 for condition in selected)
    assert {(layer, head) for layer in (1, 2) for head in range(12)} - set(drawn) == set(GAZE)
    (wide,) = conditions(tiny_model, GAZE, ["band"], draws=1, layers=(5, 5), seed=3)
    assert {head.layer for head in wide.heads} == {5}
    assert list(wide.heads) == list(scores.band_controls(GAZE, seed=3, layers=(5, 5)))
    with pytest.raises(HeadError, match=r"layers=\(4, 6\) is no band of the model's layers: expected 0 to 5"):
        scores.band_controls(GAZE, seed=0, layers=(4, 6))
    with pytest.raises(HeadError, match="13 control heads were asked for, and layers 1 to 2 have 11 heads outside"):
        scores.band_controls(HeadSet([(1, k) for k in range(12)] + [(2, 0)]), seed=0)


def test_controls_layer_by_layer(tiny_model, scores):
    names = ["layer-uniform", "layer-lowest"]
    selected = conditions(tiny_model, GAZE, names, scores=scores, draws=60)
    for condition in selected:
        assert {layer: len(heads) for layer, heads in condition.heads.by_layer().items()} == {1: 2, 2: 1}
        assert not set(condition.heads) & set(GAZE)
    uniform = {head for condition in selected for head in condition.heads if condition.name == "layer-uniform"}
    assert len(uniform) == 24 - 3, "every other head of the two layers"
    lowest = selected[-1].heads
    slow = [(layer, int(head)) for layer, n in ((1, 2), (2, 1)) for head in np.argsort(scores.score[layer].numpy())[:n]]
    assert list(lowest) == slow
    with pytest.raises(HeadError, match="Layer 3 has 7 of the heads, and 5 others to take"):
        scores.layer_lowest(HeadSet([(3, k) for k in range(7)]))


def test_the_lowest_percentile_takes_what_there_is_and_says_so(tiny_model, scores):
    low = set(np.argsort(scores.score.numpy().ravel())[:4].tolist())  # at or below percentile 5 of 72 heads
    with pytest.warns(UserWarning, match="10 control heads were asked for, and 4 are at or below percentile 5"):
        (condition,) = conditions(tiny_model, scores.top(10), ["lowest"], scores=scores)
    assert {12 * layer + head for layer, head in condition.heads} == low
    assert condition.heads.provenance["controls"] == 4
    several = conditions(tiny_model, GAZE, ["lowest"], scores=scores, draws=8)
    assert all({12 * layer + head for layer, head in one.heads} < low for one in several)
    with pytest.raises(HeadError, match="10 control heads were asked for, and 4 of 72 .*at_most=True"):
        scores.controls(10, seed=0, below=5)


def test_the_controls_are_heads_of_low_scores(tiny_model, scores):
    selected = conditions(tiny_model, GAZE, NAMES, scores=scores, draws=4, seed=7)
    counted = {name: sum(condition.name == name for condition in selected) for name in NAMES}
    assert counted == {
        "gaze": 1, "random": 4, "band": 4, "layer-matched": 4, "layer-uniform": 4, "layer-lowest": 1, "lowest": 4,
        "all": 1, "none": 1, "elsewhere": 1, "ablate": 1, "ablate-random": 4, "ablate-band": 4,
        "ablate-layer-matched": 4, "ablate-layer-uniform": 4, "ablate-layer-lowest": 1, "ablate-lowest": 4,
    }  # fmt: skip
    assert all(condition.ablate == condition.name.startswith("ablate") for condition in selected)
    low = {tuple(head) for head in np.argwhere(scores.score.numpy() <= np.median(scores.score.numpy()))}
    random_sets = [condition.heads for condition in selected if condition.name == "random"]
    assert all(len(heads) == 3 and {tuple(head) for head in heads} <= low for heads in random_sets)
    assert len({str(heads) for heads in random_sets}) > 1
    for condition in selected:
        if condition.name == "layer-matched":
            assert {layer: len(heads) for layer, heads in condition.heads.by_layer().items()} == {1: 2, 2: 1}
            assert not set(condition.heads) & set(GAZE)
            for layer, head in condition.heads:
                assert scores.score[layer, head] <= np.median(scores.score[layer].numpy())
    by_name = {condition.name: condition for condition in selected}
    assert len(by_name["all"].heads) == 72
    assert by_name["none"].heads is None
    assert by_name["elsewhere"].elsewhere
    assert list(by_name["elsewhere"].heads) == list(by_name["gaze"].heads) == list(GAZE)
    again = conditions(tiny_model, GAZE, NAMES, scores=scores, draws=4, seed=7)
    assert [condition.to_dict() for condition in again] == [condition.to_dict() for condition in selected]


def test_too_few_heads_to_draw_from_are_an_error(tiny_model, scores):
    with pytest.raises(HeadError, match=r"3 control heads were asked for, and 1 of 72 heads lie.*raise below="):
        conditions(tiny_model, GAZE, ["random"], scores=scores, below=1)
    many = HeadSet([(3, head) for head in range(8)])
    with pytest.raises(HeadError, match="Layer 3 has 8 of the heads, and [0-6] others at or below percentile 50"):
        conditions(tiny_model, many, ["layer-matched"], scores=scores)


def test_large_models_draw_from_the_lowest_twentieth(scores):
    class Large:
        fingerprint = None

        class cfg:
            n_layers, n_heads = 20, 20

    wide = HeadScores(torch.rand(1, 20, 20, 2, 2, generator=torch.Generator().manual_seed(1)))
    (condition,) = conditions(Large(), HeadSet(["L0H0", "L5H5"]), ["random"], scores=wide, draws=1)
    assert all(wide.score[layer, head] <= np.percentile(wide.score.numpy(), 5) for layer, head in condition.heads)
    # Where these are few, from twice as many as there are to draw, so that draws differ.
    many = HeadSet([(layer, head) for layer in range(2) for head in range(20)])
    draws = conditions(Large(), many, ["random"], scores=wide, draws=2)
    for draw in draws:
        assert len(draw.heads) == 40
        assert all(wide.score[layer, head] <= np.percentile(wide.score.numpy(), 20) for layer, head in draw.heads)
    assert draws[0].heads != draws[1].heads
    with pytest.raises(HeadError, match="21 control heads were asked for, and 20 of 400"):
        conditions(Large(), HeadSet([*many][:21]), ["random"], scores=wide, below=5)
    with pytest.raises(HeadError, match="201 control heads were asked for, and 200 of 400"):
        conditions(Large(), HeadSet([divmod(n, 20) for n in range(201)]), ["random"], scores=wide)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["gaze", "others"], {}, "give a list of some of gaze, random"),
        ("gaze", {}, "give a list of some of"),
        ([], {}, "give a list of some of"),
        (["gaze", "gaze"], {}, "each once"),
        (["random"], {"scores": None}, "'random' draws heads with low scores: give scores="),
        (["random"], {"draws": 0}, "draws=0"),
    ],
)
def test_what_conditions_refuses(tiny_model, scores, names, options, message):
    with pytest.raises(InputError, match=message):
        conditions(tiny_model, GAZE, names, **{"scores": scores, **options})


def test_heads_outside_the_model_are_refused(tiny_model):
    with pytest.raises(HeadError, match="L30H1"):
        conditions(tiny_model, HeadSet(["L30H1"]), ["gaze"])
    with pytest.raises(HeadError, match="'x' has no heads"):
        Condition("x", HeadSet([]))


def test_curves(scores):
    counts = head_counts(scores, [1, 2, 5], mode=suppress_all(3.0))
    assert [list(point.heads) for point in counts] == [list(scores.top(k)) for k in (1, 2, 5)]
    assert {point.mode for point in counts} == {suppress_all(3.0)}
    assert [(point.name, point.mode) for point in strengths(GAZE, [1, 2.5])] == [
        ("strength 1", boost_and_suppress(1)), ("strength 2.5", boost_and_suppress(2.5))
    ]  # fmt: skip


def test_conditions_and_protocols_survive_json(tiny_model, scores):
    for condition in conditions(tiny_model, GAZE, NAMES, scores=scores, draws=2):
        again = Condition.from_dict(json.loads(json.dumps(condition.to_dict())))
        assert again == condition
        assert (again.heads is None and condition.heads is None) or list(again.heads) == list(condition.heads)
    for protocol in (question(), dynamic_narration(every=7), dynamic_narration(end="."), regions(), asking()):
        assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_a_plan_names_every_condition_and_target_in_order(tiny_model, scores):
    (strip,) = comics.synthetic(1, seed=1, panels=3)
    selected = conditions(tiny_model, GAZE, ["gaze", "none"], scores=scores)
    rows = plan(question("What?"), strip, selected, seed=(0, 4))
    names = list(strip.regions)
    assert [(row.condition.name, row.targets, row.steered_to, row.prompt) for row in rows] == [
        (name, (target,), (target,), "What?") for name in ("gaze", "none") for target in names
    ]
    moving = plan(dynamic_narration(), strip, selected, seed=(0, 4))
    assert [row.targets for row in moving] == [tuple(random_order(strip, seed=(0, 4)))] * 2
    questions = plan(asking(["a", "b", "c"]), strip, selected[1:], seed=(0, 4))
    assert [row.prompt for row in questions] == ["a", "b", "c"]
    with pytest.raises(InputError, match="There are 2 prompts, and a picture has 3 regions"):
        plan(asking(["a", "b"]), strip, selected, seed=(0, 4))
    with pytest.raises(InputError, match="no named regions"):
        plan(question(), Picture(strip.image), selected, seed=(0, 4))


def test_a_place_elsewhere_has_the_size_and_does_not_touch():
    (strip,) = comics.synthetic(1, seed=1, panels=4)
    places = [elsewhere(strip, "panel 2", seed=seed) for seed in range(30)]
    for place in places:
        assert (place.x1 - place.x0, place.y1 - place.y0) == pytest.approx((32, 32))
        assert place.x1 <= 32 + 1e-9 or place.x0 >= 64
        assert place.x0 >= 0 and place.x1 <= strip.image.width and (place.y0, place.y1) == (0, 32)  # noqa: PT018
    assert len({place.x0 for place in places}) > 10, "on the left there is room for one place only"
    large = Picture(strip.image, {"most": Box(10, 0, 110, 32), **panels(2, *strip.image.size)})
    assert elsewhere(large, "most", seed=0) is None
    places = plan(regions(), large, [Condition("elsewhere", GAZE, elsewhere=True)], seed=(0, 0))[0].steered_to
    assert places == (None,)


def test_what_a_protocol_refuses():
    with pytest.raises(InputError, match="every= or end=, not both"):
        dynamic_narration(every=5, end=".")
    with pytest.raises(InputError, match="at least one new token"):
        question(max_new_tokens=0)
    with pytest.raises(InputError, match="that can be reached"):
        dynamic_narration(end="")


def test_conditions_that_steer_to_a_mass(tiny_model, scores):
    selected = conditions(
        tiny_model, GAZE, ["gaze", "random", "all", "none", "ablate"], scores=scores, draws=2, mass=0.8
    )
    assert [c.shares for c in selected] == [{"mass": 0.8}] * 5 + [{}]
    selected += masses(GAZE, [0.2, 0.5], keep="image") + head_counts(scores, [1], at_least=0.4)
    assert [c.name for c in selected[-3:]] == ["mass 0.2", "mass 0.5", "top 1"]
    assert selected[-3].shares == {"mass": 0.2, "keep": "image"}
    assert selected[-1].shares == {"at_least": 0.4}
    for condition in selected:
        written = json.loads(json.dumps(condition.to_dict()))
        assert Condition.from_dict(written) == condition
        assert {"mass", "at_least", "keep"} & set(written) == set(condition.shares)
    with pytest.raises(InputError, match="beside a mass"):
        conditions(tiny_model, GAZE, ["gaze"], mass=0.8, mode=suppress_all())
    for wrong in ({"mass": 1.0}, {"mass": 0.5, "at_least": 0.5}, {"keep": "image"}, {"mass": 0.5, "keep": "all"},
                  {"mass": 0.5, "mode": suppress_all()}, {"mass": 0.5, "ablate": True}):  # fmt: skip
        with pytest.raises(InputError):
            Condition("mine", GAZE, **wrong)
