"""Attention calls outside the forward in which they were made: gradient checkpointing, other threads, a lone layer."""

import copy
import threading

import pytest
import torch
from reference import SLIDING, full, padded, picture
from transformers.modeling_layers import GradientCheckpointingLayer

import gaze_lens as gl
from gaze_lens import AttentionBias, HeadSet, HookedVLM, Positions, testing
from gaze_lens.errors import HookError

# One family for each kind of mask: none, sliding window, bidirectional images, cross-attention, chunks, a full prefix.
KINDS = [
    ("Qwen3-VL", {}), ("Qwen2.5-VL", SLIDING), ("Gemma 3", {}), ("Mllama", {}), ("Llama 4", {}), ("PaliGemma", {}),
    ("InternVL", {}),
]  # fmt: skip


def scaled(tensor, hook):
    """A full hook that edits: some of every head's largest weights are taken away."""
    return tensor * 0.9 if hook.name.endswith("pattern") else tensor


def model_in_training(family, options, reentrant=None):
    model = HookedVLM.wrap(*testing.tiny(family, **options))
    model.original_model.train()
    if reentrant is not None:
        model.original_model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.original_model.enable_input_require_grads()
    return model


def gradients(model):
    named = model.original_model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def hooks_for(model, inputs, kind):
    live = model.capabilities((96, 64)).live
    if kind == "full":
        return full(live, scaled)
    heads = HeadSet([(layer, 1) for layer in live])
    last = inputs.layout.length - 1
    return AttentionBias(heads, Positions.since(last - 3), Positions.of([0, last - 2]), 2.5, required=False).hooks()


def backward(model, inputs, hooks):
    with model.hooks(hooks):
        logits = model(inputs)
        logits[:, -1].square().sum().backward()
    return logits.detach(), gradients(model)


