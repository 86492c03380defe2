"""`hook_resid_mid` is on the residual stream: what is added there is as if attention had put it out."""

import copy

import pytest
import torch
from reference import at_real, padded, picture
from transformers import DynamicCache

import gaze_lens as gl
from gaze_lens import testing
from gaze_lens.errors import HookError

PARALLEL = ("AyaVision", "Cohere2Vision")
READ_ONLY = ("Gemma 4",)
SEVERAL = ("Gemma 3n",)  # residual streams
LAYER = 2  # of no family cross-attention, whose output is gated
MID, ATTENTION = f"blocks.{LAYER}.hook_resid_mid", f"blocks.{LAYER}.hook_attn_out"


def add(noise):
    return lambda tensor, hook: tensor + noise


@pytest.mark.parametrize("family", [name for name in testing.BUILDERS if name not in (*PARALLEL, *READ_ONLY, *SEVERAL)])
def test_an_edit_and_a_gradient_are_those_of_the_stream(shelf, family):
    model, _ = shelf.get(family)
    inputs = padded(model)
    noise = torch.randn(*inputs.shape, 64, generator=torch.manual_seed(0))
    with torch.no_grad():
        plain = model(inputs)
        edited, expected = (model.run_with_hooks(inputs, fwd_hooks=[(name, add(noise))]) for name in (MID, ATTENTION))
        torch.testing.assert_close(at_real(edited, inputs), at_real(expected, inputs), atol=2e-5, rtol=0)
        assert (at_real(edited, inputs) - at_real(plain, inputs)).abs().max() > 0.1
        read = model.run_with_hooks(inputs, fwd_hooks=[(MID, lambda stream, hook: None)])
        assert torch.equal(at_real(read, inputs), at_real(plain, inputs))
        in_place = model.run_with_hooks(inputs, fwd_hooks=[(MID, lambda stream, hook: stream.add_(noise))])
        torch.testing.assert_close(at_real(in_place, inputs), at_real(expected, inputs), atol=2e-5, rtol=0)
    gradients = {}
    for name in (MID, ATTENTION):
        model.add_hook(name, lambda gradient, hook, name=name: gradients.update({name: gradient}), "bwd")
    model(inputs)[0, -1, 65].backward()
    model.reset_hooks()
    model.original_model.zero_grad()
    assert torch.equal(gradients[MID], gradients[ATTENTION])
    assert gradients[MID].abs().max() > 0


@torch.no_grad()
def test_an_edit_holds_in_every_step_and_ends_with_its_block(model):
    inputs = model.prepare(picture(96, 64), "What?")
    steps = {"max_new_tokens": 4, "min_new_tokens": 4}
    plain = model.generate(inputs, **steps).sequences
    noise = torch.randn(64, generator=torch.manual_seed(1))
    expected = model.generate(inputs, fwd_hooks=[(ATTENTION, add(noise))], **steps).sequences
    assert not torch.equal(expected, plain)
    assert torch.equal(model.generate(inputs, fwd_hooks=[(MID, add(noise))], **steps).sequences, expected)
    assert torch.equal(model.generate(inputs, **steps).sequences, plain)
    cache = DynamicCache(config=model.config.get_text_config())
    with model.hooks([(MID, add(noise))]):
        logits = model(inputs, past_key_values=cache)
        following = model(logits[:, -1:].argmax(-1), past_key_values=cache)
    assert expected[0, -4:-2].tolist() == [int(logits[0, -1].argmax()), int(following[0, -1].argmax())]


def test_it_survives_copies_compatibility_mode_and_checkpointing(shelf):
    hf_model, processor = testing.tiny("Qwen3-VL")
    model = gl.HookedVLM.wrap(hf_model, processor)
    inputs = padded(model)
    noise = torch.randn(*inputs.shape, 64, generator=torch.manual_seed(0))
    edit = [(MID, add(noise))]
    expected = model.run_with_hooks(inputs, fwd_hooks=edit)
    for other in (copy.deepcopy(model), model):
        if other is model:
            other.enable_compatibility_mode(no_processing=True, disable_warnings=True)
        torch.testing.assert_close(other.run_with_hooks(inputs, fwd_hooks=edit), expected, atol=2e-5, rtol=0)
    weight = model.original_model.model.language_model.layers[1].self_attn.q_proj.weight

    def gradient():
        with model.hooks(edit):
            [found] = torch.autograd.grad(model(inputs, use_cache=False)[0, -1, 65], weight)
        return found

    plain = gradient()
    model.original_model.train()
    model.original_model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradient(), plain, atol=1e-6, rtol=1e-4)


