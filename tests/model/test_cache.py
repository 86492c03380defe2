"""What is cached of a run on images: decompositions that add up, TransformerLens' options, and the memory limit."""

import math
from functools import partial

import pytest
import torch
from reference import at_real, padded, picture
from transformer_lens import ActivationCache
from transformers import GenerationConfig

import gaze_lens as gl
import gaze_lens.model.memory_limit
from gaze_lens import testing
from gaze_lens.errors import InputError, MemoryLimitError

PAST = {
    "Mllama": "block 1 adds something else", "Gemma 4": "block 0 adds something else",
    "Gemma 3n": "no residual stream to decompose: the layer carries several",
}  # fmt: skip


def normed(stream, model):
    epsilon = model.config.text_config.rms_norm_eps
    return stream / stream.square().mean(-1, keepdim=True).add(epsilon).sqrt()


# Decompositions


@pytest.mark.parametrize(
    ("options", "stream"),
    [
        ({}, ("resid_post", 3)),
        ({"layer": -1}, ("resid_post", 3)),
        ({"layer": 0}, ("resid_pre", 0)),
        ({"layer": 1}, ("resid_pre", 1)),
        ({"layer": 2}, ("resid_pre", 2)),
        ({"layer": 1, "mlp_input": True}, ("resid_mid", 1)),
    ],
    ids=str,
)
@torch.no_grad()
def test_decompositions_add_up_to_the_stream(pair, options, stream):
    model, _ = pair
    inputs = padded(model)
    _, cache = model.run_with_cache(inputs)
    assert isinstance(cache, ActivationCache)
    expected = cache[stream]
    for more, meant in (
        ({}, expected),
        ({"pos_slice": -1}, expected[:, -1]),
        ({"pos_slice": (20, 24)}, expected[:, 20:24]),
        ({"apply_ln": True}, normed(expected, model)),
        ({"apply_ln": True, "pos_slice": [3, -1]}, normed(expected[:, [3, -1]], model)),
    ):
        components, labels = cache.decompose_resid(**options, **more, return_labels=True)
        assert len(components) == len(labels) == len(set(labels))
        torch.testing.assert_close(components.sum(0), meant, atol=2e-5, rtol=0)
        assert torch.equal(cache.decompose_resid(**options, **more), components)
        heads, labels = cache.get_full_resid_decomposition(**options, **more, expand_neurons=False, return_labels=True)
        assert len(heads) == len(labels) == len(set(labels))
        torch.testing.assert_close(heads.sum(0), meant, atol=2e-5, rtol=0)


@torch.no_grad()
def test_what_the_image_adds_is_what_the_vision_tower_gave(pair):
    model, untouched = pair
    inputs = padded(model)
    vision = {name: inputs.tensors[name] for name in ("pixel_values", "image_grid_thw")}
    features = untouched.model.get_image_features(**vision, return_dict=True)
    components, labels = model.run_with_cache(inputs)[1].decompose_resid(return_labels=True)
    named = dict(zip(labels, components, strict=True))
    at_image = torch.zeros(inputs.shape, dtype=torch.bool)
    for row, positions in enumerate(inputs.layout.images):
        at_image[row, list(positions)] = True
    image = named["image"] + named["embed"]
    torch.testing.assert_close(image[at_image], torch.cat(features.pooler_output), atol=1e-5, rtol=0)
    levels = features.get("deepstack_features") or []
    added = [label for label in labels if "deepstack" in label]
    assert added == [f"{layer}_deepstack" for layer in range(2 if model.family.deepstack else 0)]
    for label, level in zip(added, levels, strict=True):
        level = level if isinstance(level, torch.Tensor) else torch.cat(tuple(level))
        torch.testing.assert_close(named[label][at_image], level, atol=1e-5, rtol=0)
    for label in ("image", *added):
        assert named[label][~at_image].abs().max() == 0
        assert named[label][at_image].abs().max() > 0.01


