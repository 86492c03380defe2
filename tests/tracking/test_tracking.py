"""Trajectories against full patterns that were captured step by step and summed by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

import gaze_lens as gl
from gaze_lens.attention.value_norms import ValueNorms
from gaze_lens.errors import HeadError, InputError, RegionError
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.shapes import Box

NAMES = ["Qwen2.5-VL", "Qwen3-VL"]
HEADS = ["L2H1", "L0H3", "L2H0", "L0H0"]
STEPS = {"max_new_tokens": 5, "min_new_tokens": 5}


def picture(model, n=3, seed=0):
    """n panels of one token by two."""
    side = model.processor.image_processor.patch_size * model.processor.image_processor.merge_size
    pixels = np.random.default_rng(seed).integers(0, 256, (2 * side, n * side, 3), dtype=np.uint8)
    return Picture(Image.fromarray(pixels), panels(n, n * side, 2 * side))


@pytest.fixture(params=NAMES)
def pair(request, shelf):
    """(wrapped model, unwrapped copy)."""
    return shelf.get(request.param)


@torch.no_grad()
def value_norms(plain, inputs):
    """[layer][kv head, position] from the key-value cache of Hugging Face's own model."""
    cache = plain(**inputs.tensors, use_cache=True).past_key_values
    return [layer.values[0].norm(dim=-1) for layer in cache.layers]


