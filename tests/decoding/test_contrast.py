"""Contrast decoding and recipes, against loops that run every branch anew for each token, without a cache."""

import math
from dataclasses import replace

import pytest
import torch
from reference import picture

import gaze_lens as gl
from gaze_lens.decoding.recipes import noised
from gaze_lens.errors import HookError, InputError, ModelError

HEADS = ["L1H0", "L1H3", "L2H2"]
N = 6


@pytest.fixture(scope="module")
def model(shelf):
    return shelf.get("Qwen3-VL")[0]


@pytest.fixture(scope="module")
def batch(model):
    """Two rows, the first padded on the left."""
    return prepared(model)


def prepared(model, answers=None):
    return model.prepare([picture(96, 64), picture(96, 64, 1)], ["What?", "a longer question"], answers=answers)


def without_image(model, answers=None):
    return model.prepare(None, ["What?", "a longer question"], answers=answers)


@torch.no_grad()
def written(make, run, mix):
    """The tokens that a slow loop writes. make(answers): the inputs of each branch, with the text so far as an answer.
    run(branch index, inputs): logits of the last column. mix: the scores, of the branches' log-probabilities."""
    tokens = []
    for _ in range(N):
        answers = [list(row) for row in zip(*tokens, strict=True)] if tokens else None
        branches = [run(index, inputs).double().log_softmax(-1) for index, inputs in enumerate(make(answers))]
        scores = mix(*branches)
        tokens.append(scores.argmax(-1).tolist())
    return torch.tensor(tokens).T


def cut(scores, first, share):
    """Without the tokens that are less than `share` times as probable as the first branch's best."""
    return scores.masked_fill(first < first.amax(-1, keepdim=True) + math.log(share), -math.inf)


def steered(inputs, **options):
    return gl.steer(HEADS, inputs.region((0, 0, 48, 64)), **options)


def logits(model, inputs, hooks=()):
    output = model.run_with_hooks(inputs, fwd_hooks=list(hooks), return_type="logits")
    return output[:, -1]


EOS = {"eos_token_id": None}  # nothing ends a text, and no token is forbidden
LONG = {"max_new_tokens": N, **EOS}


@pytest.mark.parametrize("options", [{"mass": 0.9}, {"mode": gl.boost_and_suppress(4.0)}])
def test_two_branches(model, batch, options):
    def run(index, inputs):
        return logits(model, inputs, steered(inputs, **options) if index == 0 else ())

    expected = written(lambda answers: [prepared(model, answers)] * 2, run, lambda p, m: cut(p + 1.5 * (p - m), p, 0.2))
    plain = model.generate(batch, **LONG)
    contrast = gl.contrast_decoding(model, batch, plus=steered(batch, **options), strength=1.5, cut=0.2)
    for _ in range(2):  # the same object again
        generation = model.generate(batch, decoding=contrast, **LONG)
        assert torch.equal(generation.tokens, expected)
    assert not torch.equal(plain.tokens, expected)
    assert set(generation.acted) == {edit for _, edit in contrast.hooks}
    assert torch.equal(model.generate(batch, **LONG).tokens, plain.tokens)


def test_three_branches_with_any_kind_of_hook(model, batch):
    """A mass, and functions on the stream and on the MLP, with hooks of the generation beside them."""

    def shift(tensor, hook):
        return tensor + 0.3 * tensor.roll(1, -1)

    def hooks(inputs):
        return [steered(inputs, mass=0.9), [("blocks.1.hook_resid_post", shift)], [("blocks.2.hook_mlp_out", shift)]]

    def run(index, inputs):
        return logits(model, inputs, hooks(inputs)[(2, 0, 1)[index]])

    expected = written(
        lambda answers: [prepared(model, answers)] * 3, run, lambda b, p, m: cut(b + 0.8 * (p - m), b, 0.1)
    )
    plus, minus, base = hooks(batch)
    contrast = gl.contrast_decoding(model, batch, plus=plus, minus=minus, base=base, strength=0.8)
    kept = []
    generation = model.generate(
        batch, decoding=contrast, fwd_hooks=[("blocks.0.hook_resid_post", lambda t, hook: kept.append(t.shape[1]))],
        names_filter="blocks.1.attn.hook_pattern", **LONG,
    )  # fmt: skip
    assert torch.equal(generation.tokens, expected)
    assert torch.equal(model.generate(batch, decoding=contrast, **LONG).tokens, expected)
    assert kept == [batch.layout.length] + [1] * (N - 1), "the hooks of the generation are off in the other branches"
    assert len(generation.activations["blocks.1.attn.hook_pattern"]) == N


