"""A region's share of attention is what was asked for, in every row that can have it, and nothing else changes."""

import pytest
import torch
from reference import SLIDING, full, look, padded, picture

import gaze_lens as gl
from gaze_lens import HeadSet, HookedVLM, Positions, QueryKeyPositions, RowReader, testing
from gaze_lens.attention.mass_edit import MassEdit, check_mass
from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.errors import HookError, InputError

BOX = (0, 0, 48, 64)
# No mask, a sliding window and GQA, bidirectional images, cross-attention, a full prefix.
KINDS = [("Qwen3-VL", {}), ("Qwen2.5-VL", SLIDING), ("Gemma 3", {}), ("Mllama", {}), ("PaliGemma", {})]
# A soft cap, chunks, tiles, linear layers between.
MORE = [("PaliGemma 2", {}), ("Llama 4", {}), ("InternVL", {}), ("Qwen3.5", {})]
ROWS = [*KINDS, *(pytest.param(row, marks=pytest.mark.slow) for row in MORE)]
SETTINGS = [{"mass": 0.8}, {"mass": 0.05}, {"at_least": 0.3}, {"mass": 0.7, "keep": "image"}]


@pytest.fixture(params=ROWS, ids=[name for name, _ in [*KINDS, *MORE]])
def case(request, shelf):
    """A model, a padded batch, a region and heads in a layer that sees it."""
    family, options = request.param
    model, _ = shelf.get(family, **options)
    inputs = padded(model)
    layers = model.capabilities((96, 64)).seeing
    return model, inputs, inputs.region(BOX, image=0), [(layer, head) for layer in layers for head in (1, 2)]


def slow(pattern, row, query, share, region, pool, sink=0.0):
    """One row of a head's pattern with its mass set, by the definition."""
    weights = pattern.double().clone()
    inside = weights[region].sum()
    outside = weights[pool].sum() if pool is not None else 1.0 - inside  # the rest, and a sink
    if not len(region) or not inside > 0 or not outside > 0:
        return weights
    whole = inside + outside
    if share["floor"] and inside / whole >= share["mass"]:
        return weights
    m = share["mass"]
    if pool is None:
        weights *= (1 - m) / outside
        weights[region] = pattern.double()[region] * m / inside
    else:
        weights[region] *= m * whole / inside
        weights[pool] *= (1 - m) * whole / outside
    return weights


def expected(pattern, inputs, region, setting):
    """What a pattern `[batch, head, query, key]` becomes: a slow loop over its rows."""
    share = {"mass": setting.get("mass", setting.get("at_least")), "floor": "at_least" in setting}
    edited = pattern.double().clone()
    for row in range(len(pattern)):
        inside = list(region.positions[row])
        pool = list(region.others[row]) if "keep" in setting else None
        for head in range(pattern.shape[1]):
            for query in range(pattern.shape[2]):
                edited[row, head, query] = slow(pattern[row, head, query], row, query, share, inside, pool)
    return edited


