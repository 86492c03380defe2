"""Attribution patching as TransformerLens' Attribution_Patching_Demo writes it, on prompts with images."""

import einops
import pytest
import torch
from reference import padded, picture
from transformer_lens import ActivationCache

from gaze_lens import testing
from gaze_lens.errors import InputError

# The functions of the demo


def filter_not_qkv_input(name):
    return "_input" not in name


def get_cache_fwd_and_bwd(model, tokens, metric):
    model.reset_hooks()
    cache = {}

    def forward_cache_hook(act, hook):
        cache[hook.name] = act.detach()

    model.add_hook(filter_not_qkv_input, forward_cache_hook, "fwd")
    grad_cache = {}

    def backward_cache_hook(act, hook):
        grad_cache[hook.name] = act.detach()

    model.add_hook(filter_not_qkv_input, backward_cache_hook, "bwd")
    value = metric(model(tokens))
    value.backward()
    model.reset_hooks()
    return value.item(), ActivationCache(cache, model), ActivationCache(grad_cache, model)


def attr_patch_residual(clean_cache, corrupted_cache, corrupted_grad_cache):
    clean_residual, residual_labels = clean_cache.accumulated_resid(-1, incl_mid=True, return_labels=True)
    corrupted_residual = corrupted_cache.accumulated_resid(-1, incl_mid=True, return_labels=False)
    corrupted_grad_residual = corrupted_grad_cache.accumulated_resid(-1, incl_mid=True, return_labels=False)
    residual_attr = einops.reduce(
        corrupted_grad_residual * (clean_residual - corrupted_residual),
        "component batch pos d_model -> component pos",
        "sum",
    )
    return residual_attr, residual_labels


def attr_patch_layer_out(clean_cache, corrupted_cache, corrupted_grad_cache):
    clean_layer_out, labels = clean_cache.decompose_resid(-1, return_labels=True)
    corrupted_layer_out = corrupted_cache.decompose_resid(-1, return_labels=False)
    corrupted_grad_layer_out = corrupted_grad_cache.decompose_resid(-1, return_labels=False)
    layer_out_attr = einops.reduce(
        corrupted_grad_layer_out * (clean_layer_out - corrupted_layer_out),
        "component batch pos d_model -> component pos",
        "sum",
    )
    return layer_out_attr, labels


def attr_patch_head_out(clean_cache, corrupted_cache, corrupted_grad_cache):
    clean_head_out = clean_cache.stack_head_results(-1, return_labels=False)
    corrupted_head_out = corrupted_cache.stack_head_results(-1, return_labels=False)
    corrupted_grad_head_out = corrupted_grad_cache.stack_head_results(-1, return_labels=False)
    return einops.reduce(
        corrupted_grad_head_out * (clean_head_out - corrupted_head_out),
        "component batch pos d_model -> component pos",
        "sum",
    )


# What they give


def metric(logits):
    return (logits[:, -1, 65] - logits[:, -1, 66]).mean()


def pictures(model):
    """The prompts of `padded`, and the same prompts about other pictures."""
    other = picture(96, 64, seed=5), picture(64, 64, seed=6)
    return padded(model), model.prepare([other[0], [other[1], other[0]]], ["What?", "a longer question"])


def slopes(model, inputs, names, direction):
    """The slope of the metric as a step along a direction is made at each hook point: `[name, position]`."""
    found = []
    for name, along in zip(names, direction, strict=True):
        step = torch.zeros(along.shape[1], requires_grad=True)
        hooks = [(name, lambda tensor, hook, along=along, step=step: tensor + step[:, None] * along)]
        [slope] = torch.autograd.grad(metric(model.run_with_hooks(inputs, fwd_hooks=hooks)), step)
        found.append(slope)
    return torch.stack(found)


def names_of(labels):
    """Where each part of a decomposition enters the stream."""
    for label in labels:
        layer, _, part = label.partition("_")
        if part == "deepstack":
            yield f"blocks.{int(layer) + 1}.hook_resid_pre"
        else:
            yield {"embed": "hook_embed", "image": "blocks.0.hook_resid_pre"}.get(label, f"blocks.{layer}.hook_{part}")


