"""TransformerBridge's methods on tokens, given `VLMInputs`, and runs of what a processor returned."""

import pytest
import torch
from every_family import NAMES, Case
from reference import look, padded, picture
from transformer_lens.head_detector import detect_head
from transformer_lens.utilities import test_prompt as print_prompt
from transformers import BatchFeature

import gaze_lens as gl
from gaze_lens.errors import InputError, RegionError


@pytest.fixture(scope="module")
def one(qwen):
    return qwen.prepare(picture(96, 64), "What is it?")


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


@pytest.mark.parametrize("encoded", [False, True])
def test_what_a_processor_returns_is_run(case, encoded):
    model, inputs = case.model, case.inputs
    inputs = model.encode(inputs) if encoded else inputs
    expected = model(inputs)
    for batch in (dict(inputs), BatchFeature(dict(inputs))):
        assert torch.equal(model(batch), expected)
        assert torch.equal(model(**batch), expected)
    assert torch.equal(model(**inputs), expected)
    several = "blocks.0.hook_resid_pre" in model.silent  # streams
    name = "blocks.0.hook_attn_out" if several else "blocks.0.hook_resid_pre"
    assert torch.equal(model.run_with_hooks(**inputs, fwd_hooks=[(name, look)]), expected)
    logits, cache = model.run_with_cache(BatchFeature(dict(inputs)), names_filter=name)
    assert torch.equal(logits, expected)
    if several:
        with pytest.raises(InputError, match="stop_at_layer was given, which returns the residual stream"):
            model.input_to_embed(inputs)
        return
    residual, ids, none, mask = model.input_to_embed(inputs)
    assert torch.equal(residual, cache["blocks.0.hook_resid_pre"])
    assert (ids is inputs.input_ids, none, mask is inputs.tensors["attention_mask"]) == (True, None, True)


def test_the_first_argument_is_one(qwen, one):
    assert torch.equal(qwen(input=one), qwen(one))
    for call in (lambda: qwen(), lambda: qwen(one, input_ids=one.input_ids), lambda: qwen(input=one, inputs=one)):
        with pytest.raises(InputError, match="forward runs on one argument, which comes first"):
            call()
    with pytest.raises(InputError, match="input_ids is missing; the BatchFeature given has pixel_values"):
        qwen(BatchFeature({"pixel_values": one["pixel_values"]}))
    hooks = gl.steer(gl.HeadSet([(1, 0)]), one.region((0, 0, 32, 32)))
    with pytest.raises(RegionError, match="raw tokens are being run"):
        qwen.run_with_hooks(**one, fwd_hooks=hooks)


def test_texts_of_tokens(qwen, one):
    ids = one.input_ids
    assert qwen.to_tokens(one) is ids
    assert qwen.to_str_tokens(one) == qwen.to_str_tokens(ids) == one.str_tokens()
    assert qwen.to_string(one) == qwen.to_string(ids)
    token = ids[0, 5].item()
    for mode in ("first", "last"):
        assert qwen.get_token_position(token, one, mode) == qwen.get_token_position(token, ids, mode)
    directions = qwen.tokens_to_residual_directions(one)
    assert torch.equal(directions, qwen.tokens_to_residual_directions(ids))
    batch = padded(qwen)
    assert qwen.to_string(batch) == qwen.to_string(batch.input_ids)
    with pytest.raises(InputError, match=r"these inputs have 2; inputs.str_tokens\(row=0\)"):
        qwen.to_str_tokens(batch)
    with pytest.raises(InputError, match=r"input_to_embed\(inputs\) takes nothing else"):
        qwen.input_to_embed(batch, prepend_bos=True)


@pytest.mark.parametrize("per_token", [False, True])
def test_the_loss_is_that_of_the_run(qwen, per_token):
    batch = padded(qwen)
    expected = qwen(batch, return_type="loss", loss_per_token=per_token)
    logits, ids, mask = qwen(batch), batch.input_ids, batch.tensors["attention_mask"].bool()
    assert torch.equal(qwen.loss_fn(logits, batch, per_token=per_token), expected)
    assert torch.equal(qwen.loss_fn(logits, batch, mask, per_token), expected)
    pairs = [(row, at) for row in range(2) for at in range(ids.shape[1] - 1) if mask[row, at] and mask[row, at + 1]]
    slow = torch.stack([-logits[row, at].log_softmax(-1)[ids[row, at + 1]] for row, at in pairs])
    torch.testing.assert_close(expected.sum() if per_token else expected * len(pairs), slow.sum())


def test_functions_that_take_the_tokens_apart(qwen, one):
    with pytest.raises(InputError, match="no image came with them.*hand it the cache of model.run_with_cache"):
        detect_head(qwen, one, "previous_token_head")
    _, cache = qwen.run_with_cache(one, remove_batch_dim=True)
    scores = detect_head(qwen, one, "previous_token_head", cache=cache)
    pattern = cache["pattern", 1][2]
    assert scores[1, 2].item() == pytest.approx((pattern.diagonal(-1).sum() / pattern.sum()).item())
    with pytest.raises(InputError, match="or do its steps with inputs"):
        print_prompt(one, " a", qwen)
    print_prompt("What", " a", qwen)
