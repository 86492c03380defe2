"""Bridges made live: nothing is lost where TransformerLens computed attention itself, nothing is silent anywhere."""

import copy

import pytest
import torch
from reference import at_real, eager, full, padded, picture
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from gaze_lens import HookedVLM, testing
from gaze_lens.errors import HookError, ModelError

COMPUTING = ("LLaVA", "LLaVA-NeXT", "Gemma 3", "Idefics3", "Mistral3", "Qwen3.5")  # bridges that compute it themselves
DELEGATING = ("Qwen2.5-VL", "GLM-4V", "Llama 4")
SWITCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in")


def transformer_lens(family, **changes):
    """TransformerLens' own bridge of a tiny model, and the processor."""
    hf_model, processor = testing.tiny(family, **changes)
    architecture = type(hf_model).__name__
    return build_bridge_from_module(hf_model, architecture, hf_config=hf_model.config, tokenizer=None), processor


@pytest.fixture(params=COMPUTING)
def rivals(request, shelf):
    """A `HookedVLM`, TransformerLens' own bridge, one prompt."""
    model, _ = shelf.get(request.param)
    return model, transformer_lens(request.param)[0], model.prepare(picture(96, 64), "What?")


def attention_points(bridge, switch=None):
    """The attention hook points that are on."""
    points = {point.name: point for point in bridge.hook_dict.values() if ".attn." in point.name}
    names = [name for name in points if name.startswith("blocks") and bridge._gated_hook_reason(name) is None]
    return names if switch is None else [name for name in names if "_input" in name or "attn_in" in name]


def recorded(bridge, inputs, names):
    kept = {}
    hooks = [(name, lambda tensor, hook: kept.setdefault(hook.name, tensor.clone())) for name in names]
    bridge.run_with_hooks(inputs.input_ids, fwd_hooks=hooks, **inputs.arguments())
    return kept


@torch.no_grad()
def test_every_hook_point_holds_what_transformer_lens_computed(rivals):
    model, rival, inputs = rivals
    theirs = recorded(rival, inputs, attention_points(rival))
    ours = recorded(model, inputs, attention_points(model))
    assert set(theirs) == set(ours)
    assert {name.split(".")[3] for name in ours} >= {"hook_attn_scores", "hook_pattern", "hook_rot_q", "hook_cos"}
    for name, expected in theirs.items():
        if "_norm." in name and ours[name].shape != expected.shape:  # the norm's own points: as the model calls it
            ours[name] = ours[name].transpose(1, 2)
        assert ours[name].shape == expected.shape, name
        masked = expected < -1e30
        assert torch.equal(masked, ours[name] < -1e30), name
        difference = (ours[name] - expected)[~masked].abs().max()
        assert difference < 2e-5 * max(1.0, float(expected[~masked].abs().max())), name


@pytest.mark.parametrize("switch", SWITCHES)
@torch.no_grad()
def test_switched_hook_points_hold_what_transformer_lens_computed(rivals, switch):
    model, rival, inputs = rivals
    if model.family.name == "Qwen3.5" and switch != "use_attn_result":
        pytest.skip("TransformerLens refuses split inputs beside a gate; test_every_family_heads has them")
    kept = []
    for bridge in (rival, model):
        getattr(bridge, f"set_{switch}")(True)
        kept.append(recorded(bridge, inputs, attention_points(bridge)))
        getattr(bridge, f"set_{switch}")(False)
    theirs, ours = kept
    assert set(theirs) <= set(ours)
    for name in theirs:
        if name.endswith(("result", "input", "attn_in", "hook_z")):
            torch.testing.assert_close(ours[name], theirs[name], atol=5e-5, rtol=1e-5)


