"""Prompts in two reading orders, and rates of many orders, against slow loops."""

from functools import partial

import numpy as np
import pytest
import torch

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.patching.reading_orders import order_rates, sample_orders
from gaze_lens.patching.two_orders import order_prompts

ORDER = (2, 0, 1)


def token(model, word):
    return model.processor.tokenizer.encode(word, add_special_tokens=False)[0]


def other_panel(index, order):
    """What the embedded model can be asked: the question about the panel that the order has at a place."""
    return comics.ask(order[index])


@pytest.fixture(scope="module")
def strips():
    return comics.synthetic(5, seed=11, panels=3)


@pytest.fixture(scope="module")
def prompts(tiny_model, strips):
    other = partial(other_panel, order=ORDER)
    return order_prompts(strips, comics.ask, other, places=None, order=ORDER, batch_size=4)


@torch.no_grad()
def last_streams(model, strip, question, layer):
    """(residual stream at the last prompt token before a layer, most probable token), one prompt alone."""
    kept = []
    hooks = [(f"blocks.{layer}.hook_resid_pre", lambda stream, hook: kept.append(stream[0, -1].clone()) or stream)]
    logits = model.run_with_hooks(model.prepare(strip, question), fwd_hooks=hooks)
    return kept[0], int(logits[0, -1].argmax())


def test_answers_are_compared_with_those_of_single_prompts(tiny_model, strips, prompts):
    table = prompts.answered(tiny_model, progress=False)
    rows = iter(table.itertuples())
    for index, strip in enumerate(strips):
        captions = list(strip.captions.values())
        for place in range(3):
            row = next(rows)
            assert (row.strip, row.place, row.before, row.after) == (
                index,
                place,
                captions[place],
                captions[ORDER[place]],
            )
            _, plain = last_streams(tiny_model, strip, comics.ask(place), 0)
            _, changed = last_streams(tiny_model, strip, comics.ask(ORDER[place]), 0)
            assert row.natural == (plain == token(tiny_model, row.before))
            assert row.other == (changed == token(tiny_model, row.after))
    assert table.natural.mean() > 0.9


def test_the_direction_is_the_mean_difference(tiny_model, strips):
    prompts = order_prompts(strips, comics.ask, lambda k: comics.ask(2 - k), batch_size=2)
    direction = prompts.direction(tiny_model, layers=[1, 4], progress=False)
    natural, other = (tiny_model.prepare(strips, [comics.ask(k)] * 5) for k in (0, 2))
    expected = gl.mean_difference(tiny_model, other, natural, layers=[1, 4])
    torch.testing.assert_close(direction.vectors, expected.vectors, atol=1e-4, rtol=1e-4)
    assert direction.layers == (1, 4)
    assert direction.fingerprint == tiny_model.fingerprint
    table = prompts.flips(tiny_model, direction, progress=False)
    firsts = [[token(tiny_model, text) for text in strip.captions.values()] for strip in strips]
    assert table.n[0] == sum(row[0] != row[2] for row in firsts), "answers that begin alike cannot flip"
    assert table.start.tolist() == [1, 4]


def test_what_cannot_be_asked_is_refused(tiny_model, strips, strip):
    mixed = [*strips, comics.synthetic(1, seed=0, panels=2)[0]]
    with pytest.raises(InputError, match=r"Strips of \[2, 3\] panels"):
        order_prompts(mixed, comics.ask, comics.ask)
    for options in ({"places": [3]}, {"order": [0, 1]}, {"places": []}):
        with pytest.raises(InputError, match="were given for strips of 3 panels"):
            order_prompts(strips, comics.ask, comics.ask, **options)
    bare = gl.Picture(strip.image, strip.regions)
    with pytest.raises(InputError, match="Strip 0 has panels without captions"):
        order_prompts([bare], comics.ask, comics.ask)
    same = order_prompts(strips, comics.ask, comics.ask, order=(0, 1, 2))
    with pytest.raises(InputError, match="begin with different tokens"):
        same.flips(tiny_model, same.direction(tiny_model, progress=False), progress=False)


def test_rates_of_orders_equal_a_slow_loop(tiny_model, strips):
    orders, band, scale = [(2, 1, 0), (1, 0, 2)], range(3, 5), 1.5
    discovery = comics.synthetic(3, seed=12, panels=3)

    def in_order(index, order):  # not a permutation of the natural questions: the direction would be zero
        return comics.ask(order[0])

    table = order_rates(
        tiny_model, discovery, strips, orders, band=band, natural=comics.ask, in_order=in_order, scale=scale,
        batch_size=5, progress=False,
    )  # fmt: skip
    for row, order in zip(table.itertuples(), orders, strict=True):
        vectors = {}
        for layer in band:
            pairs = [(in_order(k, order), comics.ask(k), strip) for strip in discovery for k in range(3)]
            new = torch.stack([last_streams(tiny_model, strip, asked, layer)[0] for asked, _, strip in pairs])
            old = torch.stack([last_streams(tiny_model, strip, asked, layer)[0] for _, asked, strip in pairs])
            vectors[layer] = new.mean(0) - old.mean(0)
        words, steered = [], []
        for strip in strips:
            labels = [token(tiny_model, text) for text in strip.captions.values()]
            for k in range(3):
                words.append(last_streams(tiny_model, strip, in_order(k, order), 0)[1] == labels[order[k]])
                steered.append(self_steered(tiny_model, strip, k, vectors, scale) == labels[order[k]])
        moved = np.tile(np.array(order) != np.arange(3), len(strips))
        assert row.in_words == pytest.approx(np.mean(words))
        assert row.as_direction == pytest.approx(np.mean(steered))
        assert row.in_words_moved == pytest.approx(np.mean(np.array(words)[moved]))
        assert row.as_direction_moved == pytest.approx(np.mean(np.array(steered)[moved]))
        assert (row.n, row.moved) == (15, int((np.array(order) != np.arange(3)).sum()))
    assert table.as_direction.nunique() > 1 or table.in_words.nunique() > 1


@torch.no_grad()
def self_steered(model, strip, place, vectors, scale):
    def add(stream, hook):
        stream[:, -1] += scale * vectors[hook.layer()]
        return stream

    hooks = [(f"blocks.{layer}.hook_resid_pre", add) for layer in vectors]
    return int(model.run_with_hooks(model.prepare(strip, comics.ask(place)), fwd_hooks=hooks)[0, -1].argmax())


def test_orders_asked_for_in_words_that_the_model_knows_are_followed(tiny_model, strips):
    table = order_rates(
        tiny_model, strips[:2], strips, [(2, 1, 0)], band=range(2, 4), natural=comics.ask, in_order=other_panel,
        progress=False,
    )  # fmt: skip
    assert table.in_words[0] > 0.9
    assert table.in_words_rho[0] > 0.9


def test_samples_of_orders():
    everything = sample_orders(4)
    assert len(set(everything)) == 23
    assert everything[0] == (3, 2, 1, 0)
    assert (0, 1, 2, 3) not in everything
    few = sample_orders(6, limit=30, seed=3)
    assert len(set(few)) == 30
    assert few[0] == (5, 4, 3, 2, 1, 0)
    assert few == sample_orders(6, limit=30, seed=3)
    assert few != sample_orders(6, limit=30, seed=4)
    assert all(sorted(order) == list(range(6)) for order in few)
    with pytest.raises(InputError, match="give 2 panels or more"):
        sample_orders(1)
