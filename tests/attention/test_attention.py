"""The attention function against Hugging Face's own attention: parity, and what hooks see."""

import copy

import pytest
import torch
from reference import QWENS, SLIDING, at_real, eager, full, look, padded, picture, slow_attention, visible

from gaze_lens import AttentionBias, HeadSet, HookedVLM, Positions, QueryKeyPositions, RowReader, testing
from gaze_lens.attention import attention_function, kernels
from gaze_lens.errors import ModelError


@pytest.mark.parametrize(("name", "text"), [*((name, {}) for name in QWENS), ("Qwen2.5-VL", SLIDING)])
@torch.no_grad()
def test_logits_are_hugging_faces(shelf, name, text):
    model, untouched = shelf.get(name, **text)
    inputs = padded(model)
    assert inputs.layout.text[0][0] > 0, "the first row is to be padded"
    assert model.cfg.n_key_value_heads < model.cfg.n_heads, "grouped queries"
    expected = at_real(eager(untouched)(**inputs.tensors).logits, inputs)
    default = at_real(untouched(**inputs.tensors).logits, inputs)
    assert expected.std() > 0.5, "the logits are to be of order 1"
    assert len(set(expected.argmax(-1).tolist())) > 12, "the outputs are to vary"
    assert torch.equal(at_real(model.run_with_hooks(inputs, fwd_hooks=full()), inputs), expected)
    assert torch.equal(at_real(model(inputs), inputs), default)
    some = at_real(model.run_with_hooks(inputs, fwd_hooks=full([1, 3])), inputs)
    torch.testing.assert_close(some, default, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_full_hooks_equal_eager_in_every_precision(shelf, dtype):
    untouched = copy.deepcopy(shelf.get("Qwen3-VL")[1]).to(dtype)
    reference = eager(untouched)
    model = HookedVLM.wrap(untouched, shelf.get("Qwen3-VL")[0].processor)
    inputs = padded(model)
    got = at_real(model.run_with_hooks(inputs, fwd_hooks=full()), inputs)
    assert got.dtype == dtype
    assert torch.equal(got, at_real(reference(**inputs.tensors).logits, inputs))


@pytest.mark.parametrize("hooks", [[], full([2])], ids=["none", "one layer"])
@torch.no_grad()
def test_a_model_loaded_eager_stays_exactly_eager(shelf, hooks):
    untouched = shelf.get("Qwen3-VL")[1]
    model = HookedVLM.wrap(eager(untouched), shelf.get("Qwen3-VL")[0].processor)
    inputs = padded(model)
    expected = eager(untouched)(**inputs.tensors).logits
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=hooks), expected)


def test_an_attention_implementation_that_cannot_be_replaced_is_refused_untouched():
    untouched, processor = testing.tiny("Qwen3-VL", num_hidden_layers=1)
    untouched.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="flash_attention_2.*sdpa and eager"):
        HookedVLM.wrap(untouched, processor)
    untouched.config.text_config._attn_implementation = "sdpa"
    HookedVLM.wrap(untouched, processor)


@torch.no_grad()
def test_patterns_are_the_ones_that_hugging_face_returns(pair):
    model, untouched = pair
    inputs = padded(model)
    expected = eager(untouched)(**inputs.tensors, output_attentions=True).attentions
    _, cache = model.run_with_cache(inputs)
    real = inputs.tensors["attention_mask"].bool()
    for layer, pattern in enumerate(expected):
        assert torch.equal(cache["pattern", layer].transpose(1, 2)[real], pattern.transpose(1, 2)[real])
        scores = cache["attn_scores", layer]
        torch.testing.assert_close(scores.softmax(-1), cache["pattern", layer])


@torch.no_grad()
def test_attention_is_what_a_slow_loop_computes(sliding):
    model, _ = sliding
    inputs = padded(model)
    _, cache = model.run_with_cache(inputs)
    real = inputs.tensors["attention_mask"].bool()
    for layer, window in ((0, 10**9), (3, 8)):
        query, key = (cache[f"blocks.{layer}.attn.hook_rot_{letter}"] for letter in "qk")
        expected = slow_attention(query, key, cache["v", layer], visible(inputs, window))
        torch.testing.assert_close(cache["z", layer][real], expected[real], atol=1e-5, rtol=0)