@torch.no_grad()
def test_edits_do_what_they_did(rivals):
    """The same change at the same hook point moves the logits as in TransformerLens' own computation."""
    model, rival, inputs = rivals
    layer = model.capabilities((96, 64)).live[0]
    plain = model(inputs)
    skipped = ("attn_scores",)  # changed below, where a masked value stays masked
    for name in sorted(set(attention_points(model))):
        if not name.startswith(f"blocks.{layer}.") or name.endswith(skipped):
            continue

        def stretch(tensor, hook):
            return tensor * torch.linspace(0.5, 1.5, tensor.shape[-1])

        ours = model.run_with_hooks(inputs, fwd_hooks=[(name, stretch)])
        theirs = rival.run_with_hooks(inputs.input_ids, fwd_hooks=[(name, stretch)], **inputs.arguments())
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
        assert (ours - plain).abs().max() > 1e-4, name


@torch.no_grad()
def test_scores_are_edited_as_in_transformer_lens(rivals):
    model, rival, inputs = rivals
    name = f"blocks.{model.capabilities((96, 64)).live[-1]}.attn.hook_attn_scores"

    def lean(scores, hook):
        return scores + torch.linspace(-3, 3, scores.shape[-1]) * (scores > -1e30)

    ours = model.run_with_hooks(inputs, fwd_hooks=[(name, lean)])
    theirs = rival.run_with_hooks(inputs.input_ids, fwd_hooks=[(name, lean)], **inputs.arguments())
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=0)
    assert (ours - model(inputs)).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["Gemma 3", "Qwen3.5"])  # one norms before the heads are second, one after
@torch.no_grad()
def test_slices_of_normed_queries_are_slices_of_positions(shelf, family):
    model, _ = shelf.get(family)
    inputs = model.prepare(picture(96, 64), "What?")
    layer = model.capabilities((96, 64)).live[0]
    names = [f"blocks.{layer}.attn.{name}" for name in ("hook_q_normed", "hook_k_normed", "q_norm.hook_out")]
    _, whole = model.run_with_cache(inputs, names_filter=names)
    _, last = model.run_with_cache(inputs, names_filter=names, pos_slice=-1)
    for name in names[:2]:
        assert whole[name].shape[2] == inputs.layout.length
        assert torch.equal(last[name], whole[name][:, :, -1:])
    axis = list(whole[names[2]].shape).index(inputs.layout.length)
    assert torch.equal(last[names[2]], whole[names[2]].narrow(axis, inputs.layout.length - 1, 1))


# Bridges that exist already


@pytest.mark.parametrize("family", [*COMPUTING, *DELEGATING])
@torch.no_grad()
def test_a_bridge_comes_alive_in_place(family, shelf):
    bridge, processor = transformer_lens(family)
    block, point = bridge.blocks[0], bridge.hook_dict["hook_embed"]
    model = HookedVLM.wrap(bridge, processor)
    assert model is bridge
    assert type(model) is HookedVLM
    assert model.blocks[0] is block
    assert model.hook_dict["hook_embed"] is point
    usual, untouched = shelf.get(family)
    inputs = padded(usual)
    live = usual.capabilities((96, 64)).live
    reference = copy.deepcopy(untouched)
    reference.set_attn_implementation("eager")  # TransformerLens has switched the vision tower too
    expected = at_real(reference(**inputs.tensors).logits, inputs)
    assert torch.equal(at_real(model.run_with_hooks(inputs, fwd_hooks=full(live)), inputs), expected)
    drop = [(f"blocks.{live[0]}.attn.hook_pattern", lambda pattern, hook: pattern * 0)]
    edited = at_real(model.run_with_hooks(inputs, fwd_hooks=drop), inputs)
    assert (edited - expected).abs().max() > 0.01
    in_ours = at_real(usual.run_with_hooks(inputs, fwd_hooks=drop), inputs)
    torch.testing.assert_close(edited, in_ours, atol=5e-5 * float(in_ours.abs().max()), rtol=0)


def test_no_module_of_a_model_in_evaluation_mode_is_in_training_mode():
    """TransformerLens' patching refuses such a model."""
    model = HookedVLM.wrap(*testing.tiny("Qwen3-VL"))
    assert [name for name, module in model.named_modules() if module.training] == []


