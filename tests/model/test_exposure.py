"""Exposure against a slow loop over the full patterns without and with the edits, from the same forwards."""

import json

import numpy as np
import pytest
import torch
from reference import SLIDING, padded, picture

import gaze_lens as gl
from gaze_lens import HeadSet, HookedVLM, Positions, testing
from gaze_lens.attention.mass_edit import MassEdit
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.errors import InputError
from gaze_lens.model.exposure_reader import lengths_of

BOX = (0, 0, 48, 64)
STEPS = {"max_new_tokens": 4, "min_new_tokens": 4}
KINDS = [("Qwen3-VL", {}), ("Qwen2.5-VL", SLIDING), ("Mllama", {}), ("PaliGemma", {})]
MORE = [("Gemma 3", {}), ("PaliGemma 2", {}), ("Llama 4", {}), ("Qwen3.5", {}), ("InternVL", {})]
ROWS = [*KINDS, *(pytest.param(row, marks=pytest.mark.slow) for row in MORE)]


def hooks_of(kind, inputs, heads):
    """Each kind of steering, on two heads of one layer."""
    region = inputs.region(BOX, image=0)
    if kind == "bias":
        return gl.steer(HeadSet(heads), region, mode=gl.boost_and_suppress(2.0))
    if kind == "published":
        return gl.steer(HeadSet(heads), region, mode=gl.boost_and_suppress(2.0), as_published=True)
    if kind == "suppressed text":
        return gl.steer(HeadSet(heads), region, mode=gl.suppress_all(3.0), where=["decode"])
    if kind == "mass":
        return gl.steer(HeadSet(heads), region, mass=0.7)
    if kind == "kept":
        return gl.steer(dict(zip(heads, (1.0, 0.3), strict=True)), region, mass=0.7, keep="image")
    if kind == "schedule":
        other = inputs.region((48, 0, 64, 64), image=0)
        return gl.steer(HeadSet(heads), schedule=[(0, region), (2, other)], mass=0.7, rows=[1])
    disc = inputs.region(gl.HeatMap.of_points([(20, 30)], sigma=9), image=0)
    if kind == "heat map and bias on rows":
        return [*gl.steer(HeadSet(heads), disc, rows=[0]), *gl.steer(HeadSet(heads[:1]), region, mass=0.6, rows=[1])]
    return gl.steer(HeadSet(heads), disc, mass=0.5)


SETTINGS = ["bias", "mass", "kept", "schedule", "heat map", "heat map and bias on rows", "suppressed text", "published"]


class Saved:
    """The pattern of the scores that a hook meets, forward by forward."""

    def __init__(self):
        self.patterns = []

    def __call__(self, scores, hook):
        self.patterns.append((scores.double().softmax(-1), gl.QueryKeyPositions.of(scores, hook)))


def sums(pattern, place, inputs, row, region, weight_of):
    """The sums of one row of a pattern over groups of keys, key by key."""
    layout, total = inputs.layout, dict.fromkeys(["target", "others", "prompt", "generated", "sink", "weighted"], 0.0)
    first = min([*layout.text[row], *(() if layout.cross_attention else layout.images[row])])
    for offset, mass in enumerate(pattern.tolist()):
        key = place.key_start + offset
        total["weighted"] += mass * weight_of.get(key, 0.0)
        if key in region.positions[row]:
            total["target"] += mass
        elif key in layout.images[row]:
            total["others"] += mass
        elif key == first and not place.cross_attention:
            total["sink"] += mass
        else:
            total["prompt" if key < layout.length else "generated"] += mass
    return total


@pytest.fixture(params=ROWS, ids=[name for name, _ in [*KINDS, *MORE]])
def case(request, shelf):
    family, options = request.param
    model, _ = shelf.get(family, **options)
    layer = model.capabilities((96, 64)).seeing[0]
    return model, padded(model), [(layer, 1), (layer, 2)]


