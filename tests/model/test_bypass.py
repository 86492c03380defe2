"""Idle bridges are out of the way, and no hook is lost: every hook point that fires beside all others fires alone."""

import copy

import pytest
import torch
from PIL import Image
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import LogitsProcessorList

import gaze_lens as gl
from gaze_lens import testing

FAMILIES = ["Qwen3-VL", "Qwen2.5-VL", "Gemma 3", "LLaVA"]


def wrapped(family="Qwen3-VL"):
    model = gl.HookedVLM.wrap(*testing.tiny(family, num_hidden_layers=2))
    return model, model.prepare(Image.new("RGB", (64, 64), "red"), "What?")


def bridges_in_place(model):
    modules = model.original_model.get_decoder().modules()
    return [(id(m), name) for m in modules for name, c in m._modules.items() if isinstance(c, GeneralizedComponent)]


def check_alone(model, inputs):
    """Every live hook point: what it holds beside all others, and alone."""
    names = [n for n in model.hook_dict if n.startswith("blocks.") and model._gated_hook_reason(n) is None]
    together, alone = {}, {}
    with torch.no_grad():
        model.run_with_hooks(inputs, [(n, lambda t, hook, n=n: together.update({n: t.clone()})) for n in names])
        for n in names:
            model.run_with_hooks(inputs, [(n, lambda t, hook, n=n: alone.update({n: t.clone()}))])
    assert alone.keys() == together.keys()
    for name, tensor in together.items():
        torch.testing.assert_close(alone[name], tensor, atol=2e-4, rtol=1e-4, msg=name)
    return alone


@pytest.mark.parametrize("family", FAMILIES)
def test_every_hook_point_that_fires_beside_all_others_fires_alone(family):
    assert len(check_alone(*wrapped(family))) > 40


@pytest.mark.parametrize(
    ("switch", "name"),
    [
        ("use_attn_result", "blocks.1.attn.hook_result"),
        ("use_split_qkv_input", "blocks.1.hook_q_input"),
        ("use_attn_in", "blocks.1.hook_attn_in"),
        ("use_hook_mlp_in", "blocks.1.hook_mlp_in"),
    ],
)
def test_what_is_behind_a_switch_fires_alone(switch, name):
    model, inputs = wrapped()
    model(inputs)
    getattr(model, f"set_{switch}")(True)
    assert name in check_alone(model, inputs)


def test_bridges_without_hooks_are_not_called_and_come_back():
    model, inputs = wrapped()
    before, called = bridges_in_place(model), []
    bare, _ = testing.tiny("Qwen3-VL", num_hidden_layers=2)
    norms = [block.ln1.original_component for block in model.blocks]
    for norm in norms:
        norm.register_forward_hook(lambda *_: called.append(bridges_in_place(model)))
    with torch.no_grad():
        logits = model(inputs)
        assert torch.equal(logits, bare(input_ids=inputs.input_ids, **inputs.arguments()).logits)
    assert len(called) == 2
    assert not any("self_attn" in name or "norm" in name for _, name in called[0])
    assert bridges_in_place(model) == before


@torch.no_grad()
def test_bridges_come_back_after_an_error_and_after_stop_at_layer():
    model, inputs = wrapped()
    before = bridges_in_place(model)

    def fail(tensor, hook):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        model.run_with_hooks(inputs, [("blocks.1.hook_resid_mid", fail)])
    assert bridges_in_place(model) == before
    stream = model(inputs, stop_at_layer=1)
    assert stream.shape[-1] == model.cfg.d_model
    assert bridges_in_place(model) == before


@torch.no_grad()
def test_a_forward_within_a_hook_has_its_own_hooks():
    model, inputs = wrapped()
    inner, after = [], []

    def run_again(tensor, hook):
        if inner:
            return
        inner.append(0)
        with model.hooks([("blocks.0.hook_mlp_out", lambda t, hook: inner.append(1))]):
            model(inputs)

    hooks = [("blocks.0.attn.hook_z", run_again), ("blocks.1.hook_mlp_out", lambda t, hook: after.append(1))]
    plain, logits = model(inputs), model.run_with_hooks(inputs, hooks)
    assert (inner, len(after)) == ([0, 1], 2)
    torch.testing.assert_close(logits, plain, atol=0, rtol=0)


