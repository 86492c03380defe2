"""Steering under a condition on the newest token, against a loop that decides step by step what to attach."""

import pytest
import torch
from reference import picture

import gaze_lens as gl
from gaze_lens.errors import HookError, InputError

HEADS = ["L1H0", "L1H3", "L2H2"]
STEPS = {"max_new_tokens": 8, "min_new_tokens": 8}
KINDS = {"bias": {"mode": gl.boost_and_suppress(3.0)}, "mass": {"mass": 0.9}}


@pytest.fixture(scope="module")
def model(shelf):
    return shelf.get("Qwen3-VL")[0]


@pytest.fixture(scope="module")
def batch(model):
    """Two rows, the first padded on the left."""
    return model.prepare([picture(96, 64), picture(96, 64, 1)], ["What?", "a longer question"])


def entropy(logits):
    chances = logits.double().softmax(-1)
    return -(chances * chances.log()).sum(-1)


@pytest.fixture(scope="module")
def middle(model, batch):
    """An entropy that some steps and rows of the unsteered run exceed."""
    logits = torch.stack(model.generate(batch, output_logits=True, **STEPS).logits)
    return entropy(logits)[:-1].median().item()


def loop(model, inputs, region, condition, first, options):
    """Tokens and logits of a generation in which each step attaches what its condition says, row by row."""
    tokens, kept, held = [], [], [first] * inputs.n_rows
    arguments = {"input_ids": inputs.input_ids, **inputs.arguments()}
    mask, places = inputs.tensors["attention_mask"], []
    handle = model.original_model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: places.append(kwargs["position_ids"].amax(-1, keepdim=True)), with_kwargs=True
    )
    for step in range(STEPS["max_new_tokens"]):
        rows = [row for row, holds in enumerate(held) if holds]
        with model.hooks(gl.steer(HEADS, region, rows=rows, **options) if rows else []):
            output = model.original_model(**arguments, use_cache=True)
        kept.append(output.logits[:, -1])
        tokens.append(kept[-1].argmax(-1))
        held = condition(kept[-1])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        arguments = {
            "input_ids": tokens[-1][:, None], "attention_mask": mask, "past_key_values": output.past_key_values,
            "position_ids": places[0][-3:].amax(0, keepdim=True).expand(3, -1, -1) + step + 1,
        }  # fmt: skip
    handle.remove()
    return torch.stack(tokens, dim=1), torch.stack(kept)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_row_is_steered_in_the_steps_in_which_the_condition_holds(model, batch, middle, kind):
    region = batch.region((0, 0, 48, 64))

    def unsure(logits):
        return (entropy(logits) > middle).tolist()

    tokens, logits = loop(model, batch, region, unsure, True, KINDS[kind])
    held = torch.tensor([unsure(step) for step in logits[:-1]])
    assert held.any(0).all()
    assert not held.all()
    hooks = gl.steer(HEADS, region, when=gl.when.entropy_above(middle, prefill=True), **KINDS[kind])
    generation = model.generate(batch, fwd_hooks=hooks, output_logits=True, **STEPS)
    assert torch.equal(generation.tokens, tokens)
    torch.testing.assert_close(torch.stack(generation.logits), logits, atol=2e-5, rtol=0)
    ((_, layers),) = generation.acted.items()
    assert layers == dict.fromkeys((1, 2), 1 + held.any(1).sum().item())
    look = ("blocks.2.attn.hook_attn_scores", lambda scores, hook: scores)  # the full matrices
    slow = model.generate(batch, fwd_hooks=[*hooks, look], output_logits=True, **STEPS)
    torch.testing.assert_close(torch.stack(slow.logits), logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_that_always_holds_is_none_and_one_that_never_holds_is_an_error(model, batch, kind):
    region = batch.region((0, 0, 48, 64))
    plain = model.generate(batch, fwd_hooks=gl.steer(HEADS, region, **KINDS[kind]), **STEPS)
    always = gl.steer(HEADS, region, when=lambda logits: True, **KINDS[kind])
    for _ in range(2):  # the same hooks again
        generation = model.generate(batch, fwd_hooks=always, **STEPS)
        assert torch.equal(generation.tokens, plain.tokens)
        assert list(generation.acted.values()) == [dict.fromkeys((1, 2), 8)]
    never = gl.steer(HEADS, region, when=lambda logits: torch.tensor(False), **KINDS[kind])
    with pytest.raises(HookError, match=r"did nothing in layers \[1, 2\]: its when= held in no step"):
        model.generate(batch, fwd_hooks=never, **STEPS)
    with pytest.raises(HookError, match="held in no step"):
        model.run_with_hooks(batch, fwd_hooks=gl.steer(HEADS, region, when=gl.when.entropy_above(0.1), **KINDS[kind]))


def test_only_the_rows_that_are_steered_count_as_acted(model, batch):
    region = batch.region((0, 0, 48, 64))
    first = gl.steer(HEADS, region, rows=[1], when=lambda logits: torch.tensor([True, False]))
    with pytest.raises(HookError, match="held in no step"):
        model.generate(batch, fwd_hooks=first, **STEPS)


def test_a_token_that_was_written(model, batch):
    region = batch.region((0, 0, 48, 64))
    plain = model.generate(batch, **STEPS).tokens
    token = plain[0, 2].item()
    written = gl.when.token_written(model, [token])
    generation = model.generate(batch, fwd_hooks=gl.steer(HEADS, region, when=written), **STEPS)
    same = (plain == token).any(0).tolist().index(True)
    assert torch.equal(generation.tokens[:, : same + 1], plain[:, : same + 1])
    torch.manual_seed(0)
    sampled = model.generate(batch, do_sample=True, **STEPS).tokens  # not the likeliest tokens
    token = sampled[1, 1].item()
    torch.manual_seed(0)
    seen = []

    class Looking(type(written)):
        def __call__(self, tokens):
            seen.append(tokens)
            return super().__call__(tokens)

    condition = Looking((token,))
    model.generate(batch, fwd_hooks=gl.steer(HEADS, region, when=condition), do_sample=True, **STEPS)
    assert seen[0] is None
    assert torch.equal(torch.stack(seen[1:3], dim=1), sampled[:, :2])


def test_entropy_and_probability_of_a_row():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, -float("inf")]])
    assert gl.when.entropy_above(1.3)(logits).tolist() == [True, False]  # log 4 is 1.386
    assert gl.when.entropy_above(1.4)(logits).tolist() == [False, False]
    assert gl.when.probability_below(0.3)(logits).tolist() == [True, False]
    assert gl.when.entropy_above(1.0)(None) is False
    assert gl.when.probability_below(0.5, prefill=True)(None) is True


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.tensor([1.0, 0.0]), r"torch.float32 \(2,\)"),
        (torch.tensor([True, False, True]), r"torch.bool \(3,\)"),
        (None, "None"),
        (1, "1"),
    ],
)
def test_a_condition_that_returns_no_bool(model, batch, answer, said):
    hooks = gl.steer(HEADS, batch.region((0, 0, 48, 64)), when=lambda logits: answer)
    with pytest.raises(InputError, match=f"when= returned {said}; return a bool for each of the 2 rows"):
        model.generate(batch, fwd_hooks=hooks, **STEPS)


