"""Rates of flipped answers by layer, against a loop that adds the direction by a hook of its own."""

import pandas as pd
import pytest
import torch

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.patching import flip_rates


@pytest.fixture(scope="module")
def case(tiny_model):
    """Prompts about first panels, a direction towards prompts about last ones, and the words of both answers."""
    strips = comics.synthetic(6, seed=5, panels=4)
    words = [[text.split()[0] for text in strip.captions.values()] for strip in strips]
    chosen = [n for n, (first, *_, last) in enumerate(words) if first != last]
    pictures = [strips[n] for n in chosen]
    normal, other = (tiny_model.prepare(pictures, [comics.ask(k)] * len(pictures)) for k in (0, 3))
    direction = gl.mean_difference(tiny_model, other, normal)
    return normal, direction, [words[n][0] for n in chosen], [words[n][-1] for n in chosen]


def token(model, word):
    return model.processor.tokenizer.encode(word, add_special_tokens=False)[0]


@torch.no_grad()
def slow(model, inputs, vector, layer, before, after, scale):
    """(share of rows that flip, mean logit difference) with a hook on one layer's input."""
    rows = torch.arange(inputs.n_rows)

    def add(stream, hook):
        stream[:, -1] += scale * vector
        return stream

    plain = model(inputs)[:, -1]
    steered = model.run_with_hooks(inputs, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", add)])[:, -1]
    olds, news = ([token(model, word) for word in words] for words in (before, after))
    flips = [
        int(plain[n].argmax()) == old and int(steered[n].argmax()) == new
        for n, (old, new) in enumerate(zip(olds, news, strict=True))
    ]
    return sum(flips) / len(flips), (steered[rows, news] - steered[rows, olds]).mean().item()


def test_rates_by_layer_equal_a_slow_loop(tiny_model, case):
    inputs, direction, before, after = case
    table = flip_rates(tiny_model, inputs, direction, before, after, scale=1.5, progress=False)
    assert table.start.tolist() == list(range(6))
    for layer in range(6):
        vector = direction.vector(layer)
        share, difference = slow(tiny_model, inputs, vector, layer, before, after, 1.5)
        assert table.flipped[layer] == pytest.approx(share)
        assert table.difference[layer] == pytest.approx(difference, abs=1e-3)
        assert table.low[layer] <= table.flipped[layer] <= table.high[layer]
    assert table.read[0] > 0.9, "the embedded model answers the question"
    assert table.flipped.max() > 0, "the direction acts somewhere"
    assert table.unsteered[0] < 0


def test_several_batches_are_one(tiny_model, case):
    inputs, direction, before, after = case
    bands = [range(1, 3), range(0, 6)]
    whole = flip_rates(tiny_model, inputs, direction, before, after, bands=bands, progress=False)
    pictures = [row[0] for row in inputs.pictures]
    parts = [tiny_model.prepare(some, [comics.ask(0)] * len(some)) for some in (pictures[:2], pictures[2:])]
    several = flip_rates(tiny_model, parts, direction, before, after, bands=bands, progress=False)
    columns = ["start", "stop", "flipped", "difference", "read", "n"]
    pd.testing.assert_frame_equal(several[columns], whole[columns], atol=1e-4, rtol=0)


def test_other_numbers_of_answers_are_refused(tiny_model, case):
    inputs, direction, before, after = case
    with pytest.raises(InputError, match="answers were given for"):
        flip_rates(tiny_model, inputs, direction, before[1:], after, progress=False)
    with pytest.raises(InputError, match="begin with the same token"):
        flip_rates(tiny_model, inputs, direction, before, before, progress=False)
