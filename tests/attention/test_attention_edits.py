"""Edits of the attention matrix and of rotated queries and keys: in prefill, in every decode step, in gradients."""

import pytest
import torch
from reference import POINTS, QWENS, SLIDING, at_real, eager, full, padded, scale_head, slow_attention, visible
from transformers.cache_utils import DynamicCache, DynamicLayer

from gaze_lens import AttentionBias, HeadSet, Positions, QueryKeyPositions
from gaze_lens.errors import HookError


@torch.no_grad()
def test_an_edited_pattern_reaches_the_logits(pair):
    model, untouched = pair
    inputs = padded(model)

    def edit(pattern, hook):
        pattern[:, 2] = pattern[:, 2] * 3.5
        return pattern

    reference = scale_head(eager(untouched), 1, 2, 3.5)
    edited = at_real(model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_pattern", edit)]), inputs)
    expected = at_real(reference(**inputs.tensors).logits, inputs)
    assert (expected - at_real(model(inputs), inputs)).abs().max() > 0.1
    torch.testing.assert_close(edited, expected, atol=2e-5, rtol=0)
    generated = model.generate(inputs, fwd_hooks=[("blocks.1.attn.hook_pattern", edit)], max_new_tokens=8)
    assert (
        generated.sequences.tolist() == reference.generate(**inputs.tensors, max_new_tokens=8, do_sample=False).tolist()
    )


@torch.no_grad()
def test_edited_scores_change_what_a_head_reads(sliding):
    model, _ = sliding
    inputs = padded(model)
    added = 3 * torch.randn(2, 4, inputs.layout.length, inputs.layout.length, generator=torch.manual_seed(0))
    real = inputs.tensors["attention_mask"].bool()
    for layer, window in ((1, 10**9), (2, 8)):
        name = f"blocks.{layer}.attn.hook_attn_scores"
        with model.hooks([(name, lambda scores, hook: scores + added)]):
            _, cache = model.run_with_cache(inputs)
        query, key = (cache[f"blocks.{layer}.attn.hook_rot_{letter}"] for letter in "qk")
        expected = slow_attention(query, key, cache["v", layer], visible(inputs, window), added)
        torch.testing.assert_close(cache["z", layer][real], expected[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("point", [*POINTS, "hook_rot_q", "hook_rot_k"])
@pytest.mark.parametrize("text", [{}, SLIDING], ids=["full", "sliding"])
def test_edits_act_alike_with_and_without_a_cache(shelf, point, text):
    model, _ = shelf.get("Qwen2.5-VL", **text)
    inputs = padded(model)

    def edit(matrix, hook):
        """Depends on the true positions of queries and keys, so that a wrong position shows."""
        if "rot" in point:
            return matrix * 0.5
        place = QueryKeyPositions.of(matrix, hook)
        queries, keys = (torch.tensor(list(positions))[:, None] for positions in (place.queries, place.keys))
        wave = torch.sin(queries * 0.7 + keys.T * 1.3)
        return matrix + 2 * wave if point == "hook_attn_scores" else matrix * (1 + 0.5 * wave)

    options = {"names_filter": "unembed.hook_out", "max_new_tokens": 6, "min_new_tokens": 6}
    hooks = [(f"blocks.{layer}.attn.{point}", edit) for layer in (1, 3)]
    runs = [model.generate(inputs, fwd_hooks=hooks, use_cache=cached, **options) for cached in (True, False)]
    steps = [[logits[:, -1] for logits in run.activations["unembed.hook_out"]] for run in runs]
    torch.testing.assert_close(steps[0], steps[1], atol=2e-5, rtol=0)
    unedited = model.generate(inputs, **options).activations["unembed.hook_out"]
    assert (unedited[0][:, -1] - steps[0][0]).abs().max() > 0.05


@torch.no_grad()
def test_rotated_queries_and_keys_are_editable(model):
    inputs, kept = padded(model), {}

    def keep(tensor, hook):
        kept[hook.name.split(".")[-1]] = tensor

    def silence(tensor, hook):
        tensor = tensor.clone()
        tensor[:, :, 1] = 0
        return tensor

    patterns = [(f"blocks.2.attn.{point}", keep) for point in POINTS]
    model.run_with_hooks(inputs, fwd_hooks=[("blocks.2.attn.hook_rot_q", silence), *patterns])
    seen = visible(inputs).float()
    uniform = seen / seen.sum(-1, keepdim=True)
    real = inputs.tensors["attention_mask"].bool()
    torch.testing.assert_close(kept["hook_pattern"][:, 1][real], uniform[real])
    assert (kept["hook_pattern"][:, 0][real] - uniform[real]).abs().max() > 0.1
    model.run_with_hooks(inputs, fwd_hooks=[("blocks.2.attn.hook_rot_k", silence), *patterns])
    scores = kept["hook_attn_scores"].masked_fill(~visible(inputs)[:, None], 0)
    assert scores[:, 2:].abs().max() == 0, "KV head 1 serves heads 2 and 3"
    assert scores[:, :2].abs().max() > 0.1


@pytest.mark.parametrize("cache", [None, "static"])
def test_an_edited_key_stays_edited_in_the_cache(sliding, cache):
    model, _ = sliding
    inputs, options = padded(model), {"max_new_tokens": 5, "min_new_tokens": 5}
    position = inputs.layout.length - 2

    def edit_prompt(keys, hook):
        assert keys.shape[1] in (inputs.layout.length, 1), "only the keys of this forward's tokens"
        if keys.shape[1] > 1:
            keys = keys.clone()
            keys[:, position] = 0
            return keys
        return None

    hooks = [(f"blocks.{layer}.attn.hook_rot_k", edit_prompt) for layer in (0, 3)]
    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in (0, 3)]
    run = model.generate(inputs, fwd_hooks=hooks, names_filter=names, cache_implementation=cache, **options)
    for name, sliding_layer in zip(names, (False, True), strict=True):
        for step, scores in enumerate(run.activations[name][1:]):
            column = 8 - (step + 3) if sliding_layer else position
            assert (scores[..., column] == 0).all()
            assert (scores[..., column + 1] != 0).all()


def test_a_cache_that_would_lose_edited_keys_is_refused(model):
    class Packed(DynamicLayer):
        """Stands for quantised caches, which do not hand out what they store."""

    inputs, cache = padded(model), DynamicCache()
    cache.layers = [Packed() for _ in range(4)]
    with pytest.raises(HookError, match="hook_rot_k cannot be edited under a Packed.*default cache"):
        model.generate(
            inputs, fwd_hooks=[("blocks.1.attn.hook_rot_k", lambda keys, hook: keys * 0.5)], past_key_values=cache
        )
    cache.layers = [Packed() for _ in range(4)]
    seen = []
    look = [("blocks.1.attn.hook_rot_k", lambda keys, hook: seen.append(keys.shape[1]))]
    model.generate(inputs, fwd_hooks=look, past_key_values=cache, max_new_tokens=3, min_new_tokens=3)
    assert seen == [inputs.layout.length, 1, 1]


def test_a_failing_hook_leaves_nothing_behind(model):
    inputs = padded(model)
    before = model(inputs)

    def fail(tensor, hook):
        raise ZeroDivisionError

    for name in ("blocks.1.attn.hook_attn_scores", "blocks.3.attn.hook_pattern", "blocks.2.attn.hook_rot_k"):
        for run in (model.run_with_hooks, model.generate):
            with pytest.raises(ZeroDivisionError):
                run(inputs, fwd_hooks=[*full(), (name, fail)])
        with model.hooks([(name, fail)]), pytest.raises(ZeroDivisionError):
            model.run_with_cache(inputs)
    assert torch.equal(model(inputs), before)


# Gradients


@pytest.mark.parametrize("name", QWENS)
def test_gradients_flow_through_an_edited_pattern(shelf, name):
    model, untouched = shelf.get(name)
    inputs, reference = padded(model), scale_head(eager(untouched), 1, 2, 3.5)
    factor = torch.tensor(3.5, requires_grad=True)  # far from where another expert is chosen

    def run(factor):
        edit = torch.ones(4, 1, 1).index_put((torch.tensor([2]),), factor)
        hooks = [("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern * edit)]
        return loss_of(model.run_with_hooks(inputs, fwd_hooks=hooks), inputs)

    weights = [block.attn.q.original_component.weight for block in model.blocks]
    slope, *slopes = torch.autograd.grad(run(factor), [factor, *weights])
    with torch.no_grad():
        difference = (run(factor + 0.005) - run(factor - 0.005)) / 0.01
    assert slope.abs() > 0.1
    torch.testing.assert_close(slope, difference, rtol=2e-2, atol=0)
    theirs = [layer.self_attn.q_proj.weight for layer in reference.model.language_model.layers]
    expected = torch.autograd.grad(loss_of(reference(**inputs.tensors).logits, inputs), theirs)
    torch.testing.assert_close(slopes, list(expected), rtol=1e-3, atol=1e-4)
    assert all(slope.abs().max() > 1e-4 for slope in slopes)


def loss_of(logits, inputs):
    return at_real(logits, inputs)[:, 65].sum()


def test_gradients_with_a_bias_or_nothing_attached_are_those_of_full_hooks(model):
    inputs = padded(model)
    bias = AttentionBias(HeadSet(["L1H0", "L2H3"]), Positions.everything(), Positions.of([40, 41]), 3.0)
    weight = model.blocks[0].attn.k.original_component.weight
    for hooks in ([], bias.hooks()):
        losses = [loss_of(model.run_with_hooks(inputs, fwd_hooks=hooks + more), inputs) for more in ([], full())]
        slopes = [torch.autograd.grad(loss, weight)[0] for loss in losses]
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-4)
        assert slopes[0].abs().max() > 1e-4


def test_backward_hooks_see_and_change_gradients(model):
    inputs, kept = padded(model), {}
    names = [f"blocks.1.attn.{point}" for point in (*POINTS, "hook_rot_q", "hook_rot_k")]

    def keep(tensor, hook):
        kept[hook.name] = tensor
        return tensor

    loss = loss_of(model.run_with_hooks(inputs, fwd_hooks=[(name, keep) for name in names]), inputs)
    expected = torch.autograd.grad(loss, [kept[name] for name in names])
    for name, gradient in zip(names, expected, strict=True):
        seen = []
        hooks = [(name, lambda grad, hook, seen=seen: seen.append(grad))]
        loss_of(model.run_with_hooks(inputs, bwd_hooks=hooks), inputs).backward()
        torch.testing.assert_close(seen, [gradient], rtol=1e-3, atol=1e-4)
    model.original_model.zero_grad()
    hooks = [("blocks.0.attn.hook_attn_scores", lambda grad, hook: grad * 0)]
    loss_of(model.run_with_hooks(inputs, bwd_hooks=hooks), inputs).backward()
    gradients = [model.blocks[layer].attn.q.original_component.weight.grad.abs().max() for layer in range(2)]
    model.original_model.zero_grad()
    assert gradients[0] == 0
    assert gradients[1] > 1e-4