# What the hooks see


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_masked_scores_hold_the_lowest_value(shelf, dtype):
    copied = copy.deepcopy(shelf.get("Qwen2.5-VL", **SLIDING)[1]).to(dtype)
    model = HookedVLM.wrap(copied, shelf.get("Qwen2.5-VL")[0].processor)
    inputs, kept = padded(model), {}

    def large(query, hook):
        return query * 100

    def keep(scores, hook):
        kept[hook.layer()] = scores

    hooks = [(f"blocks.{layer}.attn.hook_rot_q", large) for layer in range(4)]
    model.run_with_hooks(inputs, fwd_hooks=hooks + [(lambda name: name.endswith("attn_scores"), keep)])
    assert max(scores.max() for scores in kept.values()) > 100, "scores are to be large, or nothing is shown"
    for layer, scores in kept.items():
        seen = visible(inputs, 8 if layer >= 2 else 10**9)[:, None].expand_as(scores)
        assert (scores[~seen] == torch.finfo(dtype).min).all()
        assert (scores[seen] > torch.finfo(dtype).min / 2).all()


@pytest.mark.parametrize("cache", [None, "static"])
def test_hooks_are_told_positions_and_the_step(sliding, cache):
    model, _ = sliding
    inputs, places = padded(model), {0: [], 3: []}

    def note(pattern, hook):
        place = QueryKeyPositions.of(pattern, hook)
        assert (place.n_queries, place.n_keys) == tuple(pattern.shape[-2:])
        assert place.layout == inputs.layout
        attended = [key for key, weight in zip(place.keys, pattern[1].sum((0, 1)), strict=True) if weight > 0]
        places[hook.layer()].append((place.queries, min(attended), max(attended), place.step))

    hooks = [(f"blocks.{layer}.attn.hook_pattern", note) for layer in places]
    model.generate(inputs, fwd_hooks=hooks, max_new_tokens=6, min_new_tokens=6, cache_implementation=cache)
    length = inputs.layout.length
    prefill = (range(length), 0, length - 1, 0)
    assert places[0] == [prefill] + [(range(t, t + 1), 0, t, t - length + 1) for t in range(length, length + 5)]
    assert places[3] == [prefill] + [(range(t, t + 1), t - 7, t, t - length + 1) for t in range(length, length + 5)]


def test_positions_go_on_over_a_cache_handed_in(model):
    inputs, starts = model.prepare(picture(96, 64), "What?"), []
    next_token = torch.tensor([[65, 66]])

    def note(pattern, hook):
        starts.append(QueryKeyPositions.of(pattern, hook).query_start)

    _, cache = model(inputs, return_type="logits_and_cache", use_cache=True)
    hooks = [("blocks.0.attn.hook_pattern", note)]
    logits = model.run_with_hooks(next_token, fwd_hooks=hooks, past_key_values=cache)
    assert starts == [inputs.layout.length]
    types = torch.cat([inputs.tensors["mm_token_type_ids"], torch.zeros_like(next_token)], 1)
    more = {"attention_mask": torch.ones_like(types), "mm_token_type_ids": types}
    whole = model(torch.cat([inputs.input_ids, next_token], 1), **{**inputs.arguments(), **more})
    torch.testing.assert_close(logits, whole[:, -2:], atol=1e-5, rtol=0)


def test_a_hook_may_run_the_model(model):
    inputs, starts = padded(model), []
    other = model.prepare(picture(64, 64), "Hm")

    def nested(pattern, hook):
        if QueryKeyPositions.of(pattern, hook).layout is inputs.layout:
            model(other)

    def note(pattern, hook):
        if QueryKeyPositions.of(pattern, hook).layout is inputs.layout:
            starts.append(QueryKeyPositions.of(pattern, hook).query_start)

    hooks = [("blocks.0.attn.hook_pattern", nested), ("blocks.1.attn.hook_pattern", note)]
    model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3, min_new_tokens=3)
    length = inputs.layout.length
    assert starts == [0, length, length + 1]


