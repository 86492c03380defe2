"""A generation whose logits are NaN or infinite is an error that names its rows; the other rows are right."""

import pytest
import torch
from reference import padded

from gaze_lens.errors import ModelError, NotFiniteError

LOGITS = "unembed.hook_out"
WAYS = {
    "greedy": {}, "samples": {"do_sample": True, "num_return_sequences": 2}, "beams": {"num_beams": 3},
    "no cache": {"use_cache": False}, "static": {"cache_implementation": "static"},
}  # fmt: skip


def spoiled(value, *, row=slice(None), step=0, length=0):
    """A hook that puts a value among the logits of a row, from a step on."""
    calls = []

    def hook(logits, hook):
        calls.append(1)
        if len(calls) > step:
            logits = logits.clone()
            logits[row, -1, 7] = value
        return logits

    return [(LOGITS, hook)]


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_hook_that_spoils_the_logits_is_an_error_in_every_way_to_generate(model, value, options):
    inputs, before = padded(model), len(model.original_model._forward_hooks)
    with pytest.raises(ModelError, match=r"logits are NaN or infinite in row 0 \(step 0\), row 1 \(step 0\)") as error:
        model.generate(inputs, fwd_hooks=spoiled(value), max_new_tokens=5, min_new_tokens=5, **options)
    assert error.value.generation.n_steps == 1, "it ends where no row is left"
    assert len(model.original_model._forward_hooks) == before


def test_the_other_rows_are_what_they_would_be(model):
    inputs = padded(model)
    options = {"max_new_tokens": 6, "min_new_tokens": 6}
    expected = model.generate(inputs, **options)
    with pytest.raises(NotFiniteError, match=r"in row 1 \(step 2\)") as error:
        model.generate(inputs, fwd_hooks=spoiled(torch.nan, row=1, step=2), **options)
    assert error.value.steps == {1: 2}
    assert error.value.reasons == {1: "the logits are NaN or infinite at step 2"}
    assert torch.equal(error.value.generation.tokens[0], expected.tokens[0])
    assert error.value.generation.texts[0] == expected.texts[0]
    assert torch.equal(error.value.generation.tokens[1, :2], expected.tokens[1, :2])


@pytest.mark.parametrize("value", [float("inf"), float("nan")], ids=str)
def test_a_weight_that_is_no_number_is_an_error(model, value):
    weight = model.original_model.model.language_model.norm.weight
    before = weight.data[0].item()
    try:
        weight.data[0] = value
        with pytest.raises(ModelError, match="Look for such values in weights and hooks, or load the model in float32"):
            model.generate(padded(model), max_new_tokens=3)
    finally:
        weight.data[0] = before
    assert model.generate(padded(model), max_new_tokens=3).n_steps > 0


def test_float16_that_overflows_is_an_error(model):
    def overflow(residual, hook):
        return (residual.half() * 6e4).float()

    with pytest.raises(ModelError, match="NaN or infinite"):
        model.generate(padded(model), fwd_hooks=[("blocks.1.hook_resid_post", overflow)], max_new_tokens=3)


def test_tokens_that_processors_forbid_are_no_error(model):
    """They get -inf, after the model."""
    inputs = padded(model)
    free = model.generate(inputs, max_new_tokens=4, min_new_tokens=4)
    first = free.tokens[0, 0].item()
    generation = model.generate(inputs, max_new_tokens=4, min_new_tokens=4, suppress_tokens=[first], top_k=None)
    assert first not in generation.tokens.tolist()[0]
    sampled = model.generate(inputs, max_new_tokens=4, do_sample=True, top_k=2, top_p=0.5, bad_words_ids=[[first]])
    assert first not in sampled.tokens.tolist()[0]


def test_what_comes_after_the_end_of_a_text_does_not_count(model):
    inputs = padded(model)
    free = model.generate(inputs, max_new_tokens=6, min_new_tokens=6).tokens.tolist()
    end = next(token for token in free[0] if token not in free[1])
    step = free[0].index(end) + 1
    options = {"eos_token_id": end, "pad_token_id": 0, "max_new_tokens": 6}
    hooks = spoiled(torch.nan, row=0, step=step)
    assert model.generate(inputs, fwd_hooks=hooks, **options).tokens[1].tolist() == free[1]
    with pytest.raises(NotFiniteError, match=rf"row 1 \(step {step}\)"):
        model.generate(inputs, fwd_hooks=spoiled(torch.nan, step=step), **options)


def test_own_processors_and_criteria_are_kept(model):
    seen = []

    def processor(ids, scores):
        seen.append(scores.shape)
        return scores

    def criterion(ids, scores, **options):
        return torch.full((len(ids),), ids.shape[1] >= inputs.layout.length + 2)

    inputs = padded(model)
    options = {"logits_processor": [processor], "stopping_criteria": [criterion], "max_new_tokens": 5}
    assert model.generate(inputs, min_new_tokens=5, **options).n_steps == 2
    assert len(seen) == 2
    assert len(options["logits_processor"]) == len(options["stopping_criteria"]) == 1