def refused_by_hugging_face(family):
    """Plain Hugging Face cannot do it either: its layers share a tensor that wants a gradient of its own."""
    model, hf_model = model_in_training(family, {}), testing.tiny(family)[0].train()
    hf_model.gradient_checkpointing_enable({"use_reentrant": True})
    hf_model.enable_input_require_grads()
    inputs = padded(model)
    logits = hf_model(input_ids=inputs.input_ids, **inputs.arguments()).logits
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        logits.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize("kind", ["full", "bias"])
@pytest.mark.parametrize(("family", "options"), KINDS, ids=[family for family, _ in KINDS])
def test_gradients_under_checkpointing_are_those_without(family, options, kind, reentrant):
    if family == "Mllama" and reentrant:
        return refused_by_hugging_face(family)
    plain = model_in_training(family, options)
    inputs = padded(plain)
    hooks = hooks_for(plain, inputs, kind)
    logits, expected = backward(plain, inputs, hooks)
    model = model_in_training(family, options, reentrant)
    layers = [m for m in model.original_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    assert any(layer.gradient_checkpointing for layer in layers)
    again, got = backward(model, padded(model), hooks)
    assert torch.equal(again, logits)
    in_text = [name for name in expected if "vision" not in name]  # Llama 4's tower has no gradient when reentrant
    assert len(in_text) > 20
    assert not [name for name in in_text if not torch.equal(got[name], expected[name])]
    assert not [name for name in got if not torch.equal(got[name], expected[name])]
    return None


@pytest.mark.parametrize("kind", ["full", "bias"])
def test_backward_in_another_thread_recomputes_the_same(kind):
    """As autograd does it on a GPU."""
    model, inputs, results = model_in_training("Qwen3-VL", {}, reentrant=False), None, {}
    inputs = padded(model)
    hooks = hooks_for(model, inputs, kind)
    _, expected = backward(model, inputs, hooks)
    model.original_model.zero_grad()
    with model.hooks(hooks):
        loss = model(inputs)[:, -1].square().sum()
        thread = threading.Thread(target=lambda: results.update(done=loss.backward()))
        thread.start()
        thread.join()
    assert results == {"done": None}
    assert all(torch.equal(gradients(model)[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("kind", ["full", "bias"])
def test_a_recomputation_without_the_hooks_of_the_forward_is_an_error(kind):
    model = model_in_training("Qwen3-VL", {}, reentrant=False)
    inputs = padded(model)
    logits = model.run_with_hooks(inputs, fwd_hooks=hooks_for(model, inputs, kind))
    with pytest.raises(HookError, match=r"inside the same `with model.hooks"):
        logits[:, -1].sum().backward()
    logits = model(inputs)
    with pytest.raises(HookError, match="0 were attached then"), model.hooks(hooks_for(model, inputs, kind)):
        logits[:, -1].sum().backward()


@torch.no_grad()
def test_a_layer_called_by_itself_sees_the_triangle(shelf):
    model, hf_model = shelf.get("Qwen3-VL")
    alone = copy.deepcopy(hf_model).get_decoder()
    stream = torch.randn(2, 9, hf_model.config.get_text_config().hidden_size)
    places = torch.arange(9).expand(2, -1)
    rotary = alone.rotary_emb(stream, places.expand(3, -1, -1))
    expected = alone.layers[1](stream, position_embeddings=rotary, position_ids=places)
    layer = model.original_model.get_decoder().layers[1]
    seen = []

    def look(pattern, hook):
        seen.append(gl.QueryKeyPositions.of(pattern, hook))
        assert pattern.triu(1).eq(0).all()

    bias = AttentionBias(HeadSet(["L1H0"]), Positions.since(4), Positions.of([2]), 3.0)
    with model.hooks([("blocks.1.attn.hook_pattern", look)]):
        torch.testing.assert_close(layer(stream, position_embeddings=rotary, position_ids=places), expected)
    assert (seen[0].query_start, seen[0].key_start, seen[0].layout) == (0, 0, None)
    outputs = []
    for hooks in (bias.hooks(), [*bias.hooks(), ("blocks.1.attn.hook_pattern", look)]):
        with model.hooks(hooks):  # raises where the bias does not act
            outputs.append(layer(stream, position_embeddings=rotary, position_ids=places))
    torch.testing.assert_close(*outputs)
    assert not torch.allclose(outputs[0][:, 4:], expected[:, 4:])
    torch.testing.assert_close(outputs[0][:, :4], expected[:, :4])


@torch.no_grad()
def test_a_lone_attention_call_of_which_nothing_tells_what_it_sees_is_refused(shelf):
    from gaze_lens.attention.attention_function import attention

    model, _ = shelf.get("Qwen3-VL")
    module = model.blocks[0].attn.original_component
    query, key = torch.randn(1, 4, 3, 16), torch.randn(1, 2, 7, 16)
    with model.hooks([("blocks.0.attn.hook_pattern", lambda pattern, hook: None)]):
        with pytest.raises(HookError, match="3 queries, 7 keys and no attention_mask"):
            attention(module, query, key, key, None)
        mask = torch.ones(1, 1, 3, 7, dtype=torch.bool).tril(4)
        assert attention(module, query, key, key, mask)[0].shape == (1, 3, 4, 16)


def test_the_state_of_a_forward_holds_no_matrices_afterwards(shelf):
    from gaze_lens.attention import backend

    model, _ = shelf.get("Qwen3-VL")
    inputs, states, state_of = model.prepare(picture(96, 64), "What?"), [], backend.ForwardState

    def remembered(*args):
        states.append(state_of(*args))
        return states[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "ForwardState", remembered)
        heads = HeadSet(["L1H0", "L2H3"])
        bias = AttentionBias(heads, Positions.everything(), Positions.of([20, 21]), 3.0)
        model.generate(inputs, fwd_hooks=bias.hooks(), max_new_tokens=3)
    assert len(states) == 3
    assert all(not state._masks and state.acted == {bias: {1: 1, 2: 1}} for state in states)