def test_pytorchs_own_hooks_are_seen(model):
    inputs = padded(model)
    expected = model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_pattern", lambda p, hook: p * 0.5)])
    point = model.blocks[1].attn.hook_pattern
    handles = [point.register_forward_hook(lambda *args: args[-1] * 0.5)]
    assert torch.equal(model(inputs), expected)
    handles.pop().remove()
    handles = [point.register_forward_pre_hook(lambda _, args: (args[0] * 0.5,))]
    assert torch.equal(model(inputs), expected)
    handles.pop().remove()
    fired = []
    handles = [point.register_full_backward_pre_hook(lambda *_: fired.append(1))]
    model(inputs).sum().backward()
    handles.pop().remove()
    assert fired == [1]
    model.original_model.zero_grad()


def test_a_full_matrix_is_built_only_for_those_who_ask(model, monkeypatch):
    inputs, layers, read = padded(model), [], []
    honest = attention_function._with_matrices

    def note(call, layer, state):
        layers.append(layer.index)
        return honest(call, layer, state)

    monkeypatch.setattr(attention_function, "_with_matrices", note)
    bias = AttentionBias(HeadSet(["L1H0", "L2H3"]), Positions.everything(), Positions.of([40, 41]), 3.0)
    plain = AttentionBias(HeadSet(["L1H0"]), Positions.everything(), Positions.of([40, 41]), 3.0, relative=False)
    reader = ("blocks.2.attn.hook_pattern", RowReader(Positions.since(45), lambda *_: read.append(1)))

    def built(*hooks, run=model.run_with_hooks, **options):
        layers.clear()
        run(inputs, fwd_hooks=list(hooks), **options)
        return layers

    assert built() == []
    assert built(*bias.hooks()) == []
    assert built(reader) == []
    assert read == [1]
    assert built(*bias.hooks(), reader, *bias.hooks(), reader) == []
    assert built(*bias.hooks(), reader, run=model.generate, max_new_tokens=3) == []
    assert built(*plain.hooks()) == [1]
    assert built(("blocks.2.attn.hook_pattern", look)) == [2]
    assert built(*bias.hooks(), reader, ("blocks.2.attn.hook_attn_scores", look)) == [2]
    assert built(("blocks.2.hook_resid_pre", look), ("blocks.3.attn.hook_rot_q", look)) == []


@torch.no_grad()
def test_only_heads_under_a_bias_pay_for_a_mask(model, monkeypatch):
    """The others keep the kernel that needs none; heads under one bias share a mask, and so do layers."""
    inputs, calls = model.prepare(picture(96, 64), "What?"), []
    honest = kernels.default_kernel

    def note(call, layer, mask):
        calls.append((layer.index, call.query.shape[1], mask))
        return honest(call, layer, mask)

    monkeypatch.setattr(kernels, "default_kernel", note)
    keys = Positions.everything(), Positions.of([20, 21]), 3.0
    near, far = AttentionBias(HeadSet(["L1H0", "L2H3"]), *keys), AttentionBias(HeadSet(["L1H0", "L1H2"]), *keys)
    model.run_with_hooks(inputs, fwd_hooks=[*near.hooks(), *far.hooks()])
    found = sorted((layer, n_heads, mask is None) for layer, n_heads, mask in calls)
    assert found == [(1, 1, False), (1, 1, False), (1, 2, True), (2, 1, False), (2, 3, True)]
    assert {mask.shape[1] for _, _, mask in calls if mask is not None} == {1}
    calls.clear()
    model.run_with_hooks(inputs, fwd_hooks=near.hooks())
    first, second = (mask for _, _, mask in calls if mask is not None)
    assert first.data_ptr() == second.data_ptr()
