"""`AttentionBias` and `RowReader`: one meaning on the fast path, on full matrices, and on a bridge that is not ours."""

import copy
import itertools
import math

import pytest
import torch
import transformers
from packaging.version import Version
from reference import SLIDING, at_real, full, padded, picture, slow_attention, slow_bias, visible
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, StaticCache

from gaze_lens import AttentionBias, HeadSet, HookedVLM, Positions, QueryKeyPositions, RowReader, steer
from gaze_lens.attention import kernel_parts, kernels
from gaze_lens.errors import HeadError, HookError, InputError, RegionError
from gaze_lens.model.edit_checks import hook_list
from gaze_lens.regions.layout import Region
from gaze_lens.regions.picture import Picture, panels

VALUES = [3.0, -3.0, 1e4, -1e4, math.inf, -math.inf]
EVERYTHING = Positions.everything()


@pytest.fixture(scope="module")
def llava():
    """TransformerLens' own bridge of a LLaVA, which re-implements attention; inputs for it, the first row padded."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    text = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=100, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=99, vision_feature_layer=-1)
    config.architectures = ["LlavaForConditionalGeneration"]
    hf_model = LlavaForConditionalGeneration(config).eval()
    for parameter in hf_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.12)
    bridge = build_bridge_from_module(
        hf_model, "LlavaForConditionalGeneration", hf_config=config, tokenizer=None, model_name="llava"
    )
    ids = torch.tensor([[0, 0, 1, 99, 99, 99, 99, 5, 6, 7, 8, 9], [3, 99, 99, 99, 99, 4, 5, 6, 11, 12, 13, 14]])
    mask = (ids != 0).long()
    return bridge, {"input": ids, "attention_mask": mask, "pixel_values": torch.randn(2, 3, 32, 32)}


def image_bias(inputs, value=3.0, heads=("L1H0", "L1H3", "L2H2"), **options):
    """From everything to three image tokens, other ones in each row."""
    rows = tuple(row[index : index + 3] for index, row in enumerate(inputs.layout.images))
    return AttentionBias(HeadSet(heads), EVERYTHING, Positions(rows), value, **options)


def reader(into, queries, layer=2):
    def read(rows, positions, place, index):
        into.append((rows, positions, index))

    return f"blocks.{layer}.attn.hook_pattern", RowReader(queries, read)


# Positions and places


@pytest.mark.parametrize(
    ("positions", "meant"),
    [
        (Positions.of([3, 9]), [{3, 9}]),
        (Positions(((3, 9), (), (0, 1, 2))), [{3, 9}, set(), {0, 1, 2}]),
        (Positions.between(4, 7), [{4, 5, 6}]),
        (Positions.since(8), [set(range(8, 99))]),
        (Positions.everything(), [set(range(99))]),
        (Positions(((1,), (5, 30)), start=10, stop=12), [{1, 10, 11}, {5, 10, 11, 30}]),
        (Positions(), [set()]),
    ],
)
def test_positions_are_sets(positions, meant):
    for window in (range(0, 12), range(5, 6), range(9, 14), range(40, 44), range(0, 0)):
        inside = [[position in row for position in window] for row in meant]
        assert positions.mask(window).tolist() == inside
        assert positions.within(window) == sorted(set(window) & set().union(*meant))


def test_positions_count_from_zero():
    for wrong in (lambda: Positions.of([4, -1]), lambda: Positions.between(-3, 4), lambda: Positions(((1,), (-2,)))):
        with pytest.raises(InputError, match="count from 0"):
            wrong()


def test_a_place_knows_its_step_and_its_prompts(model):
    inputs = padded(model)
    length = inputs.layout.length
    assert [
        QueryKeyPositions(0, length, 0, length, inputs.layout).step,
        QueryKeyPositions(length + 4, 1, 0, 9, inputs.layout).step,
    ] == [0, 5]
    assert QueryKeyPositions(0, 4, 0, 4).step is None
    assert QueryKeyPositions(7, 2, 3, 6).queries == range(7, 9)
    assert QueryKeyPositions(7, 2, 3, 6).keys == range(3, 9)
    assert QueryKeyPositions(0, 4, 0, 4).rows_of(6, 2) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match="3 rows.*2"):
        QueryKeyPositions(0, 4, 0, 4).rows_of(3, 2)
    with pytest.raises(HookError, match="holds no attention matrix"):
        model.run_with_hooks(inputs, fwd_hooks=[("blocks.0.attn.hook_z", QueryKeyPositions.of)])


# One meaning everywhere


@torch.no_grad()
def test_the_fast_path_is_the_full_path_in_every_order(model):
    inputs, rows = padded(model), []
    bias = image_bias(inputs)
    biases = bias.hooks()
    others = [*image_bias(inputs, -2.0, ["L2H2", "L2H1"]).hooks(), reader(rows, Positions.since(45))]
    fast = at_real(model.run_with_hooks(inputs, fwd_hooks=[*biases, *others]), inputs)
    assert (fast - at_real(model(inputs), inputs)).abs().max() > 0.1
    expected = rows.pop()
    scores, pattern = full([2])
    orders = [*itertools.permutations([biases[1], *others, scores]), *itertools.permutations([biases[1], pattern])]
    for hooks in orders:
        hooks = [*hooks, *(other for other in others if other not in hooks)]
        slow = model.run_with_hooks(inputs, fwd_hooks=[biases[0], *hooks])
        torch.testing.assert_close(at_real(slow, inputs), fast, atol=2e-5, rtol=0)
        torch.testing.assert_close(rows.pop(), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_some_rows_at_a_time_are_all_rows_and_see_no_later_keys(model, monkeypatch, rows):
    monkeypatch.setattr(kernel_parts, "FEWEST_ROWS", rows)
    monkeypatch.setattr(kernel_parts, "MOST_BLOCKS", 10**6)
    inputs, kernel, keys = model.prepare(picture(128, 64), "What is going on?"), kernels.default_kernel, []

    def watched(call, layer, mask):
        keys.append(call.key.shape[2])
        return kernel(call, layer, mask)

    monkeypatch.setattr(kernels, "default_kernel", watched)
    for heads in (["L1H0", "L1H3", "L2H2"], [(1, head) for head in range(model.cfg.n_heads)]):
        biases = image_bias(inputs, heads=heads).hooks()
        slow = model.run_with_hooks(inputs, fwd_hooks=[*biases, *full([1, 2])])
        assert not keys
        torch.testing.assert_close(model.run_with_hooks(inputs, fwd_hooks=biases), slow, atol=2e-5, rtol=0)
        assert {rows, 2 * rows, inputs.layout.length} <= set(keys)
        keys.clear()
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=inputs.layout.length + 9)
    fast = model.run_with_hooks(inputs, fwd_hooks=biases, past_key_values=cache)
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=0)
    assert {rows, inputs.layout.length} <= set(keys)


@torch.no_grad()
def test_hooks_on_one_layer_act_in_their_order(model):
    inputs, layer = padded(model), {}
    bias = image_bias(inputs, 3.0, ["L2H2"])
    keep = ("blocks.2.attn.hook_pattern", lambda pattern, hook: layer.update(pattern=pattern))
    half = ("blocks.2.attn.hook_attn_scores", lambda scores, hook: scores * 0.5)
    raw = model.run_with_cache(inputs, names_filter="blocks.2.attn.hook_attn_scores")[1]["attn_scores", 2]
    added = torch.zeros_like(raw)
    for row, keys in enumerate(bias.keys[0].rows):
        added[row, 2, :, list(keys)] = 3.0
    for hooks, expected in (
        ([*bias.hooks(), half, keep], ((raw + added) * 0.5).softmax(-1)),
        ([half, *bias.hooks(), keep], (raw * 0.5 + added).softmax(-1)),
    ):
        model.run_with_hooks(inputs, fwd_hooks=hooks)
        seen = visible(inputs)[:, None].expand_as(raw)
        torch.testing.assert_close(layer["pattern"][seen], expected[seen], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_bias_is_relative_to_what_each_head_sees(model):
    """A hook before it blinds one head for the target: the others keep their preferences within it all the same."""
    inputs, kept = padded(model), []
    bias = image_bias(inputs, math.inf, ["L2H0", "L2H3"])
    targets = [list(row) for row in bias.keys[0].rows]

    def blind(scores, hook):
        for row, keys in enumerate(targets):
            scores[row, 0, :, keys] = torch.finfo(scores.dtype).min
        return scores

    keep = ("blocks.2.attn.hook_pattern", lambda pattern, hook: kept.append(pattern))
    model.run_with_hooks(inputs, fwd_hooks=[*bias.hooks(), keep])
    model.run_with_hooks(inputs, fwd_hooks=[("blocks.2.attn.hook_attn_scores", blind), *bias.hooks(), keep])
    for row, keys in enumerate(targets):
        assert kept[0][row, 3, -1, keys].std() > 0.01
        torch.testing.assert_close(kept[1][row, 3], kept[0][row, 3], atol=1e-6, rtol=0)
        assert kept[1][row, 0, -1, keys].sum() == 0


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("path", ["fast", "full"])
@torch.no_grad()
def test_a_bias_is_what_a_slow_loop_computes(shelf, path, value):
    model, _ = shelf.get("Qwen2.5-VL", **SLIDING)
    inputs = padded(model)
    real, length = inputs.tensors["attention_mask"].bool(), inputs.layout.length
    rows = tuple(row[index : index + 3] for index, row in enumerate(inputs.layout.images))
    late = (length - 6, length - 5, length - 2)
    groups = (Positions(rows), Positions.of(late)), (value, 1.5)
    bias = AttentionBias(HeadSet(["L1H0", "L1H3", "L2H2"]), Positions.since(30), *groups)
    hooks = bias.hooks() + (full([1, 2]) if path == "full" else [])
    with model.attention_backend.recording() as acted, model.hooks(hooks):
        _, cache = model.run_with_cache(inputs, names_filter=lambda name: "rot" in name or name.endswith(("_z", "_v")))
    for layer, heads, window in ((1, {0, 3}, 10**9), (2, {2}, 8)):
        seen = visible(inputs, window)
        meant = [([set(row) for row in rows], value), ([set(late)] * 2, 1.5)]
        added = slow_bias((2, 4, length, length), heads, [set(range(30, length))] * 2, meant, seen)
        query, key = (cache[f"blocks.{layer}.attn.hook_rot_{letter}"].double() for letter in "qk")
        expected = slow_attention(query, key, cache["v", layer].double(), seen, added)
        torch.testing.assert_close(cache["z", layer][real], expected[real].float(), atol=1e-5, rtol=0)
    assert acted == {bias: {1: 1, 2: 1}}


@pytest.mark.parametrize("value", [2.0, math.inf, -math.inf])
@torch.no_grad()
def test_a_bridge_that_is_not_ours_gives_the_same(llava, value):
    bridge, tensors = llava
    targets, late = ((3, 4), (2, 3)), (8, 9)
    bias = AttentionBias(
        HeadSet(["L1H1", "L1H2"]), Positions.since(6), (Positions(targets), Positions.of(late)), (value, 1.0)
    )
    got, rows = {}, []
    keep = [
        (f"blocks.1.attn.hook_{name}", lambda tensor, hook, name=name: got.update({name: tensor}))
        for name in ("rot_q", "rot_k", "v", "z", "pattern")
    ]
    logits = bridge.run_with_hooks(fwd_hooks=[*bias.hooks(), reader(rows, Positions.of([7, 11]), 1), *keep], **tensors)
    assert (logits - bridge(**tensors)).abs().max() > 0.01
    attended = tensors["attention_mask"].bool()
    seen = torch.ones(12, 12).tril().bool() & attended[:, None, :]
    meant = [([set(row) for row in targets], value), ([set(late)] * 2, 1.0)]
    added = slow_bias((2, 4, 12, 12), {1, 2}, [set(range(6, 12))] * 2, meant, seen)
    query, key, values = (got[name].double() for name in ("rot_q", "rot_k", "v"))
    expected = slow_attention(query, key, values, seen, added)
    torch.testing.assert_close(got["z"][attended], expected[attended].float(), atol=1e-5, rtol=0)
    [(weights, positions, layer)] = rows
    assert (positions, layer) == ([7, 11], 1)
    assert torch.equal(weights, got["pattern"][:, :, [7, 11]])


@pytest.mark.skipif(
    Version(transformers.__version__) >= Version("5.24"), reason="TransformerLens 4.3 does not find the cache there"
)
@torch.no_grad()
def test_a_bridge_that_is_not_ours_knows_positions_behind_a_cache(llava):
    bridge, tensors = llava
    bias = AttentionBias(HeadSet(["L1H1"]), Positions.since(11), Positions.of([4, 8]), 5.0)
    whole = bridge.run_with_hooks(fwd_hooks=bias.hooks(), **tensors)
    first = {name: tensor[:, :11] if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
    _, cache = bridge(return_type="logits_and_cache", use_cache=True, **first)
    options = {"past_key_values": cache, "attention_mask": tensors["attention_mask"]}
    last = bridge.run_with_hooks(tensors["input"][:, 11:], fwd_hooks=bias.hooks(), **options)
    torch.testing.assert_close(last[:, 0], whole[:, -1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_hooks_without_a_batch_dimension(model, llava):
    inputs = model.prepare(picture(96, 64), "What?")
    plain, squeezed = [], []
    for rows, flag in ((plain, False), (squeezed, True)):
        hooks = [*image_bias(inputs).hooks(), reader(rows, Positions.since(20))]
        rows.append(model.run_with_hooks(inputs, fwd_hooks=hooks, remove_batch_dim=flag))
    torch.testing.assert_close(squeezed[1], plain[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(squeezed[0], plain[0], atol=1e-5, rtol=0)
    bridge, tensors = llava
    single = {name: tensor[1:] for name, tensor in tensors.items()}
    bias = AttentionBias(HeadSet(["L1H1"]), EVERYTHING, Positions.of([3]), 4.0)
    plain, squeezed = (
        bridge.run_with_hooks(fwd_hooks=bias.hooks(), remove_batch_dim=flag, **single) for flag in (False, True)
    )
    torch.testing.assert_close(squeezed, plain, atol=1e-6, rtol=0)


# Masks and precision


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("value", [math.inf, 1e4, -math.inf])
@pytest.mark.parametrize("hooks", [[], full([1, 2])], ids=["fast", "full"])
@torch.no_grad()
def test_what_is_masked_stays_masked(shelf, hooks, value, as_published):
    model, _ = shelf.get("Qwen2.5-VL", **SLIDING)
    inputs = padded(model)
    first, length = inputs.layout.text[0][0], inputs.layout.length
    heads = HeadSet([(layer, head) for layer in (1, 2) for head in range(4)])
    before = model(inputs)

    def after(positions):
        bias = AttentionBias(heads, EVERYTHING, Positions.of(positions), value, relative=not as_published)
        return model.run_with_hooks(inputs, fwd_hooks=bias.hooks() + hooks)

    padding = after(range(first))
    torch.testing.assert_close(padding[0, first:], before[0, first:], atol=1e-5, rtol=0)
    assert (padding[1] - before[1]).abs().max() > 0.1, "in the other row these are real tokens"
    future = after([length - 4])
    for row, start in ((0, first), (1, 0)):
        torch.testing.assert_close(future[row, start:-4], before[row, start:-4], atol=1e-5, rtol=0)
    assert (future[:, -4:] - before[:, -4:]).abs().max() > 0.1


@pytest.mark.parametrize("hooks", [[], full([1])], ids=["fast", "full"])
@torch.no_grad()
def test_many_biases_do_not_add_up_to_a_hole_in_the_mask(shelf, hooks):
    """In float16 the lowest value is -65504, which a few infinities would fill up."""
    whole, untouched = shelf.get("Qwen3-VL")
    model = HookedVLM.wrap(copy.deepcopy(untouched).half(), whole.processor)
    inputs = model.prepare(picture(96, 64), "What?")
    future = Positions.of([inputs.last_position - 1])
    biases = [AttentionBias(HeadSet(["L1H0", "L1H1"]), EVERYTHING, future, math.inf) for _ in range(10)]
    before = model.run_with_hooks(inputs, fwd_hooks=hooks)
    after = model.run_with_hooks(inputs, fwd_hooks=[hook for bias in biases for hook in bias.hooks()] + hooks)
    torch.testing.assert_close(after[:, :-2], before[:, :-2], atol=1e-2, rtol=0)
    assert (after[:, -2:] - before[:, -2:]).abs().max() > 0.1


@torch.no_grad()
def test_nothing_leaks_from_outside_a_window(shelf):
    model, _ = shelf.get("Qwen2.5-VL", **{**SLIDING, "max_window_layers": 0, "num_hidden_layers": 2})
    inputs = padded(model)
    before = model(inputs)
    bias = AttentionBias(HeadSet(["L1H0", "L1H1"]), EVERYTHING, Positions.of([20]), math.inf)
    for hooks in ([], full(range(2))):
        after = model.run_with_hooks(inputs, fwd_hooks=bias.hooks() + hooks)
        changed = ((after - before).abs().amax(-1)[1] > 1e-5).nonzero()[:, 0].tolist()
        assert changed == list(range(20, 28))


@torch.no_grad()
def test_relative_and_as_published_in_half_precision(shelf):
    whole, untouched = shelf.get("Qwen3-VL")
    model = HookedVLM.wrap(copy.deepcopy(untouched).to(torch.bfloat16), whole.processor)
    inputs, kept = padded(model), {}
    keep = ("blocks.1.attn.hook_pattern", lambda pattern, hook: kept.update(pattern=pattern.float()))
    scores = model.run_with_cache(inputs)[1]["attn_scores", 1].float()
    target = inputs.layout.images[1][1:4]
    expected = scores[1, 3, -1, list(target)].softmax(-1)
    assert expected.std() > 0.02, "the head is to have preferences within the target"
    for relative, within in ((True, expected), (False, torch.full((3,), 1 / 3))):
        model.run_with_hooks(inputs, fwd_hooks=[*image_bias(inputs, 1e4, relative=relative).hooks(), keep])
        torch.testing.assert_close(kept["pattern"][1, 3, -1, list(target)], within, atol=4e-3, rtol=0)
    inputs = padded(whole)
    patterns = []
    for relative in (True, False):
        whole.run_with_hooks(inputs, fwd_hooks=[*image_bias(inputs, 1e4, relative=relative).hooks(), keep])
        patterns.append(kept["pattern"][1, 3, -1])
    torch.testing.assert_close(patterns[0], patterns[1], atol=0, rtol=2e-3)


# In generation


@pytest.mark.parametrize(
    "options",
    [{}, {"cache_implementation": "static"}, {"num_beams": 2, "num_return_sequences": 2}, {"use_cache": False}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_a_bias_in_generation_is_fast_and_full_alike(shelf, options):
    model, _ = shelf.get("Qwen2.5-VL", **SLIDING)
    inputs, weights = padded(model), {}
    targets = tuple(row[index : index + 3] for index, row in enumerate(inputs.layout.images))
    heads = HeadSet(["L1H0", "L1H3", "L2H2", "L3H1"])
    keys = (Positions(targets), Positions.since(inputs.layout.length - 2))
    bias = AttentionBias(heads, EVERYTHING, keys, (6.0, -3.0))
    steps = {}
    for name, more in (("fast", []), ("full", full())):
        kept = weights.setdefault(name, [])
        hooks = [*bias.hooks(), reader(kept, EVERYTHING, 3), *more]
        run = model.generate(
            inputs, fwd_hooks=hooks, names_filter="unembed.hook_out", max_new_tokens=5, min_new_tokens=5, **options
        )
        steps[name] = [logits[:, -1] for logits in run.activations["unembed.hook_out"]], run.tokens.tolist()
    torch.testing.assert_close(steps["fast"], steps["full"], atol=2e-5, rtol=0)
    for fast, slow in zip(weights["fast"], weights["full"], strict=True):
        assert fast[1:] == slow[1:]
        torch.testing.assert_close(fast[0][..., -1, :], slow[0][..., -1, :], atol=1e-5, rtol=0)


def test_a_bias_behind_a_sliding_cache_is_the_one_without_a_cache(shelf):
    model, _ = shelf.get("Qwen2.5-VL", **SLIDING)
    inputs = padded(model)
    near = Positions.between(inputs.layout.length - 4, inputs.layout.length + 2)
    bias = AttentionBias(HeadSet(["L2H2", "L3H1"]), Positions.since(inputs.layout.length), near, 5.0)
    options = {"names_filter": "unembed.hook_out", "max_new_tokens": 12, "min_new_tokens": 12}
    runs = [model.generate(inputs, fwd_hooks=bias.hooks(), use_cache=cached, **options) for cached in (True, False)]
    steps = [[logits[:, -1] for logits in run.activations["unembed.hook_out"]] for run in runs]
    torch.testing.assert_close(steps[0], steps[1], atol=2e-5, rtol=0)
    plain = model.generate(inputs, **options).activations["unembed.hook_out"]
    assert (plain[1][:, -1] - steps[0][1]).abs().max() > 0.05


@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}], ids=str)
def test_beams_and_return_sequences_keep_their_rows_target(model, padding, options):
    inputs = padded(model) if padding else model.prepare([picture(96, 64), picture(96, 64, 1)], "What?")
    targets = tuple(row[index : index + 2] for index, row in enumerate(inputs.layout.images))
    bias = AttentionBias(HeadSet(["L2H1"]), EVERYTHING, Positions(targets), math.inf)
    rows = []
    model.generate(inputs, fwd_hooks=[*bias.hooks(), reader(rows, EVERYTHING)], max_new_tokens=4, **options)
    assert {len(weights) for weights, _, _ in rows} == {6}
    for weights, _, _ in rows:
        for index, row in enumerate(weights[:, 1, -1]):
            assert row[list(targets[index // 3])].sum() == pytest.approx(1, abs=1e-5)


# What is refused


def test_a_bias_that_contradicts_itself_is_refused(model):
    heads, near = HeadSet(["L1H0"]), Positions.of([3])
    with pytest.raises(InputError, match="2 groups of keys and 1 values"):
        AttentionBias(heads, EVERYTHING, (near, near), 3.0)
    with pytest.raises(InputError, match="nan"):
        AttentionBias(heads, EVERYTHING, near, math.nan)
    with pytest.raises(InputError, match=r"\[2, 3\] rows"):
        AttentionBias(heads, Positions(((1,), (2,))), Positions(((1,), (2,), (3,))), 3.0)
    bias = AttentionBias(heads, EVERYTHING, (near, near), (math.inf, -math.inf))
    with pytest.raises(InputError, match="to one key"):
        model.run_with_hooks(padded(model), fwd_hooks=bias.hooks())
    three = AttentionBias(heads, EVERYTHING, Positions(((1,), (2,), (3,))), 1.0)
    with pytest.raises(InputError, match="2 rows.*given for 3"):
        model.run_with_hooks(padded(model), fwd_hooks=three.hooks())


def test_hooks_at_the_wrong_place_are_refused(model, llava):
    inputs = padded(model)
    bias, near = image_bias(inputs), reader([], EVERYTHING)[1]
    for name in ("blocks.1.attn.hook_pattern", "hook_embed", "ln_final.hook_in", lambda name: name.endswith("pattern")):
        with pytest.raises(HookError, match="belongs on blocks.L.attn.hook_attn_scores"):
            model.run_with_hooks(inputs, fwd_hooks=[(name, bias)])
    with pytest.raises(HookError, match="reads blocks.L.attn.hook_pattern"):
        model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_attn_scores", near)])
    bridge, tensors = llava
    with pytest.raises(HookError, match="belongs on blocks.L.attn.hook_attn_scores"):
        bridge.run_with_hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", bias)], **tensors)


def test_heads_outside_the_model_and_other_layouts_are_refused(model):
    inputs, other = padded(model), model.prepare(picture(96, 64), "Hm")
    for head in ("L4H0", "L1H4"):
        with pytest.raises(HeadError, match=head):
            model.run_with_hooks(inputs, fwd_hooks=image_bias(inputs, heads=[head]).hooks())
    region = Region("target", tuple(row[:2] for row in inputs.layout.images), inputs.layout)
    for more in ([], full()):
        with pytest.raises(RegionError, match="inputs being run"):
            model.run_with_hooks(other, fwd_hooks=steer(["L1H0"], region) + more)


def test_a_bias_that_did_nothing_is_an_error(model):
    inputs = padded(model)
    bias = image_bias(inputs)
    late = AttentionBias(HeadSet(["L1H0"]), Positions.since(500), Positions.of([3]), 1.0)
    with pytest.raises(HookError, match=r"L1H0 did nothing in layers \[1\]"):
        model.run_with_hooks(inputs, fwd_hooks=late.hooks())
    with pytest.raises(HookError, match=r"did nothing in layers \[2\]"):
        model.run_with_hooks(inputs, fwd_hooks=bias.hooks(), stop_at_layer=2)
    with pytest.raises(HookError, match=r"did nothing in layers \[3\]"):
        model.run_with_hooks(inputs, fwd_hooks=[*bias.hooks(), ("blocks.3.attn.hook_attn_scores", bias)])
    with pytest.raises(HookError, match=r"did nothing in layers \[1, 2\]"), model.hooks(bias.hooks()):
        pass
    with pytest.raises(HookError, match=r"did nothing in layers \[1\]"):
        model.run_with_hooks(inputs, fwd_hooks=[(lambda name: name.endswith("attn_scores"), late)])
    with pytest.raises(HookError, match="expected .hook name, function. pairs"):
        hook_list([bias])
    ahead = AttentionBias(HeadSet(["L1H0"]), Positions.of([2]), Positions.of([30]), -math.inf)
    with pytest.raises(HookError, match=r"did nothing in layers \[1\]"):  # a key that no such query sees
        model.run_with_hooks(inputs, fwd_hooks=ahead.hooks())
    optional = AttentionBias(HeadSet(["L1H0"]), Positions.since(500), Positions.of([3]), 1.0, required=False)
    assert model.generate(inputs, fwd_hooks=optional.hooks(), max_new_tokens=2).unreached == (optional,)
    with pytest.raises(ZeroDivisionError), model.hooks(bias.hooks()):
        raise ZeroDivisionError


def test_a_bias_by_name_filter_or_iterator_acts(model):
    inputs = padded(model)
    bias = image_bias(inputs)
    expected = model.run_with_hooks(inputs, fwd_hooks=bias.hooks())
    by_filter = [(lambda name: name.endswith("attn.hook_attn_scores"), bias)]
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=by_filter), expected)
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=iter(bias.hooks())), expected)
    with model.attention_backend.recording() as acted, model.hooks(iter(bias.hooks())):
        assert torch.equal(model(inputs), expected)
        assert torch.equal(model(inputs), expected)
    assert acted == {bias: {1: 2, 2: 2}}
    assert model.generate(inputs, fwd_hooks=bias.hooks(), max_new_tokens=3).acted == {bias: {1: 3, 2: 3}}


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_steering_at_what_a_window_hides_is_an_error(shelf, options):
    model, _ = shelf.get("Gemma 3")
    strip = Picture(picture(64, 32), panels(2, 64, 32))
    inputs = model.prepare(strip, "What " + "is " * 60)
    hooks = steer(["L0H0"], inputs.region("panel 1"), where=["decode"])  # layer 0 has a window
    with pytest.raises(HookError, match=r"did nothing in layers \[0\]"):
        model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3, **options)
