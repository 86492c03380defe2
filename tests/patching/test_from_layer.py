"""Runs from a layer on, and runs of copies of rows, against plain runs, on every family."""

import pytest
import torch
from every_family import NAMES, Case

from gaze_lens.errors import InputError, ModelError
from gaze_lens.patching.from_layer import cache_residuals, cannot_run_from_layer, run_from_layer

SHARING = {"Gemma 4", "Gemma 3n"}  # layers that read another layer's keys
ROUNDING = {
    "Qwen3.5",
    "Qwen3.5-MoE",
    "GLM-4V-MoE",
    "Gemma 4",
    "Gemma 3n",
}  # their kernels round otherwise in a larger batch


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


@pytest.fixture
def qwen(shelf):
    return Case.of("Qwen3-VL", shelf)


@torch.no_grad()
def run(model, inputs, hooks=(), **options):
    return model.run_with_hooks(inputs, fwd_hooks=hooks, **options)


def count(ran):
    return lambda _tensor, hook: ran.append(hook.layer())


def halve(tensor, hook):  # noqa: ARG001
    return tensor / 2


@torch.no_grad()
def test_runs_from_every_layer_are_the_full_run_bit_for_bit(case):
    model, inputs = case.model, case.model.encode(case.inputs)
    assert (cannot_run_from_layer(model) is not None) == (case.name in SHARING)
    if case.name == "Gemma 3n":
        with pytest.raises(ModelError, match="cannot be cached: the layer carries several residual streams"):
            cache_residuals(model, range(model.cfg.n_layers)).__enter__()
        with pytest.raises(ModelError, match="take keys and values from earlier layers"):
            run_from_layer(model, 1, torch.zeros(2, 3, 64)).__enter__()
        return
    with cache_residuals(model, range(model.cfg.n_layers)) as streams:
        full = model(inputs)
    assert set(streams) == set(range(1, model.cfg.n_layers))
    for layer in range(model.cfg.n_layers):
        if layer and case.name in SHARING:
            with pytest.raises(ModelError, match="take keys and values from earlier layers"):
                run_from_layer(model, layer, streams[layer]).__enter__()
            continue
        ran = []
        counters = [(f"blocks.{n}.hook_resid_pre", count(ran)) for n in range(model.cfg.n_layers)]
        with run_from_layer(model, layer, streams.get(layer)):
            again = run(model, inputs, counters)
        assert torch.equal(again, full), layer
        assert ran == list(range(layer, model.cfg.n_layers))


@torch.no_grad()
def test_edits_above_act_as_in_the_full_run(case):
    if case.name in SHARING:
        pytest.skip("cannot be run from a layer on")
    model, inputs = case.model, case.model.encode(case.inputs)
    layer = case.live[-1]
    edit = [(f"blocks.{layer}.hook_resid_pre", halve), (f"blocks.{layer}.attn.hook_z", halve)]
    with cache_residuals(model, [layer]) as streams:
        model(inputs)
    with run_from_layer(model, layer, streams[layer]):
        resumed = run(model, inputs, edit)
    assert torch.equal(resumed, run(model, inputs, edit))


@torch.no_grad()
def test_copies_of_rows_are_as_the_rows(case):
    model, inputs = case.model, case.model.encode(case.inputs)
    single, many = model(inputs), model(inputs, copies=3)
    by_row = many.unflatten(0, (-1, 3))
    bound = 1e-5 if case.name in ROUNDING else 0.0
    assert (by_row - single[:, None]).abs().max() <= bound


@torch.no_grad()
def test_a_region_binds_to_copies_as_to_beams(qwen):
    from gaze_lens import steer

    model, inputs = qwen.model, qwen.model.encode(qwen.inputs)
    hooks = steer(["L1H0", "L2H1"], inputs.region((0, 0, 32, 32), image=0))
    single, many = run(model, inputs, hooks), run(model, inputs, hooks, copies=2)
    assert (many.unflatten(0, (-1, 2)) - single[:, None]).abs().max() < 1e-6
    assert (single - model(inputs)).abs().max() > 1e-3


def test_copies_share_encoded_images(qwen):
    with pytest.raises(InputError, match=r"model.encode\(inputs\)"):
        qwen.model(qwen.inputs, copies=2)
    text = qwen.model.prepare(None, "no image")
    assert len(qwen.model(text, copies=2)) == 2


@torch.no_grad()
def test_everything_is_undone_after_an_error(qwen):
    model, inputs = qwen.model, qwen.inputs
    full = model(inputs)

    def fail(tensor, hook):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), cache_residuals(model, [1, 2]) as streams:
        run(model, inputs, [("blocks.3.hook_resid_pre", fail)])
    with pytest.raises(RuntimeError, match="on purpose"), run_from_layer(model, 2, streams[2]):
        run(model, inputs, [("blocks.3.hook_resid_pre", fail)])
    assert torch.equal(model(inputs), full)
    assert not any("forward" in block.__dict__ or block._forward_hooks for block in model.blocks)


@torch.no_grad()
def test_runs_from_layers_may_be_nested(qwen):
    model, inputs = qwen.model, qwen.inputs
    with cache_residuals(model, [1, 3]) as streams:
        full = model(inputs)
    with run_from_layer(model, 1, streams[1]):
        with run_from_layer(model, 3, streams[3]):
            assert torch.equal(model(inputs), full)
        assert torch.equal(model(inputs), full)
    assert torch.equal(model(inputs), full)