def patterns(model, inputs, heads, hooks):
    """{layer: pattern} with hooks, where the heads are, from the full matrices."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer, _ in heads]
    with model.hooks(hooks):
        _, cache = model.run_with_cache(inputs, names_filter=lambda name: name in names)
    return {int(name.split(".")[1]): cache[name] for name in cache}


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_mass_is_what_was_asked_for_and_the_rest_keeps_its_proportions(case, setting):
    model, inputs, region, heads = case
    first = heads[:2]  # later layers read what these write
    plain = patterns(model, inputs, first, [])
    found = patterns(model, inputs, first, gl.steer(HeadSet(first), region, **setting))
    layer, chosen = first[0][0], [head for _, head in first]
    real = inputs.tensors["attention_mask"].bool()
    wanted = expected(plain[layer], inputs, region, setting)[:, chosen].transpose(1, 2)[real]
    got = found[layer][:, chosen].transpose(1, 2)[real]
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=0)
    others = [head for head in range(plain[layer].shape[1]) if head not in chosen]
    assert torch.equal(found[layer][:, others], plain[layer][:, others])
    assert (found[layer] != plain[layer]).any()


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_beside_the_kernel_it_is_what_it_is_on_the_full_matrices(case, setting):
    model, inputs, region, heads = case
    hooks = gl.steer(HeadSet(heads), region, **setting)
    live = model.capabilities((96, 64)).live
    real = inputs.tensors["attention_mask"].bool()
    fast = model.run_with_hooks(inputs, fwd_hooks=hooks)[real]
    slowly = model.run_with_hooks(inputs, fwd_hooks=[*hooks, *full(live, look)])[real]
    torch.testing.assert_close(fast, slowly, atol=2e-5, rtol=0)
    assert (fast - model(inputs)[real]).abs().max() > 1e-3
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "names_filter": "unembed.hook_out"}
    runs = [model.generate(inputs, fwd_hooks=h, **options) for h in (hooks, [*hooks, *full(live, look)])]
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    for a, b in zip(*(run.activations["unembed.hook_out"] for run in runs), strict=True):
        torch.testing.assert_close(a[:, -1], b[:, -1], atol=2e-5, rtol=0)


@torch.no_grad()
def test_readers_see_the_mass_in_prefill_and_in_every_step(case):
    model, inputs, region, heads = case
    seen = []

    def read(rows, positions, place, layer):
        for row, keys in enumerate(region.positions):
            offsets = [key - place.key_start for key in keys if key >= place.key_start]
            seen.extend(rows[row, head, -1, offsets].sum().item() for at, head in heads if at == layer)

    last = Positions.since(inputs.last_position)
    readers = [(f"blocks.{layer}.attn.hook_pattern", RowReader(last, read)) for layer in dict.fromkeys(dict(heads))]
    hooks = gl.steer(HeadSet(heads), region, mass=0.6)
    model.generate(inputs, fwd_hooks=[*hooks, *readers], max_new_tokens=3, min_new_tokens=3)
    can = [mass for mass in seen if mass]  # a sliding window may have left the region
    assert len(can) >= 3 * 2
    assert can == pytest.approx([0.6] * len(can), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_in_bfloat16_it_is_right_to_a_hundredth(setting):
    hf_model, processor = testing.tiny("Qwen3-VL", scale=0.4)
    model = HookedVLM.wrap(hf_model.bfloat16(), processor)
    inputs = padded(model)
    region, heads = inputs.region(BOX, image=0), [(1, 1), (1, 2)]
    found = patterns(model, inputs, heads, gl.steer(HeadSet(heads), region, **setting))[1].float()
    plain = patterns(model, inputs, heads, [])[1].float()
    for row in range(len(found)):
        inside, around = list(region.positions[row]), list(region.surroundings[row])
        mass, before = (p[row, 1:3, -1][:, inside].sum(-1) for p in (found, plain))
        image = plain[row, 1:3, -1][:, around].sum(-1) if "keep" in setting else torch.ones(2)
        wanted = torch.full((2,), setting.get("mass", 0.0)) * image
        wanted = before.clamp(min=setting["at_least"]) if "at_least" in setting else wanted
        torch.testing.assert_close(mass, wanted, atol=1e-2, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["Qwen3-VL", "Qwen2.5-VL"])
def test_what_comes_before_the_region_is_as_it_was_in_a_prompt_of_several_blocks(name, dtype):
    hf_model, processor = testing.tiny(name)
    model = HookedVLM.wrap(hf_model.to(dtype), processor)
    inputs = model.prepare(picture(96, 64), "word " * 60 + "What is there?")
    region = inputs.region(inputs.span("What"), around="text")
    before = region.positions[0][0]
    assert before > 256
    heads = [(layer, 1) for layer in range(model.cfg.n_layers)]
    plain, found = model(inputs), model.run_with_hooks(inputs, fwd_hooks=gl.steer(heads, region, mass=0.8))
    assert torch.equal(found[:, :before], plain[:, :before])
    assert not torch.equal(found[:, before:], plain[:, before:])


@torch.no_grad()
def test_rows_that_cannot_have_it_are_as_they_were_and_nothing_is_put_on_later_keys():
    model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
    inputs = model.prepare(picture(96, 64), "What is there?")
    later = range(inputs.layout.length - 4, inputs.layout.length)
    edit = MassEdit(HeadSet(["L1H1"]), Positions.everything(), Positions.of(later), 0.9)
    plain = patterns(model, inputs, [(1, 1)], [])[1][0, 1]
    found = patterns(model, inputs, [(1, 1)], edit.hooks())[1][0, 1]
    assert torch.equal(found[: later[0]], plain[: later[0]])
    assert found.triu(1).eq(0).all()
    torch.testing.assert_close(found[later[0] :, list(later)].sum(-1), torch.full((4,), 0.9), atol=1e-5, rtol=0)
    whole = MassEdit(HeadSet(["L1H1"]), Positions.everything(), Positions.everything(), 0.9)
    with pytest.raises(HookError, match="did nothing in layers"):
        model.run_with_hooks(inputs, fwd_hooks=whole.hooks())


@torch.no_grad()
def test_an_attention_sink_is_a_part_of_the_rest():
    """GPT-OSS: a row's weights add up to less than 1."""
    model = HookedVLM.wrap(*testing.tiny("GptOssForCausalLM"))
    inputs = model.prepare(None, "one red dog, two blue cats")
    region = inputs.region(inputs.span("red dog"), around="text")
    last, inside = inputs.last_position, list(region.positions[0])
    hooks = gl.steer(["L1H1"], region, mass=0.6)
    plain, found = (patterns(model, inputs, [(1, 1)], h)[1][0, 1] for h in ([], hooks))
    assert plain[last].sum() < 0.99
    rest = [key for key in range(last + 1) if key not in inside]
    assert found[last, inside].sum().item() == pytest.approx(0.6, abs=1e-5)
    scale = 0.4 / (1 - plain[last, inside].sum())
    torch.testing.assert_close(found[last, rest], plain[last, rest] * scale, atol=1e-6, rtol=1e-4)
    fast = model.run_with_hooks(inputs, fwd_hooks=hooks)
    slowly = model.run_with_hooks(inputs, fwd_hooks=[*hooks, *full(range(4), look)])
    torch.testing.assert_close(fast, slowly, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_schedule_and_chosen_rows(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = padded(model)
    left, right = inputs.region(BOX, image=0), inputs.region((48, 0, 96, 64), image=0)
    seen = []

    def read(rows, positions, place, layer):
        seen.append([rows[row, 1, -1, list(r.positions[row])].sum().item() for row in (0, 1) for r in (left, right)])

    reader = ("blocks.1.attn.hook_pattern", RowReader(Positions.since(inputs.last_position), read))
    hooks = gl.steer(["L1H1"], schedule=[(0, left), (2, right)], mass=0.7, rows=[0])
    generation = model.generate(inputs, fwd_hooks=[*hooks, reader], max_new_tokens=4, min_new_tokens=4)
    assert [step[0] for step in seen[:2]] == pytest.approx([0.7] * 2, abs=1e-5)
    assert [step[1] for step in seen[2:]] == pytest.approx([0.7] * 2, abs=1e-5)
    plain = []
    seen, kept = plain, seen
    assert not any(abs(mass - 0.7) < 1e-4 for step in kept for mass in step[2:])
    assert sum(layers[1] for layers in generation.acted.values()) == 4


def test_gradients_are_those_of_the_full_matrices_and_survive_checkpointing():
    def gradients(extra, checkpointing):
        model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
        model.original_model.train()
        if checkpointing is not None:
            model.original_model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
            model.original_model.enable_input_require_grads()
        inputs = padded(model)
        hooks = gl.steer(["L1H1", "L2H0"], inputs.region(BOX, image=0), mass=0.8)
        with model.hooks([*hooks, *extra]):
            model(inputs, use_cache=False)[:, -1].square().sum().backward()
        named = model.original_model.named_parameters()
        return {name: weight.grad for name, weight in named if weight.grad is not None}

    plain, full_matrices = gradients([], None), gradients(full(range(4), look), None)
    assert all(gradient.isfinite().all() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, full_matrices[name], atol=2e-4, rtol=2e-3)
    for reentrant in (False, True):
        again = gradients([], reentrant)
        assert not [name for name in plain if not torch.equal(again[name], plain[name])]


@torch.no_grad()
def test_autocast_a_static_cache_and_a_second_run_with_the_same_hooks():
    model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
    inputs = padded(model)
    hooks = gl.steer(["L1H1", "L2H0"], inputs.region(BOX, image=0), mass=0.8)
    expected_logits = model.run_with_hooks(inputs, fwd_hooks=hooks)
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=hooks), expected_logits)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model.run_with_hooks(inputs, fwd_hooks=hooks)
    real = inputs.tensors["attention_mask"].bool()
    assert (coarse[real].float() - expected_logits[real]).abs().max() < 0.3
    tokens = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3).sequences
    static = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3, cache_implementation="static").sequences
    assert torch.equal(static, tokens)