@torch.no_grad()
def test_neurons_and_projections_add_up(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = padded(model)
    _, cache = model.run_with_cache(inputs)
    whole, labels = cache.get_full_resid_decomposition(pos_slice=-1, return_labels=True)
    assert len(whole) == len(labels) == 4 * 4 + 4 * 96 + 2 + 1 + 2, "heads, neurons, embed and bias, image, DeepStack"
    expected = cache["resid_post", 3][:, -1]
    torch.testing.assert_close(whole.sum(0), expected, atol=2e-5, rtol=0)
    directions = torch.randn(64, 3, generator=torch.manual_seed(0))
    for onto in (directions, directions[:, 0]):
        for apply_ln in (False, True):
            parts = cache.get_full_resid_decomposition(pos_slice=-1, apply_ln=apply_ln, project_output_onto=onto)
            meant = (normed(expected, model) if apply_ln else expected) @ onto
            torch.testing.assert_close(parts.sum(0), meant, atol=2e-5, rtol=0)


@torch.no_grad()
def test_attributions_and_accumulations_reach_the_logits(pair):
    model, _ = pair
    inputs = padded(model)
    logits, cache = model.run_with_cache(inputs)
    tokens = torch.tensor([65, 66])
    attributions = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), tokens, pos_slice=-1)
    torch.testing.assert_close(attributions.sum(0), logits[[0, 1], -1, tokens], atol=2e-5, rtol=0)
    accumulated, labels = cache.accumulated_resid(return_labels=True)
    assert torch.equal(accumulated[2], cache["resid_pre", 2])
    assert torch.equal(accumulated[-1], cache["resid_post", 3])
    assert len(labels) == 5


@pytest.fixture(scope="module", params=list(testing.BUILDERS))
def weighted(request):
    """A tiny model of each family whose norms have weights that are neither 0 nor 1."""
    hf_model, processor = testing.tiny(request.param)
    generator = torch.manual_seed(0)
    for parameter in hf_model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return gl.HookedVLM.wrap(hf_model, processor)


@torch.no_grad()
def test_attributions_sum_to_the_logits_whether_norms_are_folded_or_not(weighted):
    inputs, tokens = padded(weighted), torch.tensor([65, 66])
    before = at_real(weighted(inputs), inputs).log_softmax(-1)
    for folded in (False, True):
        if folded:
            weighted.enable_compatibility_mode(disable_warnings=True)
        logits, cache = weighted.run_with_cache(inputs)
        torch.testing.assert_close(at_real(logits, inputs).log_softmax(-1), before, atol=2e-5, rtol=0)
        if weighted.family.name == "Gemma 3n":
            for refused in (cache.decompose_resid, cache.accumulated_resid, cache.logit_lens):
                with pytest.raises((InputError, ValueError), match="no residual stream|stack of residual streams"):
                    refused()
            continue
        decomposed = weighted.family.name not in PAST
        parts = cache.decompose_resid(pos_slice=-1) if decomposed else cache.accumulated_resid(pos_slice=-1)[-1:]
        expected = logits[[0, 1], -1, tokens]
        cap = weighted.config.get_text_config().to_dict().get("final_logit_softcapping")
        expected = expected if cap is None else cap * (expected / cap).atanh()
        summed = cache.logit_attrs(parts, tokens, pos_slice=-1).sum(0)
        torch.testing.assert_close(summed, expected, atol=2e-5, rtol=0)
        differences = cache.logit_attrs(parts, tokens, tokens + 1, pos_slice=-1).sum(0)
        assert (differences - summed).abs().max() > 0.01
        lens = cache.logit_lens(positions=None)
        torch.testing.assert_close(lens.values[-1], logits, atol=2e-5, rtol=0)


@torch.no_grad()
def test_directions_of_tokens_have_what_a_model_multiplies_its_logits_by(model, monkeypatch):
    tokens = torch.tensor([[65, 66], [67, 68]])
    plain = model.tokens_to_residual_directions(tokens)
    torch.testing.assert_close(plain, model.W_U[:, tokens].movedim(0, -1) * model.ln_final.weight)
    torch.testing.assert_close(model.tokens_to_residual_directions(65), plain[0, 0])
    monkeypatch.setattr(model.adapter, "apply_output_logits_transform", lambda logits: 3 * (logits / 12).tanh())
    torch.testing.assert_close(model.tokens_to_residual_directions(tokens), plain / 4)


@torch.no_grad()
def test_a_prompt_without_an_image_gets_nothing_from_one(model):
    _, cache = model.run_with_cache(model.prepare(None, "Only text."))
    components, labels = cache.decompose_resid(return_labels=True)
    assert not any("deepstack" in label for label in labels)
    assert components[labels.index("image")].abs().max() == 0
    torch.testing.assert_close(components.sum(0), cache["resid_post", 3], atol=2e-5, rtol=0)


