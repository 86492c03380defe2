"""Knockout is a hand-made mask; ablations are what they say, in the prompt and in decode steps."""

import copy

import pytest
import torch
from every_family import largest
from reference import at_real, eager, padded, picture

import gaze_lens as gl
from gaze_lens.errors import HeadError, HookError, InputError, RegionError
from gaze_lens.inputs.position_groups import group

FAMILIES = ("Qwen3-VL", "LLaVA")
EVERY = [(layer, head) for layer in range(4) for head in range(4)]


@pytest.fixture(params=FAMILIES)
def models(request, shelf):
    return shelf.get(request.param)


def masked(untouched, layers, rows, keys):
    """Hugging Face's eager attention, with keys removed from the mask of some queries in some layers."""
    model = eager(untouched)

    def remove(_, args, kwargs):
        mask = kwargs["attention_mask"].clone()
        for row, (queries, hidden) in enumerate(zip(rows, keys, strict=True)):
            for query in queries:
                mask[row, :, query, list(hidden)] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    for layer in layers:
        attention = model.model.language_model.layers[layer].self_attn
        attention.register_forward_pre_hook(remove, with_kwargs=True)
    return model


@pytest.mark.parametrize("layers", [(1,), (0, 1, 2, 3)])
@torch.no_grad()
def test_knocking_out_all_heads_is_removing_keys_from_the_mask(models, layers):
    model, untouched = models
    inputs = padded(model)
    queries, keys = group(inputs, "text"), group(inputs, "image")
    hooks = gl.knockout([head for head in EVERY if head[0] in layers], queries, keys)
    edited = at_real(model.run_with_hooks(inputs, fwd_hooks=hooks), inputs)
    expected = at_real(masked(untouched, layers, queries.rows, keys.rows)(**inputs.tensors).logits, inputs)
    assert largest(edited - at_real(model(inputs), inputs)) > 1e-2
    torch.testing.assert_close(edited, expected, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_knockout_of_one_head_is_a_hook_on_its_scores(models):
    model, _ = models
    inputs = padded(model)
    where = group(inputs, "last"), inputs.region([(0, 0, 48, 64)] * 2, image=0)

    def remove(scores, hook):
        for row, keys in enumerate(where[1].positions):
            scores[row, 2, -1, list(keys)] = torch.finfo(scores.dtype).min
        return scores

    by_hand = model.run_with_hooks(inputs, fwd_hooks=[("blocks.1.attn.hook_attn_scores", remove)])
    edited = model.run_with_hooks(inputs, fwd_hooks=gl.knockout(["L1H2"], *where))
    assert largest(edited - model(inputs)) > 1e-4
    torch.testing.assert_close(at_real(edited, inputs), at_real(by_hand, inputs), atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_knockout_goes_on_in_decode_steps_and_composes_with_steering(tiny_model):
    strip = gl.comics.synthetic(1, seed=3)[0]
    inputs = tiny_model.prepare(strip, gl.comics.ask(1))
    heads = gl.HeadSet([(layer, head) for layer in range(6) for head in range(12)])
    blind = gl.knockout(heads, gl.Positions.since(inputs.last_position), inputs.region("panel 2"))
    text = tiny_model.generate(inputs, max_new_tokens=12).texts[0]
    assert text == strip.captions["panel 2"]
    steering = gl.steer(heads[:3], inputs.region("panel 4"))
    assert tiny_model.generate(inputs, fwd_hooks=blind, max_new_tokens=12).texts[0] != text
    seen = []
    look = [("blocks.5.attn.hook_pattern", lambda pattern, hook: seen.append(pattern[0, :, -1].detach()))]
    tiny_model.generate(inputs, fwd_hooks=blind + steering + look, max_new_tokens=4)
    assert len(seen) == 4
    assert all(largest(row[:, list(inputs.region("panel 2").positions[0])]) == 0 for row in seen)


@torch.no_grad()
def test_a_knockout_that_leaves_nothing_or_takes_nothing_is_said(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = padded(model)
    last, image = group(inputs, "last"), group(inputs, "image")
    with pytest.raises(HookError, match=r"every key that position \d+ of batch row 0 sees: "):
        model.run_with_hooks(inputs, fwd_hooks=gl.knockout(["L1H0"], last, group(inputs, "every")))
    with pytest.raises(HookError, match="did nothing in layers"):
        model.run_with_hooks(inputs, fwd_hooks=gl.knockout(["L1H0"], image, last))
    with pytest.raises(InputError, match="expected a Group, a Region or Positions"):
        gl.knockout(["L1H0"], "last", image)
    with pytest.raises(HeadError, match="set of heads is empty"):
        gl.knockout([], last, image)
    other = model.prepare(picture(64, 64), "else")
    with pytest.raises(RegionError, match="was made for"):
        gl.knockout(["L1H0"], last, group(other, "image"))
    with pytest.raises(RegionError):
        model.run_with_hooks(other, fwd_hooks=gl.knockout(["L1H0"], last, image))


def setting(untouched, layer, head, value):
    """An untouched eager copy in which a head's output is a constant, in every forward."""
    model = eager(copy.deepcopy(untouched))

    def put(_, args):
        z = args[0].unflatten(-1, (4, -1)).clone()
        z[:, :, head] = value
        return (z.flatten(-2),)

    model.model.language_model.layers[layer].self_attn.o_proj.register_forward_pre_hook(put)
    return model


@pytest.mark.parametrize("how", ["zero", "mean"])
@torch.no_grad()
def test_zero_and_mean_are_constants_in_prompt_and_decode_steps(models, how):
    model, untouched = models
    inputs, name = padded(model), "blocks.1.attn.hook_z"
    other = model.prepare(picture(96, 64, 4), "more words")
    value = torch.zeros(16)
    if how == "mean":
        rows = []
        for batch in (inputs, other):
            z = model.run_with_cache(batch, names_filter=name)[1][name]
            for row, positions in enumerate(group(batch, "text").rows):
                rows.append(sum(z[row, position, 3] for position in positions) / len(positions))
        value = sum(rows) / len(rows)
    hooks = gl.zero_ablate(["L1H3"]) if how == "zero" else gl.mean_ablate(model, ["L1H3"], [inputs, other], over="text")
    reference = setting(untouched, 1, 3, value)
    expected = at_real(reference(**inputs.tensors).logits, inputs)
    edited = at_real(model.run_with_hooks(inputs, fwd_hooks=hooks), inputs)
    torch.testing.assert_close(edited, expected, atol=2e-5, rtol=0)
    generated = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=4)
    assert torch.equal(generated.sequences, reference.generate(**inputs.tensors, max_new_tokens=4, do_sample=False))


@torch.no_grad()
def test_an_ablation_at_positions_leaves_all_others(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs, name = padded(model), "blocks.2.attn.hook_z"
    seen = []
    look = [(name, lambda z, hook: seen.append(z.clone()))]
    image = group(inputs, "image")
    model.run_with_hooks(inputs, fwd_hooks=look)
    model.generate(inputs, fwd_hooks=gl.zero_ablate(["L2H1"], positions=image) + look, max_new_tokens=2)
    before, prefill, decode = seen
    for row, positions in enumerate(image.rows):
        assert largest(prefill[row, list(positions), 1]) == 0
        before[row, list(positions), 1] = 0
    torch.testing.assert_close(at_real(prefill, inputs), at_real(before, inputs), atol=1e-5, rtol=0)
    assert decode[:, :, 1].abs().min() > 0


@torch.no_grad()
def test_resampling_takes_another_row(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = model.prepare([picture(96, 64, seed) for seed in range(3)], ["what?"] * 3)
    name, seen = "blocks.1.attn.hook_z", []
    z = model.run_with_cache(inputs, names_filter=name)[1][name]
    drawn = set()
    for seed in range(6):
        hooks = gl.resample_ablate(model, ["L1H2"], inputs, inputs, seed=seed)
        model.run_with_hooks(inputs, fwd_hooks=[*hooks, (name, lambda tensor, hook: seen.append(tensor.clone()))])
        edited = seen.pop()
        for row in range(3):
            sources = [other for other in range(3) if torch.equal(edited[row, :, 2], z[other, :, 2])]
            assert len(sources) == 1
            assert sources != [row]
            drawn |= {(row, *sources)}
        assert torch.equal(edited[:, :, :2], z[:, :, :2])
    assert len(drawn) > 3
    with pytest.raises(InputError, match="to generate, say with positions="):
        model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3)
    hooks = gl.resample_ablate(model, ["L1H2"], inputs, inputs, positions=group(inputs, "image"))
    model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3, num_beams=2)


@torch.no_grad()
def test_bad_ablations_are_refused(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = padded(model)
    with pytest.raises(InputError, match="lie at other positions"):
        gl.resample_ablate(model, ["L1H2"], inputs, model.prepare(picture(64, 64), "else"))
    single = model.prepare(picture(64, 64), "else")
    with pytest.raises(InputError, match="cannot be resampled from itself"):
        gl.resample_ablate(model, ["L1H2"], single, single)
    with pytest.raises(InputError, match="no inputs to take a mean over"):
        gl.mean_ablate(model, ["L1H2"], [])
    with pytest.raises(HeadError, match="outside the model"):
        gl.mean_ablate(model, ["L9H2"], inputs)
    with pytest.raises(HeadError, match="L1H9"):
        model.run_with_hooks(inputs, fwd_hooks=gl.zero_ablate(["L1H9"]))
    hooks = gl.zero_ablate(["L1H2"], positions=group(inputs, "image"))
    with pytest.raises(InputError, match="An edit at Group 'image'"):
        model.run_with_hooks(single, fwd_hooks=hooks)
