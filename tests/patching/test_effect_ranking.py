"""Effects of steering blocks and heads, against runs one by one, and what is chosen and confirmed by them."""

import json

import pytest
import torch
from reference import SLIDING, picture

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import HeadError, InputError


@pytest.fixture(scope="module")
def case(tiny_model):
    """Four strips, each asked openly and steered to its last panel, whose caption has another first word."""
    strips = comics.synthetic(8, seed=5, panels=4)
    words = [[text.split()[0] for text in strip.captions.values()] for strip in strips]
    usable = [n for n, (first, *_, last) in enumerate(words) if first != last][:4]
    inputs = tiny_model.prepare([strips[n] for n in usable], [comics.OPEN] * 4)
    metric = gl.metrics.logit_difference(tiny_model, [words[n][-1] for n in usable], [words[n][0] for n in usable])
    return inputs, inputs.region(["panel 4"] * 4), metric


@pytest.fixture(scope="module")
def effects(tiny_model, case, tmp_path_factory):
    inputs, region, metric = case
    path = tmp_path_factory.mktemp("effects") / "effects.jsonl"
    found = gl.rank_by_effect(
        tiny_model, inputs, region, metric=metric, mass=0.9, n_blocks=2, resume=path, progress=False
    )
    return found, path


def of_kind(found, kind):
    """(heads, values) of the blocks, heads or sets."""
    return [(s, v) for k, s, v in zip(found.kinds, found.sets, found.values, strict=True) if k == kind]


@torch.no_grad()
def one_by_one(model, case, heads):
    inputs, region, metric = case
    steered = metric(model.run_with_hooks(inputs, fwd_hooks=gl.steer(heads, region, mass=0.9)))
    return steered - metric(model(inputs))


def test_effects_are_those_of_runs_one_by_one(tiny_model, case, effects):
    found, _ = effects
    n_layers, n_heads = tiny_model.cfg.n_layers, tiny_model.cfg.n_heads
    assert [found.kinds.count(kind) for kind in ("block", "head", "set")] == [n_layers, 2 * n_heads, 5]
    for index in (0, 2, n_layers - 1, n_layers, n_layers + 5, len(found.sets) - 1):
        expected = one_by_one(tiny_model, case, found.sets[index])
        torch.testing.assert_close(found.values[index], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.unsteered, case[2](tiny_model(case[0])), atol=1e-4, rtol=1e-4)


def test_the_best_blocks_and_heads_are_chosen_on_some_rows_and_confirmed_on_the_others(tiny_model, effects):
    found, _ = effects
    chosen = found.chosen_on
    assert chosen.sum() == 2
    blocks = {heads[0].layer: values[chosen].mean() for heads, values in of_kind(found, "block")}
    best = sorted(blocks, key=lambda layer: -blocks[layer])[:2]
    assert {head.layer for head in found.of_heads()} == set(best)
    top = found.top(5)
    means = {heads[0]: values[chosen].mean().item() for heads, values in of_kind(found, "head")}
    assert list(top) == sorted(means, key=lambda head: -means[head])[:5]
    together = [heads for heads, _ in of_kind(found, "set")]
    assert together == [found.top(k) for k in (1, 2, 5, 10, 20)]
    table = found.table()
    for row, values in zip(table.itertuples(), found.values, strict=True):
        held = values[~chosen]
        assert row.effect == pytest.approx(values[chosen].mean().item(), abs=1e-5)
        assert row.held_out == pytest.approx(held.mean().item(), abs=1e-5)
        assert held.min() - 1e-5 <= row.low <= row.held_out + 1e-5
        assert row.held_out - 1e-5 <= row.high <= held.max() + 1e-5
        assert row.confirmed == (held.min() > 0)  # of two rows, the smaller one is the low end
    confirmed = found.confirmed()
    assert set(map(str, confirmed)) == set(table[(table.kind == "head") & table.confirmed].heads)
    assert list(confirmed) == [head for head in found.top(len(means)) if head in confirmed]
    assert top.provenance["method"] == "effect"
    assert len(top.chosen_on) == 4
    assert repr(found).startswith("HeadEffects of 6 blocks and 24 heads on 4 rows (2 held out); best head L")


def test_weights_are_effects_over_the_largest(effects, case):
    found, _ = effects
    heads, own = found.top(3), found.of_heads()
    weights = found.weights(heads)
    assert weights == {head: pytest.approx(own[head] / own[heads[0]]) for head in heads}
    gl.steer(heads, case[1], mass=0.9, weights=weights)
    worst = min(own, key=own.get)
    with pytest.raises(HeadError, match=f"Head {worst} has an effect of -"):
        found.weights([worst])
    other = next(layer for layer in range(6) if layer not in {head.layer for head in own})
    with pytest.raises(HeadError, match=f"Head L{other}H0 was not steered alone"):
        found.weights([(other, 0)])
    with pytest.raises(HeadError, match="The 25 best heads were asked for: expected 1 to 24"):
        found.top(25)


