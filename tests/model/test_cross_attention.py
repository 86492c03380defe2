"""Cross-attention: image tokens that are keys of some layers and positions of none; against Hugging Face and loops.

The pictures are four tiles in a row, 56 pixels each, and nothing is padded: key `tile * 17` is a class token, and
`tile * 17 + 1 + row * 4 + column` a patch. Layers 1 and 3 of five attend to them.
"""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from reference import eager, slow_bias
from transformers import GenerationConfig

import gaze_lens as gl
from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.forward_state import ForwardState
from gaze_lens.attention.positions import CONTEXT_KEY, STATE_KEY, Positions, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.errors import HookError, InputError, MemoryLimitError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.interventions.steering import Mode
from gaze_lens.regions.layout import Layout
from gaze_lens.regions.picture import Picture, panels

CROSS, SELF = (1, 3), (0, 2, 4)
STEPS = {"max_new_tokens": 5, "min_new_tokens": 5}


def picture(n=4, seed=0):
    """Columns of 224 / n pixels, over four tiles."""
    pixels = np.random.default_rng(seed).integers(0, 256, (56, 224, 3), dtype=np.uint8)
    return Picture(Image.fromarray(pixels), panels(n, 224, 56))


def panel_keys(n):
    """For each of n panels its keys, by where their patches are."""
    found = [set() for _ in range(n)]
    for tile in range(4):
        for row in range(4):
            for column in range(4):
                x = tile * 56 + column * 14 + 7
                found[int(x * n / 224)].add(tile * 17 + 1 + row * 4 + column)
    return found


@pytest.fixture
def model(shelf):
    return shelf.get("Mllama")[0]


@pytest.fixture
def plain(shelf):
    return shelf.get("Mllama")[1]


@pytest.fixture
def inputs(model):
    return model.prepare(picture(), "What is going on?")


@pytest.fixture
def batch(model):
    """One image and two, the first row padded on the left: [row, key] is 2 x 136, and row 0 has 68 keys."""
    return model.prepare([picture(), [picture(seed=1), picture(seed=2)]], ["What?", "What is going on in here?"])


def names(layers, point):
    return [f"blocks.{layer}.attn.{point}" for layer in layers]


def captured(model, inputs, point, hooks=(), layers=range(5)):
    """For each layer, what its hook point held."""
    kept = {}
    save = [(name, lambda tensor, hook: kept.update({hook.layer(): tensor.clone()})) for name in names(layers, point)]
    with torch.no_grad():
        model.run_with_hooks(inputs, fwd_hooks=[*hooks, *save])
    return kept


# What a model hands to the hooks


@torch.no_grad()
def test_patterns_of_all_layers_are_those_of_eager_attention(model, plain, batch):
    expected = eager(plain)(**batch.tensors, output_attentions=True).attentions
    real = batch.tensors["attention_mask"].bool()
    for layer, pattern in captured(model, batch, "hook_pattern").items():
        assert pattern.shape[-1] == (136 if layer in CROSS else batch.shape[1])
        difference = (pattern - expected[layer]).transpose(1, 2)[real]
        assert difference.abs().max() < 1e-6


def test_a_layers_place_says_whether_it_is_crossed(model, batch):
    places = {}

    def keep(tensor, hook):
        places.setdefault(hook.layer(), []).append(QueryKeyPositions.of(tensor, hook))

    with model.hooks([(name, keep) for name in names(range(5), "hook_pattern")]):
        model.generate(batch, **STEPS)
    length = batch.shape[1]
    for layer in range(5):
        assert [place.cross_attention for place in places[layer]] == [layer in CROSS] * 5
        assert [place.query_start for place in places[layer]] == [0, *range(length, length + 4)]
        assert [place.step for place in places[layer]] == list(range(5))
        assert all(place.layout == batch.layout for place in places[layer])
    assert {(place.key_start, place.n_keys) for layer in CROSS for place in places[layer]} == {(0, 136)}
    assert [place.n_keys for place in places[0]] == [length + step for step in range(5)]


def test_text_runs_without_its_cross_layers(model):
    text = model.prepare(None, "no image at all")
    assert text.layout.n_keys == 0
    seen = []
    model.run_with_hooks(
        text, fwd_hooks=[(n, lambda t, hook: seen.append(hook.layer())) for n in names(range(5), "hook_pattern")]
    )
    assert seen == list(SELF)


# Layouts, regions, heat maps