@torch.no_grad()
@pytest.mark.parametrize("kind", SETTINGS)
def test_exposure_is_the_slow_loop_over_patterns_without_and_with_the_edit(case, kind):
    model, inputs, heads = case
    layer, hooks = heads[0][0], hooks_of(kind, inputs, heads)
    point, without, after = f"blocks.{layer}.attn.hook_attn_scores", Saved(), Saved()
    slow = model.generate(inputs, fwd_hooks=[(point, without), *hooks, (point, after)], **STEPS)
    generation = model.generate(inputs, fwd_hooks=hooks, exposure=True, **STEPS)
    assert torch.equal(slow.sequences, generation.sequences)
    found = {(e["row"], e["step"], e["head"], e["target"]): e for e in generation.exposure.rows()}
    expected = set()
    for (before, place), (edited, _) in zip(without.patterns, after.patterns, strict=True):
        step = place.queries[-1] - (inputs.layout.length - 1)
        for edit in dict.fromkeys(edit for _, edit in hooks):
            gate, region = edit.gate(place), edit.steered_to
            for row in range(2):
                padding = (slow.tokens[row, step:] == model.tokenizer.pad_token_id).all()  # written by chance
                if not gate[row % len(gate), -1] or padding:
                    continue
                for head in edit.heads_in(layer):
                    args = place, inputs, row, region, region.weight_of[row]
                    old, new = (sums(pattern[row, head, -1], *args) for pattern in (before, edited))
                    entry = found[row, step, head, region.name]
                    expected.add((row, step, head, region.name))
                    assert entry["mass"] == pytest.approx(new["target"], abs=2e-5)
                    assert entry["mass_without"] == pytest.approx(old["target"], abs=2e-5)
                    assert entry["weighted_mass"] == pytest.approx(new["weighted"], abs=2e-5)
                    assert entry["weighted_without"] == pytest.approx(old["weighted"], abs=2e-5)
                    for name in ("others", "prompt", "generated", "sink"):
                        assert entry[f"from_{name}"] == pytest.approx(old[name] - new[name], abs=2e-5)
                    gained = sum(entry[f"from_{name}"] for name in ("others", "prompt", "generated", "sink"))
                    assert entry["mass"] - entry["mass_without"] == pytest.approx(gained, abs=1e-5)
    assert set(found) == expected
    assert {entry["layer"] for entry in found.values()} == {layer}
    assert len({step for _, step, *_ in expected}) == (3 if kind == "suppressed text" else 4)


@torch.no_grad()
def test_the_edit_itself_changes_nothing_by_being_read_and_a_second_run_is_the_same(model):
    inputs = padded(model)
    hooks = [*hooks_of("mass", inputs, [(1, 1), (1, 2)]), *gl.steer(["L2H0"], inputs.region(BOX, image=0))]
    plain = model.generate(inputs, fwd_hooks=hooks, output_logits=True, **STEPS)
    read = model.generate(inputs, fwd_hooks=hooks, output_logits=True, exposure=True, **STEPS)
    assert all(map(torch.equal, plain.logits, read.logits))
    again = model.generate(inputs, fwd_hooks=hooks, exposure=True, **STEPS)
    assert again.exposure.rows() == read.exposure.rows()
    assert plain.exposure is None
    masses = read.exposure.to_frame().query("layer == 1").mass
    assert len(masses) == 2 * 2 * 4
    assert masses.tolist() == pytest.approx([0.7] * 16, abs=1e-5)
    static = model.generate(inputs, fwd_hooks=hooks, exposure=True, cache_implementation="static", **STEPS)
    np.testing.assert_allclose(static.exposure.masses, read.exposure.masses, atol=1e-5)
    without_cache = model.generate(inputs, fwd_hooks=hooks, exposure=True, use_cache=False, **STEPS)
    np.testing.assert_allclose(without_cache.exposure.masses, read.exposure.masses, atol=1e-5)
    assert (without_cache.exposure.places == read.exposure.places).all()


@torch.no_grad()
def test_what_is_shown_and_written(model):
    inputs = model.prepare(picture(96, 64), "What?")
    exposure = model.generate(
        inputs, fwd_hooks=gl.steer(["L1H1", "L2H0"], inputs.region(BOX), mass=0.7), exposure=True, **STEPS
    ).exposure
    frame = exposure.to_frame()
    assert len(frame) == len(exposure) == 8
    assert repr(exposure).startswith(
        "Exposure of 2 heads over 4 steps: mass on box 0 0 48 64 0.700, without the edit 0."
    )
    lines = exposure.to_jsonl().splitlines()
    assert [json.loads(line) for line in lines] == exposure.rows()
    mean = exposure.mean()
    for name, value in mean.items():
        assert value == pytest.approx(frame[name].mean(), abs=1e-9)
    assert exposure.mean(0) == mean
    assert exposure.mean(1) is None
    assert mean["from_others"] + mean["from_prompt"] + mean["from_sink"] > 0.1


@torch.no_grad()
def test_a_learned_sink_counts_as_the_sink_and_text_has_surroundings():
    model = HookedVLM.wrap(*testing.tiny("GptOssForCausalLM"))
    inputs = model.prepare(None, "one red dog, two blue cats")
    region = inputs.region(inputs.span("red dog"), around=inputs.span("one red dog, two"))
    hooks, points = gl.steer(["L1H1"], region, mass=0.6), "blocks.1.attn.hook_pattern"
    patterns = []
    for extra in ([], hooks):
        with model.hooks(extra):
            patterns.append(model.run_with_cache(inputs, names_filter=points)[1][points][0, 1, -1].double())
    before, edited = patterns
    exposure = model.generate(inputs, fwd_hooks=hooks, exposure=True, max_new_tokens=1).exposure
    (entry,) = exposure.rows()
    first, inside = min(inputs.layout.text[0]), list(region.positions[0])
    sink = [1 - pattern.sum() + pattern[first] for pattern in patterns]
    assert entry["mass"] == pytest.approx(0.6, abs=1e-5)
    assert entry["mass_without"] == pytest.approx(before[inside].sum().item(), abs=1e-5)
    assert entry["from_sink"] == pytest.approx((sink[0] - sink[1]).item(), abs=1e-5)
    others = list(region.others[0])
    assert first not in others
    assert entry["from_others"] == pytest.approx((before[others] - edited[others]).sum().item(), abs=1e-5)


