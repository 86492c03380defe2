"""`hook_result` and split inputs: the same numbers as the unsplit run, and editable head by head."""

from contextlib import contextmanager

import pytest
import torch
from reference import QWENS, at_real, eager, padded, scale_head

FLAGS = {"attn_result": "attn.hook_result", "split_qkv_input": "hook_k_input", "attn_in": "hook_attn_in"}
HEADS = {"q": 4, "k": 2, "v": 2}


@pytest.fixture(params=QWENS)
def pair(request, shelf):
    return shelf.get(request.param)


@contextmanager
def switched(model, flag):
    switch = getattr(model, f"set_use_{flag}")
    switch(True)
    try:
        yield
    finally:
        switch(False)


def projected(untouched, layer, letter, residual):
    """[row, position, head, d_head]: what an untouched layer's projection makes of a residual stream."""
    block = untouched.model.language_model.layers[layer]
    whole = getattr(block.self_attn, f"{letter}_proj")(block.input_layernorm(residual))
    return whole.unflatten(-1, (-1, 16))


@pytest.mark.parametrize("flag", FLAGS)
@torch.no_grad()
def test_the_split_run_gives_the_same_logits_and_tokens(pair, flag):
    model, untouched = pair
    inputs = padded(model)
    before, fired = model(inputs), []
    count = [(f"blocks.{layer}.{FLAGS[flag]}", lambda tensor, hook: fired.append(hook.layer())) for layer in range(4)]
    with switched(model, flag):
        split = at_real(model.run_with_hooks(inputs, fwd_hooks=count), inputs)
        generated = model.generate(inputs, max_new_tokens=4)
    assert fired == [0, 1, 2, 3]
    torch.testing.assert_close(split, at_real(before, inputs), atol=2e-5, rtol=0)
    expected = untouched.generate(**inputs.tensors, max_new_tokens=4, do_sample=False)
    assert torch.equal(generated.sequences, expected)
    assert torch.equal(model(inputs), before)


@torch.no_grad()
def test_results_add_up_and_are_editable(pair):
    model, untouched = pair
    inputs = padded(model)

    names = [f"blocks.1.{name}" for name in ("attn.hook_z", "attn.hook_result", "hook_attn_out")]

    def scale(result, hook):
        assert result.shape[2:] == (4, 64)
        result[:, :, 2] *= 3.5
        return result

    with switched(model, "attn_result"):
        _, cache = model.run_with_cache(inputs, names_filter=names)
        edited = model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_result", scale)])
        generated = model.generate(inputs, fwd_hooks=[("blocks.1.attn.hook_result", scale)], max_new_tokens=4)
    weight = untouched.model.language_model.layers[1].self_attn.o_proj.weight
    for head in range(4):
        expected = cache["z", 1][:, :, head] @ weight[:, 16 * head : 16 * head + 16].T
        torch.testing.assert_close(cache["result", 1][:, :, head], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(cache["result", 1].sum(2), cache["attn_out", 1], atol=1e-5, rtol=0)
    reference = scale_head(eager(untouched), 1, 2, 3.5)
    expected = at_real(reference(**inputs.tensors).logits, inputs)
    torch.testing.assert_close(at_real(edited, inputs), expected, atol=2e-5, rtol=0)
    assert torch.equal(generated.sequences, reference.generate(**inputs.tensors, max_new_tokens=4, do_sample=False))


@pytest.mark.parametrize("letter", HEADS)
@torch.no_grad()
def test_each_heads_input_is_the_residual_stream_and_reaches_that_head_only(pair, letter):
    model, untouched = pair
    inputs, name = padded(model), f"blocks.1.hook_{letter}_input"

    def double(stream, hook):
        stream[:, :, 1] = stream[:, :, 1] + 1
        return stream

    with switched(model, "split_qkv_input"):
        _, plain = model.run_with_cache(inputs)
        with model.hooks([(name, double)]):
            _, edited = model.run_with_cache(inputs)
    residual = plain["resid_pre", 1]
    assert plain[name].shape == (*inputs.shape, HEADS[letter], 64)
    assert torch.equal(plain[name], residual[:, :, None].expand_as(plain[name]))
    expected = projected(untouched, 1, letter, residual)
    expected[:, :, 1] = projected(untouched, 1, letter, residual + 1)[:, :, 1]
    torch.testing.assert_close(edited[letter, 1], expected, atol=1e-5, rtol=0)
    for other in set(HEADS) - {letter}:
        assert torch.equal(edited[other, 1], plain[other, 1])
    assert (edited["resid_post", 3] - plain["resid_post", 3]).abs().max() > 0.01


@torch.no_grad()
def test_the_shared_input_feeds_all_three(pair):
    model, untouched = pair
    inputs, name = padded(model), "blocks.1.hook_attn_in"

    def shift(stream, hook):
        stream[:, :, 1] = stream[:, :, 1] + 1
        return stream

    with switched(model, "attn_in"), model.hooks([(name, shift)]):
        _, cache = model.run_with_cache(inputs)
    residual = cache["resid_pre", 1]
    assert cache[name].shape == (*inputs.shape, 4, 64)
    for letter in HEADS:
        expected = projected(untouched, 1, letter, residual)
        expected[:, :, 1] = projected(untouched, 1, letter, residual + 1)[:, :, 1]
        torch.testing.assert_close(cache[letter, 1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("flag", FLAGS)
def test_gradients_are_those_of_the_unsplit_run(shelf, flag):
    model, _ = shelf.get("Qwen2.5-VL")
    inputs = padded(model)
    attention = model.blocks[1].attn
    weights = [getattr(attention, letter).original_component.weight for letter in "qkvo"]
    expected = torch.autograd.grad(at_real(model(inputs), inputs)[:, 65].sum(), weights)
    with switched(model, flag):
        slopes = torch.autograd.grad(at_real(model(inputs), inputs)[:, 65].sum(), weights)
    torch.testing.assert_close(slopes, expected, rtol=1e-3, atol=1e-3)


def test_what_is_off_or_contradicts_is_said(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = padded(model)
    for flag, name in FLAGS.items():
        with pytest.raises(ValueError, match=f"set_use_{flag}"):
            model.run_with_hooks(inputs, fwd_hooks=[(f"blocks.1.{name}", lambda tensor, hook: tensor)])
    with switched(model, "attn_in"), pytest.raises(ValueError, match="mutually exclusive"):
        model.set_use_split_qkv_input(True)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_failing_hook_leaves_nothing_behind(shelf, flag):
    model, _ = shelf.get("Qwen3-VL")
    inputs = padded(model)
    before = model(inputs)

    def fail(tensor, hook):
        raise ZeroDivisionError

    with switched(model, flag), pytest.raises(ZeroDivisionError):
        model.run_with_hooks(inputs, fwd_hooks=[(f"blocks.1.{FLAGS[flag]}", fail)])
    assert torch.equal(model(inputs), before)
    assert "gaze_lens_fork" not in model.blocks[1].attn.__dict__