def test_a_region_is_its_keys(inputs, batch):
    assert inputs.layout.cross_attention
    for n, keys in enumerate(panel_keys(4)):
        region = inputs.region(f"panel {n + 1}")
        assert set(region.positions[0]) == keys
        assert set(region.others[0]) == set(range(68)) - keys
    second = batch.region("panel 2", image=0)
    assert [set(row) for row in second.positions] == [panel_keys(4)[1]] * 2
    with pytest.raises(RegionError, match="Row 0 has no image 1"):
        batch.region("panel 2", image=1)
    assert set(batch.positions_of("panel 2", row=1, image=1)) == {68 + key for key in panel_keys(4)[1]}


def test_a_layout_counts_keys_and_columns_apart():
    layout = Layout(5, ((0, 1, 2, 60), (0, 1)), ((0, 1, 2), (1, 2)), (((9, 9),),) * 2, True, ((1,), (2,)))
    assert layout.n_keys == 61
    assert layout.after_images == (2, 3)
    assert "6 image keys" in repr(layout)
    plain = Layout(5, ((1, 2), (3,)), ((0,), (4,)), (((9, 9),),) * 2)
    assert plain.n_keys == 5
    assert plain.after_images == (3, 4)
    assert layout != Layout(5, ((0, 1, 2, 60), (0, 1)), ((0, 1, 2), (1, 2)), (((9, 9),),) * 2, True, ((1,), (1,)))
    with pytest.raises(RegionError, match="Positions 7 lie outside a prompt of 5 columns"):
        Layout(5, ((0,),), ((1,),), (((9, 9),),), True, ((7,),))


def test_strings_are_those_of_the_prompt(inputs, batch):
    assert inputs.str_tokens().count("<|image|>") == 1
    assert "".join(inputs.str_tokens()) == inputs.prompts[0]
    assert [batch.str_tokens(row).count("<|image|>") for row in (0, 1)] == [1, 2]
    assert "<|endoftext|>" not in batch.str_tokens(0, collapse=True)
    assert len(inputs.text_positions[0]) == inputs.shape[1]


@torch.no_grad()
def test_a_heat_map_holds_each_patchs_attention(model, inputs):
    row = captured(model, inputs, "hook_pattern", layers=[1])[1][0, 2, -1]
    heat = inputs.heatmap(row)
    assert heat.shape == (56, 224)
    for tile, patch_row, column in np.ndindex(4, 4, 4):
        box = heat[patch_row * 14 : patch_row * 14 + 14, tile * 56 + column * 14 : tile * 56 + column * 14 + 14]
        assert torch.equal(box, row[tile * 17 + 1 + patch_row * 4 + column].expand(14, 14))
    with pytest.raises(InputError, match="were given for 68 keys of the cross-attention layers"):
        inputs.heatmap(row[:60])


# Biases and readers, as ordinary functions on tensors


class Point:
    """A hook point as a hook sees it."""

    def __init__(self, layer, place, point="hook_attn_scores"):
        self.name, self.ctx, self._layer = f"blocks.{layer}.attn.{point}", {CONTEXT_KEY: place}, layer

    def layer(self):
        return self._layer


@pytest.mark.parametrize("cross_attention", [False, True])
def test_a_group_of_keys_acts_in_its_own_kind_of_layer(cross_attention):
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 6, 9)
    scores[:, :, :, 7] = torch.finfo(torch.float32).min
    place = QueryKeyPositions(20, 6, 0 if cross_attention else 17, 9, None, cross_attention)
    groups = (
        (Positions(((0, 3, 18, 21), (2, 19)), cross_attention=True), 2.0),
        (Positions(((0, 3, 18, 21), (19,))), -1.5),
        (Positions.everything(cross_attention=True), 0.25),
    )
    bias = AttentionBias(
        HeadSet(["L1H0", "L1H2"]),
        Positions(((21, 24), (20,))),
        tuple(k for k, _ in groups),
        tuple(v for _, v in groups),
    )
    point = Point(1, place)
    state = point.ctx[STATE_KEY] = ForwardState(None, 26)
    found = bias(scores, point)
    first = place.key_start
    listed = [
        ([{p - first for p in row} if keys.start else set(range(9)) for row in (keys.rows[0], keys.rows[-1])], value)
        for keys, value in groups
        if keys.cross_attention == cross_attention
    ]
    seen = scores[:, 0] > torch.finfo(torch.float32).min / 2
    added = slow_bias((2, 4, 6, 9), {0, 2}, [{1, 4}, {0}], listed, seen)
    assert added.abs().max() > 1
    expected = torch.where(seen[:, None], scores + added, scores).softmax(-1)
    torch.testing.assert_close(found.softmax(-1), expected.float(), atol=1e-6, rtol=0)
    assert torch.equal(found[:, [1, 3]], scores[:, [1, 3]])
    assert state.acted == {bias: {1: 1}}