def gradients_of_an_edit(reentrant):
    """Of an edit that depends on the stream. reentrant: the kind of checkpointing, or None."""
    model = gl.HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
    model.original_model.train()
    if reentrant is not None:
        model.original_model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.original_model.enable_input_require_grads()
    inputs = padded(model)
    with model.hooks([(MID, lambda stream, hook: stream * 1.1)]):
        model(inputs, use_cache=False)[:, -1].square().sum().backward()
    named = model.original_model.named_parameters()
    return {name: weight.grad for name, weight in named if weight.grad is not None}


def test_gradients_of_an_edit_under_checkpointing_are_those_without_or_refused():
    expected, got = gradients_of_an_edit(None), gradients_of_an_edit(False)
    assert len(expected) > 40
    assert not [name for name in expected if not torch.equal(got[name], expected[name])]
    with pytest.raises(HookError, match="reentrant gradient checkpointing"):
        gradients_of_an_edit(True)


@torch.no_grad()
def test_an_edit_shows_at_the_end_of_the_layer_and_an_interrupted_run_leaves_nothing(model):
    inputs = padded(model)
    noise = torch.randn(*inputs.shape, 64, generator=torch.manual_seed(0))
    plain, seen = model(inputs), {}

    def look(tensor, hook):
        seen[hook.name] = tensor

    def fail(tensor, hook):
        raise KeyboardInterrupt

    output = f"blocks.{LAYER}.hook_resid_post"
    looks = [(name, look) for name in (MID, f"blocks.{LAYER}.hook_mlp_out", output)]
    model.run_with_hooks(inputs, fwd_hooks=[(MID, add(noise)), *looks])
    stream, mlp, post = seen.values()
    torch.testing.assert_close(post, stream + mlp, atol=1e-5, rtol=0)
    with pytest.raises(KeyboardInterrupt):
        model.run_with_hooks(inputs, fwd_hooks=[(MID, add(noise)), (f"blocks.{LAYER}.hook_mlp_out", fail)])
    assert torch.equal(model(inputs), plain)
    read = model.run_with_hooks(inputs, fwd_hooks=[(MID, look), (output, look)])
    torch.testing.assert_close(at_real(read, inputs), at_real(plain, inputs), atol=1e-5, rtol=0)
    assert torch.equal(model(inputs), plain)


@torch.no_grad()
def test_a_hook_may_run_the_model(model):
    inputs = padded(model)
    noise = torch.randn(*inputs.shape, 64, generator=torch.manual_seed(0))
    expected, inner = model.run_with_hooks(inputs, fwd_hooks=[(MID, add(noise))]), []

    def run(tensor, hook):
        if not inner:
            inner.append(None)
            inner.append(model(inputs))

    for name in (f"blocks.{LAYER}.hook_mlp_out", f"blocks.{LAYER + 1}.hook_attn_out"):
        inner.clear()
        found = model.run_with_hooks(inputs, fwd_hooks=[(MID, add(noise)), (name, run)])
        for logits in (found, inner[1]):
            torch.testing.assert_close(at_real(logits, inputs), at_real(expected, inputs), atol=2e-5, rtol=0)


READ = [f"blocks.1.hook_{name}" for name in ("resid_pre", "attn_out", "resid_mid")]


@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_where_a_layer_goes_on_after_its_mlp_it_can_only_be_read(shelf, direction):
    model, _ = shelf.get("Gemma 4")
    inputs = padded(model)
    _, cache = model.run_with_cache(inputs, names_filter=READ)
    summed = cache["resid_pre", 1] + cache["attn_out", 1]
    torch.testing.assert_close(cache["resid_mid", 1], summed, atol=1e-5, rtol=0)
    model.add_hook(MID, add(1.0), direction)
    with pytest.raises(HookError, match=r"blocks.2.hook_resid_mid can be read only.*hook_attn_out"):
        model(inputs)
    model.reset_hooks()


@pytest.mark.parametrize("family", PARALLEL)
def test_where_attention_and_mlp_read_the_same_stream_there_is_none(shelf, family):
    assert MID not in shelf.get(family)[0].hook_dict