@pytest.mark.parametrize("when", [0.5, "unsure", gl.HeadSet])
def test_what_is_no_condition(batch, when):
    with pytest.raises(InputError, match="give a function of the logits"):
        gl.steer(HEADS, batch.region((0, 0, 48, 64)), when=when)
    with pytest.raises(InputError, match="give a function of the logits"):
        gl.steer(HEADS, batch.region((0, 0, 48, 64)), mass=0.5, when=when)


def test_thresholds_and_tokens_that_are_none(model):
    for threshold in (0, -1.0, True, float("inf"), float("nan"), "1"):
        with pytest.raises(InputError, match="give a number above 0"):
            gl.when.entropy_above(threshold)
    with pytest.raises(InputError, match="give a list of texts or ids"):
        gl.when.token_written(model, ".")
    with pytest.raises(InputError, match="tokens of this model"):
        gl.when.token_written(model, ["a very long text of many tokens"])
    with pytest.raises(InputError, match="give a text or an id"):
        gl.when.token_written(model, [2.5])


@torch.no_grad()
def test_where_the_newest_token_is_not_known(model, batch):
    region = batch.region((0, 0, 48, 64))
    hooks = gl.steer(HEADS, region, where=["decode"], when=gl.when.entropy_above(0.1))
    with pytest.raises(HookError, match="beam search and the like reorder rows"):
        model.generate(batch, fwd_hooks=hooks, num_beams=2, **STEPS)
    hf_model = model.original_model
    for n_tokens, reason in (
        (1, "was not run under these hooks; run the prompt, too"),
        (2, "2 tokens are run at once"),
    ):
        cache = hf_model(input_ids=batch.input_ids, **batch.arguments(), use_cache=True).past_key_values
        mask = torch.cat([batch.tensors["attention_mask"], torch.ones(2, n_tokens, dtype=torch.long)], dim=1)
        ids, places = torch.full((2, n_tokens), 5), torch.full((3, 2, n_tokens), 30)
        with pytest.raises(HookError, match=reason), model.hooks(hooks):
            hf_model(input_ids=ids, past_key_values=cache, attention_mask=mask, position_ids=places)
    ((name, edit), *_) = hooks
    model.hook_dict[name].add_hook(edit)
    try:
        with pytest.raises(HookError, match="attached by itself"):
            model.generate(batch, max_new_tokens=2)
    finally:
        model.hook_dict[name].remove_hooks()


def test_return_sequences_decide_for_themselves(model, batch):
    region = batch.region((0, 0, 48, 64))
    asked = []

    def condition(logits):
        asked.append(None if logits is None else logits.shape[0])
        return torch.tensor([True, False, True, False]) if logits is not None else False

    hooks = gl.steer(HEADS, region, when=condition)
    model.generate(batch, fwd_hooks=hooks, do_sample=True, num_return_sequences=2, max_new_tokens=3, min_new_tokens=3)
    assert asked == [None, 4, 4]