@torch.no_grad()
def test_samples_switches_and_hand_made_edits(model):
    inputs = model.prepare(picture(96, 64), "What?")
    keys = Positions(inputs.region(BOX).positions)
    edit = MassEdit(HeadSet(["L1H1"]), Positions.everything(), keys, 0.7, layout=inputs.layout)
    switch = SwitchableBias(edit.heads)
    switch.to(edit)
    options = {"do_sample": True, "num_return_sequences": 3, "exposure": True, **STEPS}
    torch.manual_seed(0)
    direct = model.generate(inputs, fwd_hooks=edit.hooks(), **options)
    torch.manual_seed(0)
    switched = model.generate(inputs, fwd_hooks=switch.hooks(), **options)
    assert direct.exposure.rows() == switched.exposure.rows()
    assert {(e["row"], e["step"]) for e in direct.exposure.rows()} == {(r, s) for r in range(3) for s in range(4)}
    assert {e["target"] for e in direct.exposure.rows()} == {str(keys)}
    assert [e["mass"] for e in direct.exposure.rows()] == pytest.approx([0.7] * 12, abs=1e-5)
    knocked = gl.knockout(["L1H1"], Positions.everything(), inputs.region(BOX))
    exposure = model.generate(inputs, fwd_hooks=knocked, exposure=True, max_new_tokens=1).exposure
    assert exposure.mean()["mass"] == 0
    assert exposure.mean()["mass_without"] > 0.01


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"names_filter": "blocks.1.attn.hook_pattern"}], ids=["fast", "matrices"])
def test_under_a_condition_only_the_steps_count_in_which_it_holds(model, options):
    inputs = padded(model)
    asked = []

    def every_second(logits):
        asked.append(logits)
        return logits is not None and torch.tensor([len(asked) % 2 == 0, True])

    hooks = gl.steer(["L1H1"], inputs.region(BOX, image=0), mass=0.7, when=every_second)
    exposure = model.generate(inputs, fwd_hooks=hooks, exposure=True, **STEPS, **options).exposure
    assert len(asked) == 4
    assert {(e["row"], e["step"]) for e in exposure.rows()} == {(0, 1), (0, 3), (1, 1), (1, 2), (1, 3)}
    assert [e["mass"] for e in exposure.rows()] == pytest.approx([0.7] * 5, abs=1e-5)


@torch.no_grad()
def test_steps_after_the_end_of_a_text_are_left_out(model):
    inputs = padded(model)
    plain = model.generate(inputs, max_new_tokens=4, min_new_tokens=4).tokens
    hooks = gl.steer(["L1H1"], inputs.region(BOX, image=0), at_least=1e-6)  # acts on next to nothing
    end = int(plain[0, 1])
    generation = model.generate(inputs, fwd_hooks=hooks, exposure=True, max_new_tokens=4, eos_token_id=end)
    steps = [sorted(e["step"] for e in generation.exposure.rows() if e["row"] == row) for row in (0, 1)]
    lengths = lengths_of(generation.tokens, torch.tensor([end]), model.tokenizer.pad_token_id)
    assert [len(of_row) for of_row in steps] == lengths.tolist()
    assert steps[0] == [0, 1]


def test_lengths():
    tokens = torch.tensor([[5, 2, 0, 0], [5, 6, 7, 8], [5, 6, 0, 0], [2, 2, 2, 2], [5, 0, 6, 2]])
    assert lengths_of(tokens, torch.tensor([2]), 0).tolist() == [2, 4, 2, 1, 4]
    assert lengths_of(tokens, torch.tensor([2]), None).tolist() == [2, 4, 4, 1, 4]
    assert lengths_of(tokens, torch.tensor([], dtype=torch.long), 2).tolist() == [4, 4, 4, 0, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fwd_hooks": []}, "exposure=True was given without an edit of scores"),
        ({"num_beams": 2}, "num_beams=2: a beam's text comes out of several rows"),
    ],
)
def test_what_has_no_exposure_is_refused(model, options, message):
    inputs = model.prepare(picture(96, 64), "What?")
    with pytest.raises(InputError, match=message):
        model.generate(inputs, exposure=True, **{"fwd_hooks": hooks_of("mass", inputs, [(1, 1)]), **options})
    edit = MassEdit(HeadSet(["L1H1"]), Positions.everything(), Positions.of([1]), 0.7)
    with pytest.raises(InputError, match="raw tokens, which have no regions"):
        model.generate(inputs.input_ids[:, -4:], fwd_hooks=edit.hooks(), exposure=True)