@pytest.mark.parametrize("cross_attention", [False, True])
def test_without_keys_of_a_layers_kind_a_bias_does_nothing(cross_attention):
    scores = torch.randn(1, 4, 6, 9)
    bias = AttentionBias(
        HeadSet(["L1H0"]), Positions.everything(), Positions.of([1, 2], cross_attention=not cross_attention), 3.0
    )
    point = Point(1, QueryKeyPositions(0, 6, 0, 9, None, cross_attention))
    state = point.ctx[STATE_KEY] = ForwardState(None, 6)
    assert bias(scores, point) is scores
    assert state.acted == {}


def test_layers_of_both_kinds_may_take_turns():
    scores = torch.zeros(1, 4, 6, 6)
    keys = (Positions.of([1], cross_attention=True), Positions.of([4]))
    bias = AttentionBias(HeadSet(["L0H0", "L1H0"]), Positions.everything(), keys, (3.0, 3.0))
    for _ in range(2):
        for layer in (0, 1):
            found = bias(scores, Point(layer, QueryKeyPositions(0, 6, 0, 6, None, layer == 1)))
            assert found[0, 0].argmax(-1).tolist() == [1 if layer else 4] * 6


def test_queries_are_never_crossed():
    with pytest.raises(InputError, match="cross_attention=True for its queries"):
        AttentionBias(HeadSet(["L1H0"]), Positions.of([1], cross_attention=True), Positions.of([1]), 3.0)


def test_a_reader_gets_its_rows_and_a_crossed_place():
    got = []
    reader = RowReader(
        Positions.of([21]), lambda rows, positions, place, layer: got.append((rows, positions, place, layer))
    )
    pattern, place = torch.rand(2, 4, 6, 9), QueryKeyPositions(20, 6, 0, 9, None, True)
    reader(pattern, Point(3, place, "hook_pattern"))
    assert torch.equal(got[0][0], pattern[:, :, [1]])
    assert got[0][1:] == ([21], place, 3)


# Steering


HEADS = ["L1H0", "L1H3", "L3H2"]


def expected_patterns(inputs, region, scores, layer, heads, mode, queries):
    """Softmax of scores and bias, in double precision. queries: for each row, the columns that are steered."""
    seen = scores[:, 0] > torch.finfo(scores.dtype).min / 2
    rows, length = range(inputs.n_rows), inputs.shape[1]
    text = [set(torch.nonzero(inputs.tensors["attention_mask"][row])[:, 0].tolist()) for row in rows]
    target = [set(row) for row in region.positions]
    others = [set(keys) - mine for keys, mine in zip(inputs.layout.images, target, strict=True)]
    generated = [set(range(length, scores.shape[-1]))] * len(text)
    groups = [(target, mode.target), (others, mode.others)]
    groups = groups if layer in CROSS else [(text, mode.prompt), (generated, mode.generated)]
    added = slow_bias(scores.shape, heads, queries, groups, seen)
    return torch.where(seen[:, None], scores + added, scores.double()).softmax(-1)


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("where", [["prefill"], ["after image"]], ids=str)
def test_steering_changes_the_chosen_heads_as_a_softmax_by_hand(model, batch, where, fast, as_published):
    region, mode = batch.region(["panel 2", "panel 3"], image=0), Mode(2.5, -1.0)
    steering = gl.steer(HEADS, region, mode=mode, where=where, as_published=as_published)
    plain_scores = captured(model, batch, "hook_attn_scores", layers=[1])[1]
    first = [0, 0] if where == ["prefill"] else [max(row) + 1 for row in batch.layout.placeholders]
    queries = [set(range(start, batch.shape[1])) for start in first]
    expected = expected_patterns(batch, region, plain_scores, 1, {0, 3}, mode, queries)
    if fast:  # what the biased kernel mixes, against the same mixture of values by hand
        mixed = captured(model, batch, "hook_z", steering, layers=[1])[1]
        values = captured(model, batch, "hook_v", layers=[1])[1].repeat_interleave(2, dim=2).double()
        found, wanted = mixed.reshape(2, -1, 4, 16).double(), torch.einsum("bhqk,bkhd->bqhd", expected, values)
    else:
        found, wanted = captured(model, batch, "hook_pattern", steering, layers=[1])[1].double(), expected
        untouched = captured(model, batch, "hook_pattern", layers=[1])[1]
        assert torch.equal(found[:, [1, 2]].float(), untouched[:, [1, 2]])
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


