"""Soft targets and weights of heads: what they do to every row of the pattern, against a slow loop."""

import math

import numpy as np
import pytest
import torch
from reference import SLIDING, full, look, padded, picture

import gaze_lens as gl
from gaze_lens import HeadSet, HookedVLM, testing
from gaze_lens.attention import kernel_parts
from gaze_lens.attention.call import Call
from gaze_lens.errors import HeadError, InputError, RegionError
from gaze_lens.interventions.steering import EPS

KINDS = [("Qwen3-VL", {}), ("Qwen2.5-VL", SLIDING), ("Mllama", {})]
MORE = [("Gemma 3", {}), ("PaliGemma 2", {}), ("Llama 4", {}), ("InternVL", {})]
ROWS = [*KINDS, *(pytest.param(row, marks=pytest.mark.slow) for row in MORE)]
SETTINGS = [{}, {"mass": 0.8}, {"at_least": 0.3}, {"mass": 0.7, "keep": "image"}]
WEIGHTS = [None, (1.0, 0.3)]


def half_map(width=96):
    """Over a picture 64 high: a slope on the left, 0 on the right."""
    array = np.zeros((64, width))
    array[:, :48] = np.linspace(0.05, 1, 64)[:, None]
    return gl.HeatMap(array)


@pytest.fixture(params=ROWS, ids=[name for name, _ in [*KINDS, *MORE]])
def case(request, shelf):
    family, options = request.param
    model, _ = shelf.get(family, **options)
    inputs = padded(model)
    layer = model.capabilities((96, 64)).seeing[0]
    region = inputs.region([half_map(), gl.HeatMap.of_disc((30, 30), radius=20)], image=0)
    return model, inputs, region, HeadSet([(layer, 1), (layer, 2)])


def pattern_of(model, inputs, layer, hooks):
    with model.hooks(hooks):
        _, cache = model.run_with_cache(inputs, names_filter=f"blocks.{layer}.attn.hook_pattern")
    return cache[f"blocks.{layer}.attn.hook_pattern"].double()


def slow_row(plain, weight_of, image, setting, weight):
    """One row of a pattern, steered by the definition and mixed with its own by the head's weight."""
    inside = {key: weight_of[key] for key in weight_of if plain[key] > 0}
    if not setting:
        steered = plain.clone()
        for key in image:
            steered[key] *= (weight_of.get(key, 0.0) + EPS) ** weight
        return steered / steered.sum() if plain.sum() > 0 else plain
    mass = setting.get("mass", setting.get("at_least"))
    others = [key for key in (image if "keep" in setting else range(len(plain))) if key not in inside]
    p, rest = sum(plain[key] for key in inside), sum(plain[key] for key in others)
    if not (p > 0 and rest > 0) or ("at_least" in setting and p / (p + rest) >= mass):
        return plain
    steered, soft = plain.clone(), sum(w * plain[key] for key, w in inside.items())
    for key, w in inside.items():
        steered[key] = (p + rest) * mass * w * plain[key] / soft
    for key in others:
        steered[key] *= (p + rest) * (1 - mass) / rest
    return weight * steered + (1 - weight) * plain