def test_a_broken_off_sweep_goes_on_and_another_one_is_refused(tiny_model, case, effects, tmp_path):
    inputs, region, metric = case
    found, path = effects
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + len(found.sets) - 1  # the best head is measured once, alone and as a set of one
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(lines[:10]) + lines[10][:7])
    calls = []
    handle = tiny_model.original_model.register_forward_hook(lambda *_: calls.append(1))
    options = {"mass": 0.9, "n_blocks": 2, "progress": False}
    try:
        again = gl.rank_by_effect(tiny_model, inputs, region, metric=metric, resume=cut, **options)
    finally:
        handle.remove()
    assert len(calls) == len(lines) - 10 + 3  # the unsteered runs, and one from a layer on
    torch.testing.assert_close(again.values, found.values, atol=1e-5, rtol=0)
    assert [json.loads(line)["heads"] for line in cut.read_text().splitlines()[1:]] == [
        json.loads(line)["heads"] for line in lines[1:]
    ]
    with pytest.raises(InputError, match="its steering differ"):
        gl.rank_by_effect(tiny_model, inputs, region, metric=metric, resume=cut, **{**options, "mass": 0.5})


def test_several_batches_are_rows_of_one_ranking(tiny_model, case, effects):
    inputs, region, metric = case
    found, _ = effects
    strips = [pictures[0] for pictures in inputs.pictures]
    halves = [tiny_model.prepare(strips[start : start + 2], [comics.OPEN] * 2) for start in (0, 2)]
    words = [[text.split()[0] for text in strip.captions.values()] for strip in strips]
    metrics = [
        gl.metrics.logit_difference(tiny_model, [w[-1] for w in half], [w[0] for w in half])
        for half in (words[:2], words[2:])
    ]
    layers = sorted({head.layer for head in found.of_heads()})
    both = gl.rank_by_effect(
        tiny_model, halves, [half.region("panel 4") for half in halves], metric=metrics, mass=0.9, layers=layers,
        n_blocks=2, progress=False,
    )  # fmt: skip
    torch.testing.assert_close(both.values[2:], found.values[6:], atol=1e-3, rtol=1e-3)
    assert both.top(5) == found.top(5)


def test_layers_that_cannot_see_the_region_have_no_effect(shelf):
    model, _ = shelf.get("Qwen2.5-VL", **SLIDING)
    inputs = model.prepare(
        [picture(96, 64), picture(96, 64, seed=1)], ["a question that is longer than the window"] * 2
    )
    metric = gl.metrics.logit_difference(model, 5, 6)
    far = inputs.region((0, 0, 28, 28))
    options = {"metric": metric, "mode": gl.boost_and_suppress(), "where": ["after image"], "progress": False}
    found = gl.rank_by_effect(model, inputs, far, n_blocks=1, **options)
    effects = {heads[0].layer: values for heads, values in of_kind(found, "block")}
    assert sorted(layer for layer, values in effects.items() if not values.any()) == [2, 3]
    with pytest.raises(InputError, match="No steering of any layer changed the metric"):
        gl.rank_by_effect(model, inputs, far, n_blocks=1, layers=[2, 3], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, "held_out=0 was given for 4 rows"),
        ({"held_out": 1.0}, "held_out=1.0 was given"),
        ({"n_blocks": 7}, "n_blocks=7 was given; give 1 to 6"),
        ({"n_blocks": 0}, "n_blocks=0 was given"),
        ({"layers": [9]}, r"layers=\[9\] was given"),
        ({"mass": 1.0}, "mass=1.0 was given"),
        ({"metric": {"a": lambda logits: logits[:, -1, 0]}}, "several metrics by name"),
        ({"metric": [len, len]}, "1 batches, 1 regions and 2 metrics"),
    ],
)
def test_what_cannot_be_ranked_is_refused(tiny_model, case, options, message):
    inputs, region, metric = case
    with pytest.raises(InputError, match=message):
        gl.rank_by_effect(tiny_model, inputs, region, progress=False, **{"metric": metric, "mass": 0.9, **options})


def test_one_row_confirms_nothing(tiny_model, case):
    inputs = tiny_model.prepare(comics.synthetic(1, seed=0)[0], comics.OPEN)
    with pytest.raises(InputError, match="for 1 rows"):
        gl.rank_by_effect(tiny_model, inputs, inputs.region("panel 1"), metric=case[2], mass=0.9, progress=False)