@pytest.mark.slow
@torch.no_grad()
def test_it_acts_in_a_compiled_model():
    model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
    inputs = padded(model)
    hooks = gl.steer(["L1H1", "L2H0"], inputs.region(BOX, image=0), mass=0.8)
    expected_logits = model.run_with_hooks(inputs, fwd_hooks=hooks)
    model.original_model.compile()
    torch.testing.assert_close(model.run_with_hooks(inputs, fwd_hooks=hooks), expected_logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_it_is_an_ordinary_hook_on_any_bridge(pair):
    """On full scores, without anything that the attention function knows."""
    model, _ = pair
    inputs = model.prepare(picture(96, 64), "What?")
    edit = MassEdit(HeadSet(["L1H1"]), Positions.everything(), Positions.of(inputs.region(BOX).positions[0]), 0.8)
    scores = torch.randn(1, 4, 60, 60).masked_fill(torch.ones(60, 60).triu(1).bool(), torch.finfo(torch.float32).min)
    point = gl.HookedVLM.wrap(*testing.tiny("LlamaForCausalLM")).blocks[1].attn.hook_attn_scores
    pattern = edit(scores, point).softmax(-1)
    keys = [key for key in inputs.region(BOX).positions[0] if key < 60]
    last = pattern[0, 1, -1]
    assert QueryKeyPositions.of(scores, point).n_keys == 60
    assert last[keys].sum().item() == pytest.approx(0.8, abs=1e-5)
    assert pattern.triu(1).eq(0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mass": 0}, "mass=0 was given; give the region's share"),
        ({"mass": 1.0}, "mass=1.0 was given"),
        ({"mass": float("nan")}, "mass=nan was given"),
        ({"mass": True}, "mass=True was given"),
        ({"mass": 0.5, "at_least": 0.5}, "mass= and at_least= were given"),
        ({"mass": 0.5, "mode": gl.suppress_image()}, "mode= was given beside a mass"),
        ({"mass": 0.5, "as_published": True}, "as_published= was given beside a mass"),
        ({"keep": "image"}, "keep='image' was given without a mass"),
        ({"mass": 0.5, "keep": "text"}, "keep='text' was given; for region .* give keep=\"image\""),
    ],
)
def test_what_makes_no_mass_is_refused(model, options, message):
    inputs = model.prepare(picture(96, 64), "What?")
    with pytest.raises(InputError, match=message):
        gl.steer(["L1H1"], inputs.region(BOX), **options)


