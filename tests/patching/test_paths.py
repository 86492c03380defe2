"""Path patching: equal to its slow definition in three runs, on every family or refused."""

import warnings

import pytest
import torch
from every_family import NAMES, Case, largest, scale_of
from reference import at_real, picture

import gaze_lens as gl
from gaze_lens.errors import HeadError, HookError, InputError
from gaze_lens.inputs.position_groups import group
from gaze_lens.patching.paths import path_hooks

LINEAR = ("Qwen3-VL", "LLaVA", "Qwen3-VL-MoE")
REFUSED = {
    "Mllama": (InputError, "Direct paths are not defined"), "Gemma 4": (InputError, "Direct paths are not defined"),
    "Gemma 3n": (HookError, "several residual streams"),
}  # fmt: skip


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
    """A hook that holds a point at its cached value; with `source`, some heads have that run's value at the mask."""

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
    frozen = []
    for layer in range(n_layers):
        heads = [head for at, head in senders if at == layer]
        if f"blocks.{layer}.attn.hook_z" in b:
            frozen.append(freeze(b, f"blocks.{layer}.attn.hook_z", heads, a, mask))
        else:
            frozen.append(freeze(b, f"blocks.{layer}.hook_attn_out"))
        frozen.append(freeze(b, f"blocks.{layer}.hook_mlp_out"))
    with model.hooks(frozen):
        logits, c = model.run_with_cache(corrupted)
    if receivers == "logits":
        return logits
    last = []
    for layer in {layer for layer, _ in receivers}:
        heads = [head // (1 if letter == "q" else n_heads // kv) for at, head in receivers if at == layer]

        def put(tensor, hook, heads=tuple(heads)):
            count = n_heads if letter == "q" else kv
            new, cached = tensor.clone().flatten(2).unflatten(-1, (count, -1)), c[hook.name].flatten(2)
            new[:, :, list(heads)] = cached.unflatten(-1, (count, -1))[:, :, list(heads)]
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
        error, message = REFUSED[case.name]
        with pytest.raises(error, match=message):
            path_hooks(model, clean, corrupted, senders, receivers)
        return
    for letter, into in (("q", receivers), ("v", receivers), ("", "logits")):
        hooks = path_hooks(model, clean, corrupted, senders, into, into=letter or "q", positions="last")
        patched, before = model.run_with_hooks(corrupted, fwd_hooks=hooks), model(corrupted)
        expected = three_runs(model, clean, corrupted, senders, into, letter, "last")
        assert largest(at_real(patched - before, corrupted)) > 0
        assert largest(at_real(patched - expected, corrupted)) < 2e-5 * scale_of(before)


def metric(logits):
    return logits[:, -1, 65] - logits[:, -1, 66]


@torch.no_grad()
def test_the_sweep_is_a_loop_over_hooks(shelf):
    model, _ = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    options = {"positions": ["image", "last"], "metric": metric, "progress": False}
    result = gl.path_patch(model, clean, corrupted, None, [(2, 1), (3, 0)], into="qkv", batch_size=8, **options)
    assert len(result.index_df) == 3 * 4 * 2
    for cell, values in list(zip(result.index_df.itertuples(), result.values, strict=True))[::5]:
        hooks = path_hooks(
            model, clean, corrupted, [(cell.layer, cell.head)], [(2, 1), (3, 0)], into="qkv", positions=cell.positions
        )
        torch.testing.assert_close(values, metric(model.run_with_hooks(corrupted, fwd_hooks=hooks)), atol=2e-5, rtol=0)
    torch.testing.assert_close(result.baseline, metric(model(corrupted)), atol=2e-5, rtol=0)
    torch.testing.assert_close(result.clean, metric(model(clean)), atol=2e-5, rtol=0)
    assert result.what.startswith("paths into q of L2H1, k of KV heads L2H0")
    assert len(result.top(3, positions="last")) == 3


@torch.no_grad()
def test_clean_into_clean_changes_nothing_and_all_paths_to_the_logits_add_up(shelf):
    model, _ = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    before = model(clean)
    hooks = path_hooks(model, clean, clean, [(0, 1), (1, 0)], [(2, 0), (3, 1)], into="qkv")
    assert largest(at_real(model.run_with_hooks(clean, fwd_hooks=hooks) - before, clean)) < 1e-5
    heads = [(layer, head) for layer in range(4) for head in range(4)]
    hooks = path_hooks(model, clean, corrupted, heads, "logits", positions="every")
    seen, names = [], [f"blocks.{layer}.hook_attn_out" for layer in range(4)]
    runs = [model.run_with_cache(inputs, names_filter=[*names, "blocks.3.hook_resid_post"])[1] for inputs in
            (clean, corrupted)]  # fmt: skip
    look = ("blocks.3.hook_resid_post", lambda stream, hook: seen.append(stream))
    model.run_with_hooks(corrupted, fwd_hooks=[*hooks, look])
    added = sum(runs[0][name] - runs[1][name] for name in names)
    expected = runs[1]["blocks.3.hook_resid_post"] + added
    torch.testing.assert_close(at_real(seen[0], corrupted), at_real(expected, corrupted), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_share_of_a_kv_head_is_the_whole_of_it_and_said(shelf):
    model, _ = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    with pytest.warns(UserWarning, match=r"L3H2 share KV heads with L3H3: into='k' patches KV heads \[1\] of layer 3"):
        share = path_hooks(model, clean, corrupted, [(0, 1)], [(3, 2)], into="k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = path_hooks(model, clean, corrupted, [(0, 1)], [(3, 2), (3, 3)], into="k")
        path_hooks(model, clean, corrupted, [(0, 1)], [(3, 2)], into="q")
    first, second = (model.run_with_hooks(corrupted, fwd_hooks=hooks) for hooks in (share, whole))
    assert torch.equal(first, second)


@torch.no_grad()
def test_paths_that_are_none_are_refused(shelf):
    model, _ = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    before = at_real(model(corrupted), corrupted)
    for senders, receivers, into, words in (
        ([(0, 0), (2, 0)], [(2, 1)], "q", "No receiver comes after L2H0"),
        ([(0, 0)], [(2, 1)], "x", "into='x' was given"),
        ([(0, 0)], "unembed", "q", "expected heads, or 'logits'"),
    ):
        with pytest.raises(InputError, match=words):
            path_hooks(model, clean, corrupted, senders, receivers, into=into)
    for senders, receivers, words in (
        ([], [(2, 1)], "set of heads is empty"),
        ([(0, 0)], [(2, 7)], "outside the model"),
    ):
        with pytest.raises(HeadError, match=words):
            path_hooks(model, clean, corrupted, senders, receivers)
    other = model.prepare(picture(64, 64), "else")
    with pytest.raises(InputError):
        path_hooks(model, clean, other, [(0, 0)], [(2, 1)])
    hooks = path_hooks(model, clean, corrupted, [(0, 0)], [(2, 1)])
    with pytest.raises(InputError, match="in one forward"):
        model.run_with_hooks(other, fwd_hooks=hooks)
    with pytest.raises(InputError, match="in one forward"):
        model.generate(corrupted, fwd_hooks=hooks, max_new_tokens=3)
    with pytest.raises(InputError, match="one number for each row"):
        gl.path_patch(model, clean, corrupted, None, [(2, 1)], metric=lambda logits: logits.sum(), progress=False)
    assert torch.equal(at_real(model(corrupted), corrupted), before)