def test_a_decomposition_that_lacks_activations_is_refused(model):
    parts = ("hook_embed", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    _, cache = model.run_with_cache(padded(model), names_filter=lambda name: name.endswith(parts))
    with pytest.raises(InputError, match="blocks.0.hook_resid_pre.*Keep hook_embed"):
        cache.decompose_resid()


# Families whose blocks do more than add

NORMED = "norms or gates the sum of its heads"
HEADLESS = {
    **dict.fromkeys(("GLM-4V", "GLM-4.6V", "GLM-OCR", "PaliGemma 2", "Gemma 3", "Gemma 3 pan and scan"), NORMED),
    **dict.fromkeys(
        ("Qwen3.5", "Qwen3.5-MoE", "MiniCPM-V 4.6", "MiniCPM-V 4.7"), "Layer 0 has linear attention and no heads"
    ),
    "LFM2-VL": "Layer 0 has a convolution and no heads",
}


@pytest.mark.parametrize("family", list(testing.BUILDERS))
@torch.no_grad()
def test_a_decomposition_adds_up_or_is_refused(shelf, family):
    model, _ = shelf.get(family)
    _, cache = model.run_with_cache(padded(model))
    last = model.cfg.n_layers - 1
    for decompose, refused in (
        (cache.decompose_resid, PAST),
        (partial(cache.get_full_resid_decomposition, expand_neurons=False), {**HEADLESS, **PAST}),
    ):
        if family in refused:
            with pytest.raises(InputError, match=refused[family]):
                decompose()
            continue
        torch.testing.assert_close(decompose().sum(0), cache["resid_post", last], atol=2e-5, rtol=0)
        torch.testing.assert_close(decompose(layer=2).sum(0), cache["resid_pre", 2], atol=2e-5, rtol=0)
    if family == "Gemma 3n":
        with pytest.raises(InputError, match=PAST[family]):
            cache.accumulated_resid()
    else:
        assert torch.equal(cache.accumulated_resid()[-1], cache["resid_post", last])
    if family in {*HEADLESS, *PAST}:
        with pytest.raises(InputError, match=HEADLESS.get(family, NORMED)):
            cache.stack_head_results(layer=2)
    else:
        heads = cache.stack_head_results(layer=2)[model.cfg.n_heads :].sum(0)
        bias = model.blocks[1].attn.b_O
        torch.testing.assert_close(heads if bias is None else heads + bias, cache["attn_out", 1], atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_decomposition_of_an_edited_stream_is_refused(model):
    with model.hooks([("blocks.1.hook_resid_post", lambda stream, hook: stream * 1.01)]):
        _, cache = model.run_with_cache(padded(model))
    with pytest.raises(InputError, match="block 1 adds something else.*a hook edited the stream"):
        cache.decompose_resid()
    assert len(cache.decompose_resid(layer=1)) == 5


def test_blocks_that_are_parallel_have_no_middle(shelf):
    model, _ = shelf.get("AyaVision")
    _, cache = model.run_with_cache(padded(model))
    with pytest.raises(InputError, match="read the same stream; leave out mlp_input"):
        cache.decompose_resid(layer=1, mlp_input=True)


# TransformerLens' options


@torch.no_grad()
def test_filters_slices_and_the_batch_dimension(model):
    inputs = model.prepare(picture(96, 64), "What?")
    logits, cache = model.run_with_cache(inputs)
    name = "blocks.1.attn.hook_pattern"
    for names in (name, [name], lambda other: other == name):
        part_logits, part = model.run_with_cache(inputs, names_filter=names)
        assert list(part) == [name]
        torch.testing.assert_close(part[name], cache[name], atol=1e-5, rtol=0)
        torch.testing.assert_close(part_logits, logits, atol=1e-5, rtol=0)
    for positions, columns in ((-1, [-1]), ((3, 6), [3, 4, 5]), ([0, 7], [0, 7])):
        _, part = model.run_with_cache(inputs, pos_slice=positions)
        for kept in ("attn_scores", "pattern"):
            assert torch.equal(part[kept, 2], cache[kept, 2][:, :, columns])
        assert torch.equal(part["resid_post", 2], cache["resid_post", 2][:, columns])
    _, bare = model.run_with_cache(inputs, remove_batch_dim=True)
    assert torch.equal(bare["pattern", 2], cache["pattern", 2][0])
    summed = bare.decompose_resid(pos_slice=-1).sum(0)
    torch.testing.assert_close(summed, cache["resid_post", 3][0, -1], atol=2e-5, rtol=0)
    _, plain = model.run_with_cache(inputs, False, False, name)
    assert isinstance(plain, dict)
    assert list(plain) == [name]
    stopped, early = model.run_with_cache(inputs, stop_at_layer=2)
    assert torch.equal(stopped, cache["resid_pre", 2])
    assert not any(kept.startswith("blocks.2") for kept in early)


def test_a_row_of_a_cache_is_decomposed_as_all_are(model):
    _, cache = model.run_with_cache(padded(model))
    for name, one in (("first", cache.apply_slice_to_batch_dim(0)), ("both", cache.apply_slice_to_batch_dim([1, 0]))):
        stack, labels = one.decompose_resid(return_labels=True)
        assert "image" in labels
        torch.testing.assert_close(stack.sum(0), one["resid_post", 3], atol=1e-4, rtol=1e-4, msg=name)
    assert torch.equal(one["resid_post", 3][1], cache["resid_post", 3][0])


def test_gradients_are_cached_too(model):
    inputs, kept = padded(model), {}
    name = "blocks.1.attn.hook_pattern"
    keep = [(name, lambda pattern, hook: kept.update(pattern=pattern))]
    loss = model.run_with_hooks(inputs, fwd_hooks=keep, return_type="loss")
    [expected] = torch.autograd.grad(loss, kept["pattern"])
    cached_loss, cache = model.run_with_cache(inputs, names_filter=name, incl_bwd=True, return_type="loss")
    model.original_model.zero_grad()
    torch.testing.assert_close(cached_loss, loss)
    torch.testing.assert_close(cache[f"{name}_grad"], expected, rtol=1e-4, atol=1e-7)
    assert expected.abs().max() > 1e-4


@torch.no_grad()
def test_caching_composes_with_edits(model):
    inputs = padded(model)
    with model.hooks([("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern * 0)]):
        logits, cache = model.run_with_cache(inputs)
    assert cache["pattern", 1].abs().max() == 0
    assert cache["z", 1].abs().max() == 0
    plain, _ = model.run_with_cache(inputs)
    assert (at_real(logits, inputs) - at_real(plain, inputs)).abs().max() > 0.1


# The memory limit


def test_the_limit_counts_what_will_be_kept(model):
    inputs = padded(model)
    matrix = 2 * 4 * 50 * 50 * 4
    patterns = "blocks.2.attn.hook_pattern"
    for options, needed in (
        ({}, 8 * matrix),
        ({"names_filter": patterns}, matrix),
        ({"names_filter": lambda name: name.endswith("hook_pattern")}, 4 * matrix),
        ({"names_filter": patterns, "pos_slice": -1}, matrix // 50),
        ({"pos_slice": (10, 15)}, 8 * matrix // 10),
        ({"stop_at_layer": 2}, 4 * matrix),
        ({"stop_at_layer": -1}, 6 * matrix),
        ({"names_filter": "hook_embed"}, 0),
    ):
        model.run_with_cache(inputs, max_bytes=needed, **options)
        if needed:
            with pytest.raises(MemoryLimitError, match=f"{needed:,} bytes.*{needed - 1:,} are allowed.*names_filter="):
                model.run_with_cache(inputs, max_bytes=needed - 1, **options)
    with pytest.raises(MemoryLimitError, match=f"{2 * matrix:,} bytes"):
        model.run_with_cache(inputs, max_bytes=5, names_filter=patterns, incl_bwd=True, return_type="loss")
    with pytest.raises(MemoryLimitError, match=f"{matrix:,} bytes"):
        model.run_with_cache(inputs, True, False, patterns, max_bytes=5)
    with pytest.raises(MemoryLimitError, match=f"{4 * matrix:,} bytes"):
        model.generate(inputs, names_filter=lambda name: name.endswith("pattern"), max_bytes=5)
    with pytest.raises(MemoryLimitError, match=rf"{3 * matrix:,} bytes"):
        model.run_with_cache(model.encode(inputs), copies=3, names_filter=patterns, max_bytes=2 * matrix)
    for options in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with pytest.raises(MemoryLimitError, match=f"{2 * matrix:,} bytes"):
            model.generate(inputs, names_filter=patterns, max_bytes=matrix, max_new_tokens=1, **options)
    config = GenerationConfig(num_beams=2, max_new_tokens=1)
    with pytest.raises(MemoryLimitError, match=f"{2 * matrix:,} bytes"):
        model.generate(inputs, names_filter=patterns, max_bytes=matrix, generation_config=config)


def test_the_limit_is_half_of_the_free_memory_and_can_be_lifted(model, monkeypatch):
    inputs, ran = padded(model), []
    assert 2**20 < gaze_lens.model.memory_limit.free_memory(model) < 2**50
    monkeypatch.setattr(gaze_lens.model.memory_limit, "free_memory", lambda model: 1000)
    with model.hooks([("hook_embed", lambda tensor, hook: ran.append(1))]):
        with pytest.raises(MemoryLimitError, match="500 are allowed"):
            model.run_with_cache(inputs)
        assert not ran, "refused before it starts"
        model.run_with_cache(inputs, max_bytes=math.inf)
        assert ran
    for wrong in (math.nan, -1.0):
        with pytest.raises(InputError, match="max_bytes"):
            model.run_with_cache(inputs, max_bytes=wrong)