def test_saturated_steering_sends_all_mass_to_the_target_in_every_step(model, inputs):
    region = inputs.region("panel 3")
    generation = model.generate(
        inputs, fwd_hooks=gl.steer(HEADS, region), names_filter=lambda name: name.endswith("hook_pattern"), **STEPS
    )
    for layer in CROSS:
        chosen = [head for name, head in (("L1", 0), ("L1", 3), ("L3", 2)) if name == f"L{layer}"]
        for pattern in generation.activations[f"blocks.{layer}.attn.hook_pattern"]:
            mass = pattern[..., sorted(panel_keys(4)[2])].sum(-1)
            assert (mass[:, chosen] > 0.9999).all()
            rest = [head for head in range(4) if head not in chosen]
            assert mass[:, rest].max() < 0.99


def test_prompt_and_generated_tokens_are_steered_in_the_other_layers(model, inputs):
    region, mode = inputs.region("panel 3"), Mode(0.0, -2.0, prompt=-1.5, generated=3.0)
    heads, before = ["L0H1", "L1H1"], {}

    def keep(tensor, hook):
        before.setdefault(hook.layer(), []).append(tensor.clone())

    watch = [(name, keep) for name in names((0, 1), "hook_attn_scores")]
    generation = model.generate(
        inputs, fwd_hooks=[*watch, *gl.steer(heads, region, mode=mode)],
        names_filter=lambda name: name.endswith("hook_pattern"), **STEPS,
    )  # fmt: skip
    for layer in (0, 1):
        for step, pattern in enumerate(generation.activations[f"blocks.{layer}.attn.hook_pattern"]):
            scores = before[layer][step]
            queries = [set(range(scores.shape[2]))]
            expected = expected_patterns(inputs, region, scores, layer, {1}, mode, queries)
            torch.testing.assert_close(pattern.double(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("heads", "mode", "idle"),
    [
        (["L1H0", "L2H0"], None, r"layers \[2\]"),
        (["L0H0"], gl.suppress_image(3.0), r"layers \[0\]"),
        (["L0H0", "L3H1"], Mode(0.0, 0.0, prompt=-2.0), r"layers \[3\]"),
    ],
    ids=["image in a self-attention layer", "only there", "text in a cross layer"],
)  # fmt: skip
def test_a_head_whose_layer_has_nothing_to_act_on_is_an_error(model, inputs, heads, mode, idle):
    steering = gl.steer(heads, inputs.region("panel 3"), mode=mode)
    with pytest.raises(HookError, match=f"did nothing in {idle}"):
        model.run_with_hooks(inputs, fwd_hooks=steering)
    if heads != ["L0H0", "L3H1"]:
        with pytest.raises(HookError, match="16 listed positions among the keys of cross-attention layers|52 listed"):
            model.run_with_hooks(inputs, fwd_hooks=steering)


def test_a_schedule_moves_the_mass_from_step_to_step(model, inputs):
    schedule = [(0, inputs.region("panel 1")), (2, inputs.region("panel 4")), (4, inputs.region("panel 2"))]
    generation = model.generate(
        inputs, fwd_hooks=gl.steer(["L3H1"], schedule=schedule), names_filter="blocks.3.attn.hook_pattern", **STEPS
    )
    keys = panel_keys(4)
    for step, pattern in enumerate(generation.activations["blocks.3.attn.hook_pattern"]):
        mass = [float(pattern[0, 1, -1, sorted(panel)].sum()) for panel in keys]
        assert int(np.argmax(mass)) == [0, 0, 3, 3, 1][step]
        assert max(mass) > 0.9999


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}], ids=str)
def test_beams_keep_their_rows_target(model, batch, options):
    steering = gl.steer(HEADS, batch.region(["panel 2", "panel 3"], image=0))
    generation = model.generate(
        batch, fwd_hooks=steering, names_filter="blocks.1.attn.hook_pattern", **STEPS, **options
    )
    for pattern in generation.activations["blocks.1.attn.hook_pattern"]:
        beams = pattern.shape[0] // 2
        for row, panel in enumerate((1, 2)):
            mass = pattern[row * beams : (row + 1) * beams, [0, 3], -1][..., sorted(panel_keys(4)[panel])].sum(-1)
            assert (mass > 0.9999).all()


