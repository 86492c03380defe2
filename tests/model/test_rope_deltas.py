"""Prompts with images and texts on caches, in any order: each has the positions that it has alone."""

import copy

import pytest
import torch
from painting import noise

FAMILIES = ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3.5", "GLM-4V"]
IDS = torch.arange(40, 52)[None]


@pytest.fixture(params=FAMILIES)
def model(request, shelf):
    return shelf.get(request.param)[0]


def stepwise(model, before, after=None):
    """The last logits of a text, its last token on the cache of the others; `after` runs in between."""
    _, cache = model(before, return_type="logits_and_cache", use_cache=True)
    if after is not None:
        after()
    return model(IDS[:, -1:], past_key_values=cache)[:, -1]


@torch.no_grad()
def test_a_text_on_a_cache_is_not_moved_by_another_prompts_image(model):
    inputs = model.prepare(noise(160, 120), "look")
    model(inputs)
    whole = model(IDS)[:, -1]
    for run in (lambda: model(inputs), lambda: model.generate(inputs, max_new_tokens=2), None):
        if run is not None:
            run()
        torch.testing.assert_close(stepwise(model, IDS[:, :-1]), whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(stepwise(model, IDS[:, :-1], run), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_picture_on_a_cache_keeps_its_offset_while_texts_run(model):
    inputs = model.prepare(noise(160, 120), "look")
    expected = model.generate(inputs, max_new_tokens=4, min_new_tokens=4).tokens[0].tolist()
    logits, cache = model(inputs, return_type="logits_and_cache", use_cache=True)
    steps = []
    for _ in range(4):
        steps.append(int(logits[0, -1].argmax()))
        model(IDS)
        other = copy.deepcopy(cache)
        logits = model(torch.tensor([[steps[-1]]]), past_key_values=cache)
        again = model(torch.tensor([[steps[-1]]]), past_key_values=other)
        assert torch.equal(logits, again), "a copy of a cache has the same offset"
    assert steps == expected


@torch.no_grad()
def test_a_hook_may_run_the_model_while_it_generates(model):
    inputs = model.prepare(noise(160, 120), "look")
    expected = model.generate(inputs, max_new_tokens=4).sequences

    def nested(tensor, hook):
        with torch.no_grad():
            model.original_model(input_ids=IDS)

    name = "blocks.0.hook_resid_pre"
    ran = []

    def once(tensor, hook):
        if not ran:
            ran.append(True)
            nested(tensor, hook)
            ran.clear()

    assert torch.equal(model.generate(inputs, fwd_hooks=[(name, once)], max_new_tokens=4).sequences, expected)