def test_a_branch_without_the_image_and_one_of_other_pixels(model, batch):
    other = replace(batch, tensors={**batch.tensors, "pixel_values": batch.tensors["pixel_values"].flip(0)})
    for minus, make in (
        (without_image(model), lambda answers: without_image(model, answers)),
        (other, lambda answers: replace(
            prepared(model, answers),
            tensors={**prepared(model, answers).tensors, "pixel_values": other.tensors["pixel_values"]},
        )),
    ):  # fmt: skip
        expected = written(
            lambda answers, make=make: [prepared(model, answers), make(answers)],
            lambda index, inputs: logits(model, inputs), lambda p, m: cut(2 * p - m, p, 0.1),
        )  # fmt: skip
        contrast = gl.contrast_decoding(model, batch, minus_inputs=minus)
        assert torch.equal(model.generate(batch, decoding=contrast, **LONG).tokens, expected)
        assert torch.equal(model.generate(model.encode(batch), decoding=contrast, **LONG).tokens, expected)


def test_conditions_of_a_branch_are_asked_about_its_own_logits(model, batch):
    asked = {"main": [], "branch": []}

    def condition(name):
        return lambda seen: asked[name].append(seen) is None and seen is not None

    contrast = gl.contrast_decoding(
        model,
        batch,
        plus=steered(batch, when=condition("main")),
        minus=steered(batch, mass=0.8, when=condition("branch")),
    )
    generation = model.generate(batch, decoding=contrast, output_logits=True, **LONG)
    assert [len(seen) for seen in asked.values()] == [N, N]
    for index, (seen, step) in enumerate(zip(asked["main"][1:], generation.logits, strict=False)):
        assert torch.equal(seen, step)
        assert torch.equal(seen, asked["branch"][1 + index]) == (index == 0), "nothing is steered in the prefill"


def test_huggingfaces_own_generate(model, batch):
    contrast = gl.contrast_decoding(model, batch, plus=steered(batch, mass=0.9))
    expected = model.generate(batch, decoding=contrast, **LONG).sequences
    options = {**batch.arguments(), "input_ids": batch.input_ids, "do_sample": False, **LONG}
    for first, second in ((0, 1), (1, 0)):
        blocks = [gl.steering(model, contrast.hooks), contrast.running()]
        with blocks[first], blocks[second]:
            assert torch.equal(model.original_model.generate(**options, logits_processor=[contrast]), expected)