@torch.no_grad()
@pytest.mark.parametrize("weights", WEIGHTS, ids=["alike", "weights of heads"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_row_is_steered_by_the_definition(case, setting, weights):
    model, inputs, region, heads = case
    layer = heads[0].layer
    given = heads if weights is None else dict(zip(heads, weights, strict=True))
    plain = pattern_of(model, inputs, layer, [])
    found = pattern_of(model, inputs, layer, gl.steer(given, region, **setting))
    real = inputs.tensors["attention_mask"].bool()
    for row in range(2):
        for (_, head), weight in zip(heads, weights or (1.0, 1.0), strict=True):
            for query in torch.nonzero(real[row])[:, 0].tolist()[::3]:
                image = inputs.layout.images[row]
                expected = slow_row(plain[row, head, query], region.weight_of[row], image, setting, weight)
                torch.testing.assert_close(found[row, head, query], expected, atol=1e-5, rtol=0)
    assert (found - plain).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("weights", WEIGHTS, ids=["alike", "weights of heads"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_beside_the_kernel_it_is_what_it_is_on_the_full_matrices(case, setting, weights):
    model, inputs, region, heads = case
    hooks = gl.steer(heads if weights is None else dict(zip(heads, weights, strict=True)), region, **setting)
    whole = full(model.capabilities((96, 64)).live, look)
    real = inputs.tensors["attention_mask"].bool()
    fast, slowly = (model.run_with_hooks(inputs, fwd_hooks=h)[real] for h in (hooks, [*hooks, *whole]))
    torch.testing.assert_close(fast, slowly, atol=2e-5, rtol=0)
    assert (fast - model(inputs)[real]).abs().max() > 1e-3
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "output_logits": True}
    runs = [model.generate(inputs, fwd_hooks=h, **options) for h in (hooks, [*hooks, *whole])]
    torch.testing.assert_close(torch.stack(runs[0].logits), torch.stack(runs[1].logits), atol=2e-5, rtol=0)


LONG = [
    {"mass": 0.7}, {"mass": 0.7, "keep": "image"}, {"at_least": 0.2}, {"mass": 0.7, "where": ["after image", "decode"]},
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("weights", [1.0, 0.4])
@pytest.mark.parametrize("soft", [False, True], ids=["box", "heat map"])
@pytest.mark.parametrize("setting", LONG, ids=str)
def test_prompts_whose_queries_are_taken_in_blocks(model, setting, soft, weights, monkeypatch):
    """Without padding, so that no block sees later keys; the first block sees nothing of the region."""
    monkeypatch.setattr(kernel_parts, "FEWEST_ROWS", 6)
    inputs = model.prepare(picture(96, 64), "a question of many words, which are tokens")
    array = np.zeros((64, 96))
    array[32:, :] = np.linspace(0.1, 1, 96)
    region = inputs.region(gl.HeatMap(array) if soft else (0, 32, 48, 64))
    assert inputs.layout.length > 6 * 6
    assert region.positions[0][0] >= 6
    hooks = gl.steer({"L1H1": weights, "L1H2": weights, "L2H0": weights}, region, **setting)
    options = {"max_new_tokens": 3, "output_logits": True}
    runs = [model.generate(inputs, fwd_hooks=h, **options) for h in (hooks, [*hooks, *full(range(4), look)])]
    torch.testing.assert_close(torch.stack(runs[0].logits), torch.stack(runs[1].logits), atol=2e-5, rtol=0)
    fast, slowly = (model.run_with_hooks(inputs, fwd_hooks=h) for h in (hooks, [*hooks, *full(range(4), look)]))
    torch.testing.assert_close(fast, slowly, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_mass_of_every_query_makes_no_scores_in_the_prompt_and_none_of_keys_that_are_repeated(model, monkeypatch):
    """The cheap ways are those that are taken."""
    inputs = model.prepare(picture(96, 64), "What?")
    made = []
    scores = Call.scores
    monkeypatch.setattr(Call, "scores", lambda call, query, key: made.append(query.shape) or scores(call, query, key))
    hooks = gl.steer(["L1H1", "L2H0"], inputs.region((0, 0, 48, 64)), mass=0.7)
    model.run_with_hooks(inputs, fwd_hooks=hooks)
    assert made == []
    model.generate(inputs, fwd_hooks=hooks, max_new_tokens=2)
    cfg = model.cfg
    assert made == [(1, cfg.n_key_value_heads, cfg.n_heads // cfg.n_key_value_heads, cfg.d_head)] * 2


@torch.no_grad()
def test_a_map_of_0_and_1_is_the_region_of_its_mask(model):
    inputs = model.prepare(picture(96, 64), "What?")
    mask = np.zeros((64, 96), bool)
    mask[:, :32] = True
    soft, hard = inputs.region(gl.HeatMap(mask)), inputs.region(gl.Mask(mask))
    assert soft.positions == hard.positions
    assert set(soft.weights[0]) == {1.0}
    logits = [model.run_with_hooks(inputs, fwd_hooks=gl.steer(["L1H1"], r, mass=0.8)) for r in (soft, hard)]
    torch.testing.assert_close(*logits, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_schedule_of_maps_and_chosen_rows(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = padded(model)
    first, second = (inputs.region(gl.HeatMap.of_points([(x, 30)], sigma=6), image=0) for x in (10, 50))
    hooks = gl.steer(["L1H1"], schedule=[(0, first), (2, second)], mass=0.7, rows=[0])
    generation = model.generate(
        inputs, fwd_hooks=hooks, max_new_tokens=4, min_new_tokens=4, names_filter="blocks.1.attn.hook_pattern"
    )
    for step, pattern in enumerate(generation.activations["blocks.1.attn.hook_pattern"]):
        target = first if step < 2 else second
        masses = [pattern[row, 1, -1, list(target.positions[row])].sum().item() for row in (0, 1)]
        assert masses[0] == pytest.approx(0.7, abs=1e-5)
        assert abs(masses[1] - 0.7) > 1e-3


def test_regions_with_weights_combine(model):
    inputs = model.prepare(picture(96, 64), "What?")
    slope = inputs.region(half_map())
    left = inputs.region((0, 0, 32, 64))
    own, weights = slope.weight_of[0], {}
    for name, region in (("&", slope & left), ("-", slope - left), ("|", slope | left)):
        weights[name] = region.weight_of[0]
    assert weights["&"] == {p: w for p, w in own.items() if p in left.positions[0]}
    assert weights["-"] == {p: w for p, w in own.items() if p not in left.positions[0]}
    assert weights["|"] == own | dict.fromkeys(left.positions[0], 1.0)
    assert (left - slope).weight_of[0] == {p: 1 - own[p] for p in left.positions[0]}
    assert "weights adding up to" in repr(slope)
    assert list(own) == sorted(own)


def test_gradients_are_those_of_the_full_matrices():
    def gradients(extra):
        model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
        inputs = padded(model)
        region = inputs.region([half_map(), half_map(64)], image=0)
        hooks = [*gl.steer({"L1H1": 1.0, "L1H3": 0.2}, region, mass=0.8), *gl.steer({"L2H0": 0.5}, region)]
        with model.hooks([*hooks, *extra]):
            model(inputs, use_cache=False)[:, -1].square().sum().backward()
        named = model.original_model.named_parameters()
        return {name: weight.grad for name, weight in named if weight.grad is not None}

    plain, full_matrices = gradients([]), gradients(full(range(4), look))
    assert all(gradient.isfinite().all() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, full_matrices[name], atol=2e-4, rtol=2e-3)


@torch.no_grad()
def test_readers_autocast_a_static_cache_and_sinks():
    model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
    inputs = padded(model)
    hooks = gl.steer({"L1H1": 1.0, "L2H0": 0.4}, inputs.region([half_map(), half_map(64)], image=0), mass=0.8)
    tokens = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3).sequences
    static = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3, cache_implementation="static").sequences
    assert torch.equal(static, tokens)
    plain = model.run_with_hooks(inputs, fwd_hooks=hooks)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model.run_with_hooks(inputs, fwd_hooks=hooks)
    real = inputs.tensors["attention_mask"].bool()
    assert (coarse[real].float() - plain[real]).abs().max() < 0.3
    sunk = HookedVLM.wrap(*testing.tiny("GptOssForCausalLM"))
    texts = sunk.prepare(None, "one red dog, two blue cats")
    region = texts.region(texts.span("red dog"), around="text")
    hooks = gl.steer({"L1H1": 0.25}, region, mass=0.6)
    before, found = (pattern_of(sunk, texts, 1, h)[0, 1, -1] for h in ([], hooks))
    inside = list(region.positions[0])
    p = before[inside].sum().item()
    assert found[inside].sum().item() == pytest.approx(p + 0.25 * (0.6 - p), abs=1e-5)
    rest = [key for key in range(len(found)) if key not in inside]
    torch.testing.assert_close(found[rest], before[rest] * (1 - found[inside].sum()) / (1 - p), atol=1e-6, rtol=0)
    fast = sunk.run_with_hooks(texts, fwd_hooks=hooks)
    torch.testing.assert_close(fast, sunk.run_with_hooks(texts, fwd_hooks=[*hooks, *full()]), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda i, r: i.region(gl.HeatMap(np.ones((96, 64)))), RegionError, "the image 96 x 64 pixels: expected a map"),
        (lambda i, r: i.region([gl.HeatMap(np.ones((64, 96)))] * 2), RegionError, "2 regions were given for 1 rows"),
        (lambda i, r: i.positions_of(gl.HeatMap(np.ones((64, 96)))), RegionError, "make a region of it"),
        (lambda i, r: gl.steer(["L1H1"], r, mode=gl.suppress_image()), InputError, "mode= was given for region"),
        (lambda i, r: gl.steer(["L1H1"], i.region(gl.HeatMap(np.ones((64, 96))))), InputError, "are 1 on the whole"),
        (lambda i, r: gl.knockout(["L1H1"], r, r), RegionError, "a knockout reads whole tokens only"),
        (lambda i, r: gl.patching.group(i, r), RegionError, "a group of positions reads whole tokens only"),
        (lambda i, r: gl.steer({"L1H1": 0}, r), InputError, "weight 0 was given for head L1H1"),
        (lambda i, r: gl.steer({"L1H1": 1.5}, r), InputError, "weight 1.5 was given for head L1H1"),
        (lambda i, r: gl.steer({"L1H1": math.nan}, r), InputError, "weight nan was given for head L1H1"),
        (lambda i, r: gl.steer({"L1H1": True}, r), InputError, "weight True was given for head L1H1"),
        (lambda i, r: gl.steer({}, r), HeadError, "set of heads is empty"),
        (lambda i, r: gl.steer({"L1H1": 1}, r, weights={"L1H1": 1}), InputError, "give these once"),
        (
            lambda i, r: gl.steer(["L1H1", "L1H2"], r, weights={"L1H1": 1, "L3H0": 1}), HeadError,
            r"other heads than are steered \(too many: L3H0; missing: L1H2\)",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_soft_target_is_refused(model, make, error, message):
    inputs = model.prepare(picture(96, 64), "What?")
    with pytest.raises(error, match=message):
        make(inputs, inputs.region(half_map()))


def test_maps_of_some_rows_only_and_of_an_unknown_image_are_refused(shelf):
    inputs = padded(shelf.get("Qwen3-VL")[0])
    with pytest.raises(RegionError, match="Heat maps were given for some rows"):
        inputs.region([half_map(), (0, 0, 32, 32)], image=0)
    with pytest.raises(RegionError, match="say which with image=0"):
        inputs.region([half_map(), half_map()])
    with pytest.raises(RegionError, match="has no image 1"):
        inputs.region(half_map(), image=1)


def test_weights_of_scores(model):
    strips = [gl.comics.synthetic(1, seed=0)[0]]
    scores = gl.score_heads(model, strips, progress=False)
    heads = scores.top(3)
    weights = scores.weights(heads)
    best = scores.score[heads[0].layer, heads[0].head]
    assert list(weights) == list(heads)
    assert [weights[head] for head in heads] == pytest.approx([float(scores.score[h] / best) for h in heads])
    gl.steer(heads, model.prepare(picture(96, 64), "What?").region((0, 0, 48, 64)), weights=weights)
    with pytest.raises(HeadError, match="0 or less"):
        scores.weights(scores.ranked("contrast")[-1:], by="contrast")