def test_hooks_on_a_bridge_stay_when_it_is_wrapped():
    bridge, processor = transformer_lens("LLaVA")
    seen = []
    bridge.add_hook("blocks.1.attn.hook_pattern", lambda pattern, hook: seen.append(pattern.shape))
    model = HookedVLM.wrap(bridge, processor)
    model(model.prepare(picture(96, 64), "What?"))
    assert len(seen) == 1


def test_wrapping_twice_is_refused():
    bridge, processor = transformer_lens("LLaVA")
    with pytest.raises(ModelError, match=r"TransformerBridge goes into HookedVLM.wrap itself"):
        HookedVLM.wrap(bridge.original_model, processor)
    model = HookedVLM.wrap(bridge, processor)
    for again in (model, model.original_model):
        with pytest.raises(ModelError, match="wrapped already"):
            HookedVLM.wrap(again, processor)
    assert isinstance(model, TransformerBridge)


def test_a_bridge_that_cannot_come_alive_is_left_as_it_was():
    bridge, processor = transformer_lens("LLaVA", num_hidden_layers=1)
    bridge.original_model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="flash_attention_2"):
        HookedVLM.wrap(bridge, processor)
    assert type(bridge) is TransformerBridge


# Hook points that cannot fire

SILENT = {
    "Gemma 4": ("blocks.3.attn.hook_rot_k", "takes its keys and values from an earlier layer"),
    "Mllama": ("blocks.1.attn.hook_rot_q", "cross-attention has no rotary embedding"),
    "LLaVA": ("blocks.0.attn.hook_q_normed", "does not normalise"),
    "Qwen3.5": ("blocks.0.attn.hook_pattern", "layer 0 has no softmax attention.*The layers that have are \\[1, 3\\]"),
    "Qwen3-VL": ("blocks.0.attn.hook_hidden_states", "never fires it; use hook_in"),
}


@pytest.mark.parametrize("family", SILENT)
def test_naming_what_cannot_fire_tells_why(shelf, family):
    model, _ = shelf.get(family)
    inputs = model.prepare(picture(96, 64), "What?")
    name, reason = SILENT[family]
    hooks = [(name, lambda tensor, hook: None)]
    assert name not in model.hook_dict
    with pytest.raises(HookError, match=reason):
        model.run_with_hooks(inputs, fwd_hooks=hooks)
    with pytest.raises(HookError, match=reason), model.hooks(hooks):
        model(inputs)
    with pytest.raises(HookError, match=reason):
        model.add_hook(name, hooks[0][1])
    for names in (name, ["blocks.0.hook_resid_pre", name]):
        with pytest.raises(HookError, match=reason):
            model.run_with_cache(inputs, names_filter=names)
        with pytest.raises(HookError, match=reason):
            model.generate(inputs, names_filter=names, max_new_tokens=1)
    with pytest.raises(KeyError, match="hook_nonsense"):
        model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_nonsense", hooks[0][1])])


@pytest.mark.parametrize("family", list(testing.BUILDERS))
@torch.no_grad()
def test_every_attention_hook_point_fires(shelf, family):
    model, _ = shelf.get(family)
    inputs, fired = padded(model), set()
    for switch in (None, *SWITCHES):
        if switch is not None:
            getattr(model, f"set_{switch}")(True)
        fired |= set(recorded(model, inputs, attention_points(model)))
        if switch is not None:
            getattr(model, f"set_{switch}")(False)
    points = [point.name for point in model.hook_dict.values()]
    named = {name for name in points if name.startswith("blocks") and ".attn." in name}
    assert named == fired
    assert len(named) >= 15 * len(model.capabilities((96, 64)).live)
    _, cache = model.run_with_cache(inputs)
    assert f"blocks.{model.capabilities((96, 64)).live[-1]}.attn.hook_pattern" in cache