def test_a_text_is_no_mass():
    with pytest.raises(InputError, match="mass='0.5' was given"):
        check_mass("0.5")


def test_the_whole_image_has_all_of_its_mass(model):
    inputs = model.prepare(picture(96, 64), "What?")
    with pytest.raises(InputError, match="is the whole image: all of its mass is there"):
        gl.steer(["L1H1"], inputs.region("image 1"), mass=0.5, keep="image")


@torch.no_grad()
@pytest.mark.parametrize("seen", [False, True], ids=["beside the kernel", "full matrices"])
def test_a_mass_that_another_edit_would_change_is_refused(model, seen):
    inputs = model.prepare(picture(96, 64), "What?")
    region = inputs.region(BOX)
    mass = gl.steer(["L1H1"], region, mass=0.5)
    more = full(range(model.cfg.n_layers), look) if seen else []
    with pytest.raises(HookError, match="L1H1: its mass is set twice"):
        model.run_with_hooks(inputs, fwd_hooks=[*mass, *gl.steer(["L1H1"], region, at_least=0.2), *more])
    bias = gl.steer(["L1H1"], region, mode=gl.boost_and_suppress(1.0))
    with pytest.raises(HookError, match="L1H1: a bias is added after its mass is set"):
        model.run_with_hooks(inputs, fwd_hooks=[*mass, *bias, *more])
    found = patterns(model, inputs, [(1, 1)], [*bias, *mass])[1][0, 1, -1, list(region.positions[0])]
    assert found.sum().item() == pytest.approx(0.5, abs=1e-5)


class Halved(ScoreEdit):
    """An edit of a user's own, which the kernel does not know."""

    heads, queries, layout, rows, required = HeadSet(["L1H1"]), Positions.everything(), None, None, True
    acts_on = "all keys"

    def edited(self, scores, visible, _positions, _hook):
        return torch.where(visible, scores * 0.5, scores)


@torch.no_grad()
def test_an_edit_of_a_users_own_acts_on_the_full_matrices_also_in_a_switch(model):
    inputs = model.prepare(picture(96, 64), "What?")
    expected_logits = model.run_with_hooks(
        inputs, fwd_hooks=[("blocks.1.attn.hook_attn_scores", lambda scores, hook: Halved()(scores, hook))]
    )
    switch = SwitchableBias(Halved.heads)
    switch.to(Halved())
    assert not torch.equal(expected_logits, model(inputs))
    for hooks in (Halved().hooks(), switch.hooks()):
        assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=hooks), expected_logits)