@pytest.mark.parametrize("results", [False, True], ids=["heads from z", "hook_result"])
@pytest.mark.parametrize("family", ["Qwen3-VL", "LLaVA", "AyaVision"])
def test_the_demos_attributions_are_slopes_along_each_part(shelf, family, results):
    model, _ = shelf.get(family)
    clean, corrupted = pictures(model)
    model.set_use_attn_result(results)
    _, clean_cache, _ = get_cache_fwd_and_bwd(model, clean, metric)
    _, cache, gradients = get_cache_fwd_and_bwd(model, corrupted, metric)
    model.set_use_attn_result(False)
    model.original_model.zero_grad()
    assert gradients.holds_gradients
    assert not cache.holds_gradients

    with torch.no_grad():
        by_part, labels = attr_patch_layer_out(clean_cache, cache, gradients)
        difference = clean_cache.decompose_resid() - cache.decompose_resid()
        assert labels == gradients.decompose_resid(return_labels=True)[1]
        by_head = attr_patch_head_out(clean_cache, cache, gradients)
    expected = slopes(model, corrupted, list(names_of(labels)), difference)
    torch.testing.assert_close(by_part, expected, atol=1e-4, rtol=1e-3)
    assert by_part[labels.index("image")].abs().max() > 1e-3
    assert ("0_deepstack" in labels) == model.family.deepstack

    with torch.no_grad():
        results = clean_cache.stack_head_results(-1) - cache.stack_head_results(-1)
    n = model.cfg.n_heads
    names = [f"blocks.{index // n}.hook_attn_out" for index in range(len(results))]
    torch.testing.assert_close(by_head, slopes(model, corrupted, names, results), atol=1e-4, rtol=1e-3)

    if family != "AyaVision":  # whose blocks have no middle
        with torch.no_grad():
            by_stream, labels = attr_patch_residual(clean_cache, cache, gradients)
            difference = clean_cache.accumulated_resid(incl_mid=True) - cache.accumulated_resid(incl_mid=True)
        streams = [f"blocks.{label.split('_')[0]}.hook_resid_{label.split('_')[1]}" for label in labels[:-1]]
        expected = slopes(model, corrupted, [*streams, "blocks.3.hook_resid_post"], difference)
        torch.testing.assert_close(by_stream, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", list(testing.BUILDERS))
def test_gradients_of_parts_fit_those_of_activations_or_are_refused(shelf, family):
    model, _ = shelf.get(family)
    _, cache, gradients = (
        get_cache_fwd_and_bwd(model, padded(model), metric) if family != "Gemma 4" else (0, None, None)
    )
    model.original_model.zero_grad()
    if family == "Gemma 4":
        return
    for method in ("decompose_resid", "stack_head_results"):
        try:
            parts, labels = getattr(cache, method)(return_labels=True)
        except InputError:
            with pytest.raises(InputError):
                getattr(gradients, method)()
            continue
        found, same = getattr(gradients, method)(return_labels=True)
        assert same == labels
        assert found.shape == parts.shape


def test_what_makes_no_sense_of_gradients_is_refused(model):
    inputs = padded(model)
    _, cache, gradients = get_cache_fwd_and_bwd(model, inputs, metric)
    model.original_model.zero_grad()
    for use in (
        lambda: gradients.decompose_resid(apply_ln=True),
        lambda: gradients.accumulated_resid(apply_ln=True),
        lambda: gradients.stack_head_results(apply_ln=True),
        lambda: gradients.logit_attrs(gradients.decompose_resid(), 65),
        gradients.get_full_resid_decomposition,
        gradients.compute_head_results,
    ):
        with pytest.raises(InputError, match="This cache holds gradients"):
            use()
    heads, labels = gradients.stack_head_results(2, return_labels=True, incl_remainder=True, pos_slice=-1)
    assert labels == [*(f"L{layer}H{head}" for layer in range(2) for head in range(4)), "remainder"]
    assert torch.equal(heads[-1], gradients["resid_post", 1][:, -1])
    assert torch.equal(heads[5], gradients["attn_out", 1][:, -1])


@torch.no_grad()
def test_transformer_lens_own_class_makes_a_cache_that_knows_of_images(model):
    inputs = padded(model)
    _, ours = model.run_with_cache(inputs)
    kept, hooks, _ = model.get_caching_hooks()
    model.run_with_hooks(inputs, fwd_hooks=hooks)
    for cache in (ActivationCache(ours.cache_dict, model), ActivationCache(kept, model)):
        assert type(cache) is type(ours)
        torch.testing.assert_close(cache.decompose_resid().sum(0), ours["resid_post", 3], atol=2e-5, rtol=0)
        assert torch.equal(cache["q", 1], ours["blocks.1.attn.q.hook_out"])
        with pytest.raises(KeyError, match="blocks.1.attn.hook_nothing"):
            cache["blocks.1.attn.hook_nothing"]
    assert type(ActivationCache({}, object())) is ActivationCache