@torch.no_grad()
def test_edited_keys_reach_the_layers_that_use_them_again(shelf):
    """Gemma 4's last layers take their keys from earlier ones; twice as long keys are a key norm twice as strong."""
    model, untouched = shelf.get("Gemma 4")
    inputs, layer = padded(model), 1
    assert "k" not in model.blocks[3].attn._modules
    stronger = eager(untouched)
    stronger.model.language_model.layers[layer].self_attn.k_norm.weight.data *= 2

    def double(key, hook):
        return key * 2

    hooks = [(f"blocks.{layer}.attn.hook_rot_k", double), *full()]
    expected = at_real(stronger(**inputs.tensors).logits, inputs)
    torch.testing.assert_close(at_real(model.run_with_hooks(inputs, fwd_hooks=hooks), inputs), expected)
    generated = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=6).sequences
    assert torch.equal(generated, stronger.generate(**inputs.tensors, max_new_tokens=6, do_sample=False))
    assert (expected - at_real(model(inputs), inputs)).abs().max() > 0.01


# Text models that are special


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_only_layers": [0]}
SINKS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
VARIANTS = {
    "sinks": ("InternVL", {"model_type": "gpt_oss", **SINKS}),
    "experts": ("InternVL", {"model_type": "qwen3_moe", **MOE}),
    "norms of queries": ("LLaVA", {"model_type": "qwen3"}),
    "values that are keys": ("Gemma 4", {"attention_k_eq_v": True, "num_kv_shared_layers": 0}),
    "norms after": ("Molmo2", {"norm_after": True, "qk_norm_type": "olmo"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_special_text_models_are_hugging_faces(variant):
    family, changes = VARIANTS[variant]
    untouched, processor = testing.tiny(family, **changes)
    for name, parameter in untouched.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter, generator=torch.manual_seed(1))
    model = HookedVLM.wrap(copy.deepcopy(untouched), processor)
    inputs = padded(model)
    expected = at_real(eager(untouched)(**inputs.tensors).logits, inputs)
    assert torch.equal(at_real(model.run_with_hooks(inputs, fwd_hooks=full()), inputs), expected)
    default = at_real(untouched(**inputs.tensors).logits, inputs)
    torch.testing.assert_close(at_real(model(inputs), inputs), default, atol=1e-5, rtol=0)
    patterns = eager(untouched)(**inputs.tensors, output_attentions=True).attentions
    _, cache = model.run_with_cache(inputs)
    real = inputs.tensors["attention_mask"].bool()
    for layer, pattern in enumerate(patterns):
        assert torch.equal(cache["pattern", layer].transpose(1, 2)[real], pattern.transpose(1, 2)[real])
    generated = model.generate(inputs, fwd_hooks=full(), max_new_tokens=5).sequences
    assert torch.equal(generated, eager(untouched).generate(**inputs.tensors, max_new_tokens=5, do_sample=False))
    if variant == "values that are keys":
        with pytest.raises(HookError, match="values are its keys"):
            model.run_with_hooks(inputs, fwd_hooks=[("blocks.3.attn.hook_v", lambda tensor, hook: None)])


@pytest.mark.parametrize(
    ("family", "dtype"), [*((name, torch.bfloat16) for name in testing.BUILDERS), ("Llama 4", torch.float16)]
)
@torch.no_grad()
def test_half_precision_is_rounded_as_the_model_does(shelf, family, dtype):
    untouched = copy.deepcopy(shelf.get(family)[1]).to(dtype)
    reference = eager(untouched)
    model = HookedVLM.wrap(untouched, shelf.get(family)[0].processor)
    inputs = padded(model)
    hooks = full(model.capabilities((96, 64)).live)
    got = at_real(model.run_with_hooks(inputs, fwd_hooks=hooks), inputs)
    assert got.dtype == dtype
    assert torch.equal(got, at_real(reference(**inputs.tensors).logits, inputs))