def test_knocking_out_the_image_changes_only_cross_layers(model, inputs):
    keys = Positions.of(panel_keys(4)[0], cross_attention=True)
    bias = AttentionBias(HeadSet(["L1H2"]), Positions.everything(), keys, -math.inf, layout=inputs.layout)
    found = captured(model, inputs, "hook_pattern", bias.hooks(), layers=[0, 1])
    usual = captured(model, inputs, "hook_pattern", layers=[0, 1])
    assert torch.equal(found[0], usual[0])
    lost = sorted(panel_keys(4)[0])
    assert found[1][0, 2][:, lost].max() == 0
    rest = [key for key in range(68) if key not in lost]
    renormalised = usual[1][0, 2][:, rest] / usual[1][0, 2][:, rest].sum(-1, keepdim=True)
    torch.testing.assert_close(found[1][0, 2][:, rest], renormalised, atol=1e-6, rtol=1e-5)


# Scores and tracking


@torch.no_grad()
@pytest.mark.parametrize("n", [4, 8])
def test_scores_equal_a_slow_loop_and_are_zero_in_self_attention_layers(model, plain, n):
    strip = picture(n)
    found = gl.score_heads(model, [strip], progress=False).samples[0]
    attentive, keys = eager(plain), panel_keys(n)
    assert found.shape == (5, 4, n, n)
    for asked in range(n):
        question = model.prepare(strip, gl.comics.ask(asked))
        attentions = attentive(**question.tensors, output_attentions=True).attentions
        for layer, head, attended in np.ndindex(5, 4, n):
            mass = sum(float(attentions[layer][0, head, -1, key]) for key in keys[attended]) if layer in CROSS else 0
            assert float(found[layer, head, asked, attended]) == pytest.approx(mass, abs=1e-5)
    assert found[list(CROSS)].std() > 0.001
    assert (found[list(SELF)] == 0).all()