def test_what_is_refused(model, batch):
    make = gl.contrast_decoding
    with pytest.raises(InputError, match="the same, so that nothing is contrasted"):
        make(model, batch)
    with pytest.raises(InputError, match="different texts in row 1"):
        make(model, batch, minus_inputs=model.prepare(None, ["What?", "another question"]))
    with pytest.raises(InputError, match="2 and 1 rows"):
        make(model, batch, minus_inputs=model.prepare(None, "What?"))
    for wrong in ({"strength": -1.0}, {"cut": 1.5}, {"strength": math.nan}):
        with pytest.raises(InputError, match="was given; give a number"):
            make(model, batch, plus=steered(batch), **wrong)
    contrast = make(model, batch, plus=steered(batch))
    with pytest.raises(InputError, match="other inputs"):
        model.generate(model.prepare(picture(64, 64), "What?"), decoding=contrast, **LONG)
    with pytest.raises(InputError, match="leave out beams"):
        model.generate(batch, decoding=contrast, num_beams=2, **LONG)
    with pytest.raises(InputError, match=r"runs inside model.generate\(decoding="):
        contrast(batch.input_ids, torch.zeros(2, 5))
    idle = make(model, batch, minus=steered(batch, where=["decode"]))
    with pytest.raises(HookError, match="did nothing in layers"):
        model.generate(batch, decoding=idle, max_new_tokens=1)
    spoilt = make(model, batch, minus=[("blocks.1.hook_resid_post", lambda tensor, hook: tensor * math.nan)])
    with pytest.raises(ModelError, match="NaN or infinite"):
        model.generate(batch, decoding=spoilt, **LONG)


def by_hand(change):
    """A hook that computes a layer's scores anew: change(scores[row, head, query, key], hook)."""
    return lambda scores, hook: change(scores.clone(), hook)


def image_keys(inputs, row):
    return list(inputs.layout.images[row])


def add_abs(inputs, factor, heads=None, keys=None):
    """factor * abs(score) on image keys of the last query, one number at a time."""

    def change(scores, hook):
        for row in range(len(scores)):
            for head in range(scores.shape[1]) if heads is None else heads.get(hook.layer(), ()):
                for key in image_keys(inputs, row) if keys is None else keys[row]:
                    scores[row, head, -1, key] += factor * abs(scores[row, head, -1, key])
        return scores

    return by_hand(change)


def on(layers, function):
    return [(f"blocks.{layer}.attn.hook_attn_scores", function) for layer in layers]


def last_query_loop(model, first, second, mix, minus=None):
    """The tokens where hooks act in the last query of each step only: the decode steps need a cache of their own."""
    branches = [(prepared(model), first), (prepared(model) if minus is None else minus, second)]
    state, tokens = [], []
    for inputs, hooks in branches:
        hf_model = model.original_model
        arguments = {**inputs.arguments(), "use_cache": True}
        arguments["position_ids"] = hf_model._prepare_position_ids_for_generation(inputs.input_ids, dict(arguments))
        state.append([inputs.input_ids, arguments, hooks, None])
    with torch.no_grad():
        for step in range(N):
            chances = []
            for one in state:
                ids, arguments, hooks, _ = one
                with model.hooks(hooks):
                    output = model.original_model(input_ids=ids if step == 0 else ids[:, -1:], **arguments)
                chances.append(output.logits[:, -1].double().log_softmax(-1))
                mask = arguments["attention_mask"]
                one[1] = {
                    "attention_mask": torch.cat([mask, mask.new_ones(len(mask), 1)], 1), "use_cache": True,
                    "past_key_values": output.past_key_values, "position_ids": arguments["position_ids"][..., -1:] + 1,
                }  # fmt: skip
            tokens.append(mix(*chances).argmax(-1))
            for one in state:
                one[0] = torch.cat([one[0], tokens[-1][:, None]], 1)
    return torch.stack(tokens, dim=1)


def test_pasta_is_its_formula(model, batch):
    region = batch.region((0, 0, 48, 64))
    seen = {}
    keep = [("blocks.1.attn.hook_pattern", lambda t, hook: seen.update(pattern=t))]
    _, cache = model.run_with_cache(batch, names_filter="blocks.1.attn.hook_attn_scores")
    model.run_with_hooks(batch, fwd_hooks=[*gl.recipes.pasta(["L1H0"], region, alpha=0.05), *keep])
    scores = cache["blocks.1.attn.hook_attn_scores"][:, 0].double()
    for row in range(2):
        weights = scores[row].softmax(-1)
        others = [key for key in range(scores.shape[-1]) if key not in region.positions[row]]
        weights[:, others] *= 0.05
        start = batch.layout.length - len(batch.layout.text[row]) - len(batch.layout.images[row])
        weights = (weights / weights.sum(-1, keepdim=True))[start:]
        torch.testing.assert_close(seen["pattern"][row, 0, start:].double(), weights, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="alpha=1"):
        gl.recipes.pasta(["L1H0"], region, alpha=1)