class Attaching:
    """A streamer that attaches a hook while the model writes."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def put(self, _value):
        if not self.seen:
            self.model.add_hook("blocks.1.hook_mlp_out", lambda t, hook: self.seen.append(1))
            self.seen.append(0)

    def end(self):
        pass


def test_a_hook_attached_during_a_generation_fires_from_the_next_step_on():
    model, inputs = wrapped()
    streamer = Attaching(model)
    model.generate(inputs, streamer=streamer, max_new_tokens=4, min_new_tokens=4)
    assert sum(streamer.seen) == 4


class Turning:
    """A logits processor that adds a hook before one step, and removes it before another."""

    def __init__(self, model, name, function):
        self.model, self.name, self.function, self.step = model, name, function, 0
        self.places = []

    def __call__(self, _ids, scores):
        self.step += 1
        self.places.append(len(bridges_in_place(self.model)))
        if self.step == 2:
            self.model.add_hook(self.name, self.function)
        if self.step == 4:
            self.model.reset_hooks()
        return scores


@torch.no_grad()
@pytest.mark.parametrize("name", ["blocks.1.hook_mlp_out", "blocks.1.attn.hook_pattern", "blocks.0.ln2.hook_scale"])
def test_hooks_added_and_removed_between_steps_act_in_the_steps_between(name):
    model, inputs = wrapped()
    before, fired = bridges_in_place(model), []
    turning = Turning(model, name, lambda t, hook: fired.append(turning.step))
    model.generate(inputs, max_new_tokens=6, min_new_tokens=6, logits_processor=LogitsProcessorList([turning]))
    assert fired == [2, 3]
    assert bridges_in_place(model) == before
    assert len(before) - turning.places[0] > 20  # bridges are away between steps, too


@torch.no_grad()
def test_a_run_with_hooks_between_the_steps_of_a_generation_is_right():
    model, inputs = wrapped()
    name, seen = "blocks.1.mlp.hook_out", []
    expected = model.generate(inputs, max_new_tokens=4).tokens
    logits, cache = model.run_with_cache(inputs, names_filter=name)

    def look_between(_ids, scores):
        other, inner = model.run_with_cache(inputs, names_filter=name)
        seen.append(torch.equal(other, logits) and torch.equal(inner[name], cache[name]))
        return scores

    tokens = model.generate(inputs, max_new_tokens=4, logits_processor=LogitsProcessorList([look_between])).tokens
    assert torch.equal(tokens, expected)
    assert seen == [True] * tokens.shape[1]


@torch.no_grad()
def test_a_copy_of_a_model_has_hooks_of_its_own():
    model, inputs = wrapped()
    other, fired = copy.deepcopy(model), []
    other.run_with_hooks(inputs, [("blocks.1.mlp.hook_out", lambda t, hook: fired.append("copy"))])
    model.run_with_hooks(inputs, [("blocks.1.mlp.hook_out", lambda t, hook: fired.append("model"))])
    assert fired == ["copy", "model"]


@pytest.mark.parametrize("family", FAMILIES)
def test_ctrl_c_in_a_forward_leaves_every_bridge_in_its_place(family):
    model, inputs = wrapped(family)
    places, logits = bridges_in_place(model), model(inputs)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for name in ("blocks.1.attn.hook_pattern", "blocks.0.attn.hook_rot_q", "blocks.0.hook_resid_post"):
        for run in (model.run_with_hooks, model.generate):
            with pytest.raises(KeyboardInterrupt):
                run(inputs, fwd_hooks=[(name, interrupt)])
            assert bridges_in_place(model) == places
    assert torch.equal(model(inputs), logits)
    assert copy.deepcopy(model).W_O.shape == model.W_O.shape
    modules = model.original_model.get_decoder().layers
    assert not any(layer.self_attn._forward_pre_hooks for layer in modules)
    check_alone(model, inputs)
