"""Attention under autocast, in float64, compiled, and switched to another implementation."""

import pytest
import torch
from reference import full, look, padded, picture

import gaze_lens as gl
from gaze_lens import HeadSet, HookedVLM, testing
from gaze_lens.errors import ModelError
from gaze_lens.patching import group

FAMILIES = ["Qwen3-VL", "Gemma 3", "PaliGemma 2", "Mllama"]
STEP = 2**-8  # of bfloat16, relative


def edits(model, inputs):
    """A steering and a knockout, each with its effect on the full matrices."""
    capabilities = model.capabilities((96, 64))
    heads = HeadSet([(layer, 1) for layer in capabilities.seeing])
    region = inputs.region((0, 0, 48, 64), image=0)
    knockout = gl.knockout(heads, group(inputs, "last"), region)
    return [gl.steer(heads, region), knockout], full(capabilities.live, look)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_under_autocast_are_those_on_the_full_matrices(shelf, family):
    model, _ = shelf.get(family)
    inputs = padded(model)
    real = inputs.tensors["attention_mask"].bool()
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(inputs)[real].float()
        largest = plain.abs().max().item()
        for hooks in edits(model, inputs)[0]:
            fast = model.run_with_hooks(inputs, fwd_hooks=hooks)[real].float()
            slow = model.run_with_hooks(inputs, fwd_hooks=[*hooks, *edits(model, inputs)[1]])[real].float()
            assert fast.isfinite().all()
            assert (fast - plain).abs().max() > 20 * STEP
            assert (fast - slow).abs().max() < 8 * STEP * largest
        tokens = model.generate(inputs, fwd_hooks=edits(model, inputs)[0][0], max_new_tokens=3).tokens
    assert tokens.shape == (2, 3)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_batches_in_float64_are_finite(family):
    hf_model, processor = testing.tiny(family)
    model = HookedVLM.wrap(hf_model.double(), processor)
    inputs = padded(model)
    plain, hooked = model(inputs), model.run_with_hooks(inputs, fwd_hooks=edits(model, inputs)[1])
    assert hooked.dtype == torch.float64
    assert hooked.isfinite().all()
    real = inputs.tensors["attention_mask"].bool()
    torch.testing.assert_close(hooked[real], plain[real], atol=1e-5, rtol=0)  # the eager softmax is in float32


@torch.no_grad()
@pytest.mark.parametrize("switch", ["set", "config"])
def test_another_attention_implementation_is_refused_when_the_model_runs(switch):
    model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
    inputs = model.prepare(picture(64, 64), "What?")
    if switch == "set":
        model.original_model.set_attn_implementation("sdpa")
    else:
        model.config.get_text_config()._attn_implementation = "eager"
    for run in (
        lambda: model(inputs),
        lambda: model.generate(inputs),
        lambda: model.run_with_cache(inputs),
        lambda: model.original_model(input_ids=inputs.input_ids, **inputs.arguments()),
        lambda: model.capabilities(),
    ):
        with pytest.raises(ModelError, match="was switched to attn_implementation='(sdpa|eager)'"):
            run()
    model.original_model.set_attn_implementation({"text_config": "gaze_lens"})
    assert model(inputs).isfinite().all()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("how", ["model.original_model.compile", "torch.compile"])
@pytest.mark.parametrize("before", [True, False], ids=["compiled before the hooks", "compiled under them"])
def test_hooks_on_a_compiled_model_are_live(how, before):
    torch._dynamo.reset()
    model = HookedVLM.wrap(*testing.tiny("Qwen3-VL", num_hidden_layers=2))
    inputs = model.prepare(picture(64, 64), "What?")
    names = ["hook_embed", "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_pattern", "blocks.0.hook_resid_post",
             "blocks.1.ln1.hook_scale", "unembed.hook_out"]  # fmt: skip
    kinds = [[(name, lambda tensor, hook: tensor * 0.5)] for name in names]
    kinds.append(gl.steer(HeadSet(["L1H0"]), inputs.region((0, 0, 32, 64))))
    expected = [model.run_with_hooks(inputs, fwd_hooks=hooks) for hooks in kinds]
    plain = model(inputs)
    compiled = model
    if how == "torch.compile":
        compiled = torch.compile(model, backend="eager")
    else:
        model.original_model.compile(backend="eager")
    if before:
        assert torch.equal(compiled(inputs), plain)
    for hooks, logits in zip(kinds, expected, strict=True):
        with model.hooks(hooks):
            assert torch.equal(compiled(inputs), logits)
        assert not torch.equal(logits, plain)
    assert torch.equal(compiled(inputs), plain)