def test_pai_is_its_formula(model, batch):
    function = add_abs(batch, 0.5)
    expected = last_query_loop(
        model, on((1, 2), function), [], lambda p, m: cut(1.4 * (p - m) + m, p, 0.1), minus=without_image(model)
    )
    decoding = gl.recipes.pai(model, batch, without_image(model), layers=(1, 2), alpha=0.5, gamma=1.4)
    assert torch.equal(model.generate(batch, decoding=decoding, **LONG).tokens, expected)


def test_vcd_is_its_formula(model, batch):
    noisy = noised(model, batch, 500, 3)
    before, after = (one.tensors["pixel_values"].double() for one in (batch, noisy))
    kept = math.prod(1 - (1 / (1 + math.exp(6 - 12 * t / 999)) * (0.5e-2 - 1e-5) + 1e-5) for t in range(501))
    noise = (after - math.sqrt(kept) * before) / math.sqrt(1 - kept)
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    expected = last_query_loop(model, [], [], lambda p, m: cut(2 * p - m, p, 0.1), minus=noisy)
    decoding = gl.recipes.vcd(model, batch, steps=500, seed=3)
    assert torch.equal(model.generate(batch, decoding=decoding, **LONG).tokens, expected)


def test_maskcd_is_its_formula(model, batch):
    def change(scores, hook):
        for row in range(len(scores)):
            for head in (0, 3):
                for key in image_keys(batch, row):
                    queries = scores[row, head, :, key]
                    offset = 0 if scores.shape[2] == 1 else min(batch.layout.after_images)
                    queries[offset:] = torch.finfo(scores.dtype).min
        return scores

    expected = last_query_loop(model, [], on((1,), by_hand(change)), lambda p, m: cut(2 * p - m, p, 0.1))
    decoding = gl.recipes.maskcd(model, batch, ["L1H0", "L1H3"])
    assert torch.equal(model.generate(batch, decoding=decoding, **LONG).tokens, expected)


def test_ascd_is_its_formula(model, batch):
    region = batch.region((0, 0, 48, 64))
    plus = on((1, 2), add_abs(batch, 0.6, heads={1: (0, 3), 2: (2,)}))
    minus = on(range(4), add_abs(batch, -0.4, keys=region.positions))
    expected = last_query_loop(model, plus, minus, lambda p, m: cut(2 * p - m, p, 0.1))
    decoding = gl.recipes.ascd(model, batch, HEADS, region, alpha=0.6, beta=0.4)
    assert torch.equal(model.generate(batch, decoding=decoding, **LONG).tokens, expected)


def test_recipes_on_what_they_cannot_act_on(model, shelf, batch):
    text = without_image(model)
    makes = (lambda *both: gl.recipes.pai(*both, text), gl.recipes.vcd, lambda *both: gl.recipes.maskcd(*both, HEADS))
    for make in makes:
        with pytest.raises(InputError, match="contrasts images, and a prompt has none"):
            make(model, text)
    crossed = shelf.get("Mllama")[0]
    inputs = crossed.prepare(picture(96, 64), "What?")
    with pytest.raises(ModelError, match="reads images by cross-attention"):
        gl.recipes.pai(crossed, inputs, crossed.prepare(None, "What?"))
    with pytest.raises(InputError, match="hold no pixels"):
        gl.recipes.vcd(model, model.encode(batch))
    with pytest.raises(InputError, match="give the first and the last"):
        gl.recipes.pai(model, batch, without_image(model), layers=(2, 9))