def slow_masses(model, inputs, n_panels, norms=None, **options):
    """[step, head, region] from full patterns, token by token: panel k has every n-th image token."""
    generation = model.generate(inputs, names_filter=lambda name: name.endswith("hook_pattern"), **{**STEPS, **options})
    images = [p for p, token in enumerate(inputs.input_ids[0].tolist()) if token == model.config.image_token_id]
    result = torch.zeros(generation.n_steps, len(HEADS), n_panels)
    for step in range(generation.n_steps):
        for index, name in enumerate(HEADS):
            layer, head = int(name[1]), int(name[3])
            pattern = generation.activations[f"blocks.{layer}.attn.hook_pattern"][step]
            for k, position in enumerate(images):
                weight = float(pattern[0, head, -1, position])
                if norms is not None:
                    weight *= float(norms[layer][head // 2, position])  # 4 query heads share 2 KV heads
                result[step, index, k % n_panels] += weight
    return generation, result


def test_value_norms_are_of_the_prompt_and_cost_later_steps_nothing(pair):
    model, plain = pair
    inputs = model.prepare(picture(model), "Tell me")
    norms, n_hooks = ValueNorms(model, [0, 2], n_keys=inputs.layout.n_keys), []
    point = model.hook_dict["blocks.2.attn.hook_v"]
    count = ("ln_final.hook_normalized", lambda _, hook: n_hooks.append(len(point._forward_hooks)))
    model.generate(inputs, fwd_hooks=[*norms.hooks(), count], **STEPS)
    assert n_hooks == [0] * 5
    for layer in (0, 2):
        expected = value_norms(plain, inputs)[layer].repeat_interleave(2, 0)
        torch.testing.assert_close(norms.of(layer), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("weighted", [False, True], ids=["raw", "weighted"])
def test_masses_equal_full_patterns_summed_by_hand(pair, weighted):
    model, plain = pair
    inputs = model.prepare(picture(model), "Tell me")
    norms = value_norms(plain, inputs) if weighted else None
    generation, expected = slow_masses(model, inputs, 3, norms)
    trajectory = gl.track(model, inputs, HEADS, weighted=weighted, **STEPS)
    assert torch.equal(trajectory.generation.tokens, generation.tokens)
    torch.testing.assert_close(trajectory.mass, expected, atol=1e-5, rtol=1e-4)
    assert expected.std(0).max() > 1e-3, "steps that do not differ test nothing"
    assert trajectory.weighted is weighted
    assert trajectory.regions == ("panel 1", "panel 2", "panel 3")
    assert [str(head) for head in trajectory.heads] == HEADS
    torch.testing.assert_close(trajectory.mean, expected.mean(1), atol=1e-5, rtol=1e-4)
    assert trajectory.looked_at == tuple(f"panel {k + 1}" for k in expected.mean(1).argmax(-1).tolist())
    assert len(trajectory.tokens) == 5
    assert "".join(trajectory.tokens) == inputs.tokenizer.decode(generation.tokens[0])
    assert str(trajectory) == str(generation)


def test_weighted_differs_from_raw_and_heads_of_one_group_share_norms(qwen):
    inputs = qwen.prepare(picture(qwen), "Tell me")
    raw, weighted = (gl.track(qwen, inputs, HEADS, weighted=flag, **STEPS).mass for flag in (False, True))
    assert (weighted / raw).std() > 1e-3


@pytest.mark.parametrize("order", [["panel 2", "panel 1"], ["panel 3", "panel 2"]])
def test_heads_that_are_steered_by_a_schedule_draw_its_staircase(qwen, order):
    inputs = qwen.prepare(picture(qwen), "Tell me")
    steering = gl.steer(HEADS, schedule=[(0, inputs.region(order[0])), (3, inputs.region(order[1]))])
    trajectory = gl.track(qwen, inputs, HEADS, fwd_hooks=steering, **STEPS)
    assert trajectory.looked_at == (order[0],) * 3 + (order[1],) * 2
    assert trajectory.mass.amax(-1).min() > 0.999
    _, expected = slow_masses(qwen, inputs, 3, fwd_hooks=steering)
    torch.testing.assert_close(trajectory.mass, expected, atol=1e-5, rtol=1e-4)


def test_tracking_sees_the_patterns_that_other_hooks_leave(qwen):
    inputs = qwen.prepare(picture(qwen), "Tell me")

    def silence(pattern, hook):
        pattern[:, 1] = 0.0
        return pattern

    mass = gl.track(qwen, inputs, HEADS, fwd_hooks=[("blocks.2.attn.hook_pattern", silence)], **STEPS).mass
    assert mass[:, 0].eq(0).all()
    assert mass[:, 1:].gt(0).all()


def test_regions_may_be_named_boxes_or_regions(qwen):
    shown = picture(qwen)
    inputs = qwen.encode(qwen.prepare(Picture(shown.image, {**shown.regions, "sky": Box(0, 0, 96, 32)}), "Tell me"))
    whole = gl.track(qwen, inputs, HEADS, **STEPS)
    assert whole.regions == ("panel 1", "panel 2", "panel 3", "sky")
    some = gl.track(qwen, inputs, HEADS, regions=["sky", (0, 0, 32, 64), inputs.region("panel 3")], **STEPS)
    assert some.regions == ("sky", "box 0 0 32 64", "panel 3")
    torch.testing.assert_close(some.mass, whole.mass[:, :, [3, 0, 2]])
    assert gl.track(qwen, inputs, HEADS, regions="panel 2", **STEPS).regions == ("panel 2",)


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"do_sample": True, "temperature": 2.0}])
def test_masses_follow_the_options_of_generate(qwen, options):
    inputs = qwen.prepare(picture(qwen), "Tell me")
    torch.manual_seed(3)
    generation, expected = slow_masses(qwen, inputs, 3, **options)
    torch.manual_seed(3)
    trajectory = gl.track(qwen, inputs, HEADS, **STEPS, **options)
    assert torch.equal(trajectory.generation.tokens, generation.tokens)
    torch.testing.assert_close(trajectory.mass, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weighted", [False, True], ids=["raw", "weighted"])
def test_a_sliding_window_that_leaves_the_image_behind(shelf, weighted):
    model, _ = shelf.get("Qwen2.5-VL", sliding_window=24, use_sliding_window=True, max_window_layers=0)
    inputs = model.prepare(picture(model), "Tell")
    length, image = inputs.layout.length, inputs.layout.images[0]
    assert len(image) == 6
    steps = {"max_new_tokens": 8, "min_new_tokens": 8}
    generation = model.generate(inputs, names_filter=lambda name: name.endswith(("hook_pattern", "hook_v")), **steps)
    expected = torch.zeros(8, len(HEADS), 3)
    for step in range(8):
        for index, name in enumerate(HEADS):
            layer, head = int(name[1]), int(name[3])
            pattern = generation.activations[f"blocks.{layer}.attn.hook_pattern"][step][0, head, -1]
            values = generation.activations[f"blocks.{layer}.attn.hook_v"][0][0, :, head // 2]
            first = length + step - len(pattern)  # a sliding cache holds the last positions only
            for k, position in enumerate(image):
                if position >= first:
                    norm = float(values[position].norm()) if weighted else 1.0
                    expected[step, index, k % 3] += pattern[position - first] * norm
    mass = gl.track(model, inputs, HEADS, weighted=weighted, **steps).mass
    torch.testing.assert_close(mass, expected, atol=1e-5, rtol=1e-4)
    assert mass[0].gt(0).all()
    assert mass[4].sum() > 0
    assert mass[-1].eq(0).all()


def test_blocks_do_not_change_what_is_tracked(qwen, monkeypatch):
    inputs = qwen.prepare(picture(qwen), "Tell me")
    whole = gl.track(qwen, inputs, HEADS, **STEPS)
    monkeypatch.setattr("gaze_lens.attention.region_reader.BLOCK", 50)
    blocks = gl.track(qwen, inputs, HEADS, **STEPS)
    for name in ("mass", "on_image", "entropy", "sink"):
        torch.testing.assert_close(getattr(blocks, name), getattr(whole, name), atol=1e-6, rtol=0)


def test_what_track_refuses(qwen):
    shown = picture(qwen)
    inputs = qwen.prepare(shown, "Tell me")
    with pytest.raises(InputError, match="track follows one text; these inputs have 2 rows. Prepare one prompt"):
        gl.track(qwen, qwen.prepare(shown, ["a", "b"]), HEADS, **STEPS)
    for options in ({"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        with pytest.raises(InputError, match="follows one text, and 2 are generated together; leave out num_beams"):
            gl.track(qwen, inputs, HEADS, **STEPS, **options)
    with pytest.raises(HeadError, match="The set of heads is empty; choose at least one head"):
        gl.track(qwen, inputs, [], **STEPS)
    with pytest.raises(HeadError, match="L4H0 lie outside the model"):
        gl.track(qwen, inputs, ["L4H0"], **STEPS)
    with pytest.raises(InputError, match=r"no region to track; name regions in a gl.Picture, or pass regions="):
        gl.track(qwen, qwen.prepare(shown.image, "x"), HEADS, **STEPS)
    with pytest.raises(InputError, match="no region to track"):
        gl.track(qwen, qwen.prepare(None, "x"), HEADS, **STEPS)
    with pytest.raises(RegionError, match="has a region 'panel 9'; it has"):
        gl.track(qwen, inputs, HEADS, regions=["panel 9"], **STEPS)
    other = qwen.prepare(picture(qwen, 4), "Tell me").region("panel 4")
    with pytest.raises(RegionError, match="Region 'panel 4' was made for Layout"):
        gl.track(qwen, inputs, HEADS, regions=[other], **STEPS)


# On the embedded model


@pytest.fixture(scope="module")
def tiny():
    """(model, its two gaze heads, as many controls, strips)."""
    model = gl.load_tiny()
    scores = gl.score_heads(model, gl.comics.synthetic(8, seed=11), progress=False)
    return model, scores.top(2), scores.controls(2, seed=0), gl.comics.synthetic(6, seed=31)


def test_gaze_heads_look_at_what_is_told_and_controls_do_not(tiny):
    model, heads, controls, strips = tiny
    looked, by_controls, lags = [], [], []
    for strip in strips:
        inputs = model.encode(model.prepare(strip, gl.comics.NARRATE))
        trajectory = gl.track(model, inputs, heads, max_new_tokens=60)
        described = trajectory.described_by_words()
        looked.append(trajectory.agreement(described).looked)
        lags.append(trajectory.lag(trajectory.described_by_markers()))
        other = gl.track(model, inputs, controls, max_new_tokens=60)
        assert str(other) == str(trajectory)
        by_controls.append(other.agreement(described).looked)
    assert np.mean(looked) > 0.9
    assert np.mean(by_controls) < 0.35
    assert lags == [3] * 6, "a marker, such as 'Panel 4:', has three tokens, and shows nothing to look at"


def test_steered_heads_turn_at_once_and_the_words_soon(tiny):
    model, heads, _, strips = tiny
    words, shares = [], []
    for index, strip in enumerate(strips):
        inputs = model.encode(model.prepare(strip, gl.comics.NARRATE_FREELY))
        order = gl.evaluation.random_order(strip, seed=index)
        schedule = [(6 * turn, inputs.region(name)) for turn, name in enumerate(order)]
        hooks = gl.steer(heads, schedule=schedule)
        trajectory = gl.track(model, inputs, heads, fwd_hooks=hooks, max_new_tokens=36)
        described = trajectory.described_by_words()
        switches = trajectory.switches(schedule, described)
        assert (switches["gaze"] == 0).all()
        words += switches["words"].dropna().tolist()
        shares.append(trajectory.agreement(described).looked)
    assert len(words) > 18, "half of the turns have a word of their own"
    assert np.mean(words) < 2.5
    assert np.mean(shares) > 0.85