def test_strips_of_different_questions_score_alike_in_a_batch(model):
    strips = [picture(4), picture(8, seed=3)]
    alone = [gl.score_heads(model, [strip], progress=False).samples[0] for strip in strips]
    together = gl.score_heads(model, strips, batch_size=2, progress=False).samples
    torch.testing.assert_close(together[0, :, :, :4, :4], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together[1], alone[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_trajectory_is_the_sum_of_full_patterns(model, plain, inputs, weighted):
    heads = ["L3H1", "L0H2", "L1H0"]
    found = gl.track(model, inputs, heads, weighted=weighted, **STEPS)
    generation = model.generate(inputs, names_filter=lambda name: name.endswith("hook_pattern"), **STEPS)
    assert found.generation.tokens.tolist() == generation.tokens.tolist()
    with torch.no_grad():
        cache = plain(**inputs.tensors, use_cache=True).past_key_values
    norms = [layer.values[0].norm(dim=-1) for layer in cache.layers]
    for step, index, panel in np.ndindex(5, 3, 4):
        layer, head = int(heads[index][1]), int(heads[index][3])
        row = generation.activations[f"blocks.{layer}.attn.hook_pattern"][step][0, head, -1]
        weight = norms[layer][head // 2] if weighted else torch.ones(10**3)
        mass = sum(float(row[key] * weight[key]) for key in panel_keys(4)[panel]) if layer in CROSS else 0
        assert float(found.mass[step, index, panel]) == pytest.approx(mass, rel=1e-4, abs=1e-6)
    assert (found.mass[:, 1] == 0).all()
    assert found.mass[:, 0].min() > 0


# Encoded inputs


@torch.no_grad()
def test_encoded_images_give_the_same_logits_and_text(model, plain, batch):
    encoded = model.encode(batch)
    assert "pixel_values" not in encoded.tensors
    assert torch.equal(model(batch), model(encoded))
    again = model.encode(model.prepare([picture(), [picture(seed=1), picture(seed=2)]], ["A", "B"]), reuse=encoded)
    assert torch.equal(again.features.images[2]["tokens"], encoded.features.images[2]["tokens"])
    for options in ({}, {"num_beams": 2}, {"use_cache": False}, {"num_beams": 2, "num_return_sequences": 2}):
        expected = plain.generate(**batch.tensors, **STEPS, do_sample=False, **options)
        assert torch.equal(model.generate(batch, **STEPS, **options).sequences, expected)
        assert torch.equal(model.generate(encoded, **STEPS, **options).sequences, expected)


@torch.no_grad()
def test_a_static_cache_serves_encoded_images_or_says_that_it_is_too_small(model, plain, inputs, batch):
    static = {**STEPS, "cache_implementation": "static"}
    expected = plain.generate(**inputs.tensors, **STEPS, do_sample=False)
    assert torch.equal(model.generate(inputs, **static).sequences, expected)
    assert torch.equal(model.generate(model.encode(inputs), **static).sequences, expected)
    assert torch.equal(
        model.generate(batch, **static).sequences, plain.generate(**batch.tensors, **STEPS, do_sample=False)
    )
    with pytest.raises(
        InputError, match="room for 68 image keys, and these encoded images have 136.*before model.encode"
    ):
        model.generate(model.encode(batch), **static)


# Draft tokens

DRAFTS = ("prompt_lookup_num_tokens", "assistant_model")


@pytest.mark.parametrize("name", DRAFTS)
def test_draft_tokens_are_refused_as_hugging_face_refuses_them(model, plain, name):
    inputs = model.prepare(picture(), "what what what what")
    drafts = {name: 3 if name == "prompt_lookup_num_tokens" else plain}
    matrices = [(f"blocks.{layer}.attn.hook_pattern", lambda pattern, hook: None) for layer in range(5)]
    with pytest.raises(RuntimeError, match="must match the size of tensor b"):
        plain.generate(**inputs.tensors, max_new_tokens=8, do_sample=False, **drafts)
    for hooks in ([], matrices):
        with pytest.raises(InputError, match=f"{name} was given, and Mllama reads the image by cross-attention"):
            model.generate(inputs, max_new_tokens=8, fwd_hooks=hooks, **drafts)
    with model.hooks(matrices), pytest.raises(HookError, match=r"mask of layer 1 is over 68 keys, and there are 6\d"):
        model.original_model.generate(**inputs.tensors, max_new_tokens=8, do_sample=False, **drafts)
    text = model.prepare(None, "what what what what")
    expected = plain.generate(**text.tensors, max_new_tokens=8, do_sample=False, **drafts)
    assert torch.equal(model.generate(text, max_new_tokens=8, fwd_hooks=matrices, **drafts).sequences, expected)


def test_draft_tokens_of_a_config_are_refused(model, inputs, monkeypatch):
    config = GenerationConfig(prompt_lookup_num_tokens=2, max_new_tokens=2)
    with pytest.raises(InputError, match="prompt_lookup_num_tokens was given"):
        model.generate(inputs, generation_config=config)
    monkeypatch.setattr(model.original_model.generation_config, "prompt_lookup_num_tokens", 2)
    with pytest.raises(InputError, match="prompt_lookup_num_tokens was given"):
        model.generate(inputs, max_new_tokens=2)


# Figures


def test_a_figure_shows_the_attention_to_the_image(model, inputs):
    usual = captured(model, inputs, "hook_pattern", layers=[1])[1]
    plot = gl.show.attention_map(model, inputs, ["L1H2", "L0H1"])
    np.testing.assert_allclose(plot.data["attention"][0], usual[0, 2, -1], atol=1e-6)
    assert (plot.data["attention"][1] == 0).all()
    masses = [float(usual[0, 2, -1, sorted(keys)].sum()) for keys in panel_keys(4)]
    np.testing.assert_allclose(plot.data["on_regions"][0], masses, atol=1e-6)
    with pytest.raises(InputError, match=r"Position 50 is no token of row 0: expected 0 to"):
        gl.show.attention_map(model, inputs, ["L1H2"], position=50)


def test_the_memory_that_matrices_take_counts_the_images_keys(model, batch):
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(batch, names_filter=patterns)
    needed = sum(cache[name].nbytes for name in patterns)
    model.run_with_cache(batch, names_filter=patterns, max_bytes=needed)
    with pytest.raises(MemoryLimitError, match=f"{needed:,} bytes"):
        model.run_with_cache(batch, names_filter=patterns, max_bytes=needed - 1)
