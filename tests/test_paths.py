"""Path patching: equal to its slow definition in three runs, on every family or refused."""

import warnings

import pytest
import torch
from every_family import NAMES, Case, largest, scale_of
from reference import at_real, picture

import gaze_lens as gl
from gaze_lens.errors import InputError
from gaze_lens.patching.groups import group
from gaze_lens.patching.paths import path_hooks

LINEAR = ("Qwen3-VL", "LLaVA", "Qwen3-VL-MoE")
REFUSED = ("Mllama", "Gemma 4")


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


def pair(model):
    """Two rows of one layout, other pictures and words of the same length."""
    return tuple(
        model.prepare([picture(96, 64, seed), picture(96, 64, seed + 1)], [words, f"a {words}"])
        for seed, words in ((0, "what?"), (5, "where"))
    )


def freeze(cache, name, heads=None, source=None, mask=None):
    """A hook that holds a point at its kept value; with `source`, some heads have that run's value at the mask."""

    def hold(_, hook):
        value = cache[name].clone()
        for head in heads or ():
            value[mask, head] = source[name][mask, head]
        return value

    return name, hold


def three_runs(model, clean, corrupted, senders, receivers, letter, positions):
    """The logits of path patching as it is defined, hook by hook."""
    n_layers, n_heads, kv = model.cfg.n_layers, model.cfg.n_heads, 2
    _, a = model.run_with_cache(clean)
    _, b = model.run_with_cache(corrupted)
    mask = torch.zeros(corrupted.shape, dtype=torch.bool)
    for row, columns in zip(mask, group(corrupted, positions).rows, strict=True):
        row[list(columns)] = True
    held = []
    for layer in range(n_layers):
        heads = [head for at, head in senders if at == layer]
        if f"blocks.{layer}.attn.hook_z" in b:
            held.append(freeze(b, f"blocks.{layer}.attn.hook_z", heads, a, mask))
        else:
            held.append(freeze(b, f"blocks.{layer}.hook_attn_out"))
        held.append(freeze(b, f"blocks.{layer}.hook_mlp_out"))
    with model.hooks(held):
        logits, c = model.run_with_cache(corrupted)
    if receivers == "logits":
        return logits
    last = []
    for layer in {layer for layer, _ in receivers}:
        heads = [head // (1 if letter == "q" else n_heads // kv) for at, head in receivers if at == layer]

        def put(tensor, hook, heads=tuple(heads)):
            count = n_heads if letter == "q" else kv
            new, kept = tensor.clone().flatten(2).unflatten(-1, (count, -1)), c[hook.name].flatten(2)
            new[:, :, list(heads)] = kept.unflatten(-1, (count, -1))[:, :, list(heads)]
            return new.view_as(tensor)

        name = f"blocks.{layer}.attn.hook_{letter}"
        last.append((name, lambda tensor, hook, put=put, name=name: put(tensor, type("H", (), {"name": name}))))
    return model.run_with_hooks(corrupted, fwd_hooks=last)


SENDERS = [(0, 1), (1, 0), (1, 3), (2, 2)]


@pytest.mark.parametrize(
    ("letter", "receivers", "positions"),
    [("q", [(2, 0), (3, 1)], "last"), ("q", [(3, 1)], "every"), ("k", [(3, 0), (3, 1)], "image"),
     ("v", [(2, 2), (2, 3), (3, 0), (3, 1)], "every"), ("", "logits", "last")],
)  # fmt: skip
@pytest.mark.parametrize("family", LINEAR)
@torch.no_grad()
def test_equal_to_the_definition_in_three_runs(shelf, family, letter, receivers, positions):
    model, _ = shelf.get(family)
    clean, corrupted = pair(model)
    senders = [head for head in SENDERS if receivers == "logits" or head[0] < receivers[-1][0]]
    hooks = path_hooks(model, clean, corrupted, senders, receivers, into=letter or "q", positions=positions)
    patched, before = model.run_with_hooks(corrupted, fwd_hooks=hooks), model(corrupted)
    expected = three_runs(model, clean, corrupted, senders, receivers, letter, positions)
    assert largest(at_real(patched - before, corrupted)) > 1e-2
    assert largest(at_real(patched - expected, corrupted)) < 1e-5 * scale_of(before)


@torch.no_grad()
def test_on_every_family_or_refused(case):
    model = case.model
    clean, corrupted = pair(model)
    senders = [(case.live[0], 1)]
    receivers = [(case.live[-1], head) for head in (0, 1)]
    if case.name in REFUSED:
        with pytest.raises(InputError, match="Direct paths are not defined"):
            path_hooks(model, clean, corrupted, senders, receivers)
        return
    for letter, into in (("q", receivers), ("v", receivers), ("", "logits")):
        hooks = path_hooks(model, clean, corrupted, senders, into, into=letter or "q", positions="last")
        patched, before = model.run_with_hooks(corrupted, fwd_hooks=hooks), model(corrupted)
        expected = three_runs(model, clean, corrupted, senders, into, letter, "last")
        assert largest(at_real(patched - before, corrupted)) > 0
        assert largest(at_real(patched - expected, corrupted)) < 2e-5 * scale_of(before)
