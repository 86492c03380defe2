"""Attribution against finite differences, and against the same gradient computed in another way; what it refuses."""

from functools import partial

import pandas as pd
import pytest
import torch
from every_family import largest
from reference import picture

import gaze_lens as gl
from gaze_lens.errors import InputError
from gaze_lens.inputs.position_groups import group
from gaze_lens.patching import agreement

STEP = 1e-2


@pytest.fixture(scope="module")
def double():
    """A tiny Qwen3-VL in float64, for finite differences; its norms compute in float32 all the same."""
    hf_model, processor = gl.testing.tiny("Qwen3-VL")
    return gl.HookedVLM.wrap(hf_model.double(), processor)


def pair(model):
    """Two rows of one layout; pictures and a word differ."""
    return tuple(
        model.prepare([picture(96, 64, seed), picture(96, 64, seed + 1)], [f"{word} now", f"a {word} here"])
        for seed, word in ((0, "what"), (5, "that"))
    )


def metric(logits):
    return logits[:, -1, 65] - logits[:, -1, 66] * 0.5


def slope(model, corrupted, name, a, b, rows, head):
    """The central difference of the metric on the way from the corrupted to the clean activation of one head."""
    measured = []
    for step in (STEP, -STEP):

        def move(tensor, hook, step=step):
            for row, positions in enumerate(rows):
                for position in positions:
                    change = a[row, position, head] - b[row, position, head]
                    tensor[row, position, head] = tensor[row, position, head] + step * change
            return tensor

        measured.append(metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, move)])))
    return (measured[0] - measured[1]) / (2 * STEP)


@pytest.mark.parametrize("what", ["z", "q", "v", "resid_pre"])
@torch.no_grad()
def test_attribution_is_a_finite_difference(double, what):
    clean, corrupted = pair(double)
    estimate = gl.attribute(double, clean, corrupted, what=what, positions=["image", "last"], metric=metric)
    column = {"z": "head", "q": "head", "v": "kv_head"}.get(what)
    effect, cells = estimate.effect(), estimate.index_df
    for layer, head, name in ((0, 1, "image"), (2, 0, "last"), (3, 1, "last")):
        point = f"blocks.{layer}.{'hook_resid_pre' if what == 'resid_pre' else f'attn.hook_{what}'}"
        a, b = (double.run_with_cache(inputs, names_filter=point)[1][point] for inputs in (clean, corrupted))
        mask = (cells["layer"] == layer) & (cells["positions"] == name) & (column is None or cells[column] == head)
        expected = slope(
            double, corrupted, point, a, b, group(corrupted, name).rows, slice(None) if column is None else head
        )
        assert int(mask.sum()) == 1
        torch.testing.assert_close(effect[mask.to_numpy()][0], expected.float(), atol=1e-4, rtol=2e-3)
    assert estimate.what == f"{what} (estimated)"


@torch.no_grad()
def test_every_cell_is_there_and_results_and_image_features_agree_with_others(shelf):
    model, _ = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    z = gl.attribute(model, clean, corrupted, positions=["image", "text", "every"], metric={"a": metric, "b": lambda
        logits: logits[:, -1].logsumexp(-1)})  # fmt: skip
    assert z.values.shape == (2, 4 * 4 * 3, 2)
    parts = {name: z["a"].effect()[(z.index_df["positions"] == name).to_numpy()] for name in ("image", "text", "every")}
    torch.testing.assert_close(parts["image"] + parts["text"], parts["every"], atol=1e-5, rtol=0)
    result = gl.attribute(model, clean, corrupted, what="result", positions=["image", "text", "every"], metric=metric)
    assert torch.equal(result.effect(), z["a"].effect())
    image = gl.attribute(model, clean, corrupted, what="image", metric=metric)
    assert list(image.index_df.columns) == ["positions"]
    stream = gl.attribute(model, clean, corrupted, what="resid_pre", where=[0], positions="image", metric=metric)
    assert largest(image.effect() - stream.effect()) > 1e-4  # DeepStack's part is only in the first


@torch.no_grad()
def test_edges_are_gradients_of_split_inputs(shelf):
    model, untouched = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    senders, receivers = [(0, 1), (1, 2), (2, 0)], [(2, 1), (3, 0), (3, 3)]
    edges = gl.attribute_edges(
        model, clean, corrupted, senders, receivers, into="qv", positions=["image", "last"], metric=metric
    )
    results, stored = [], {}

    def keep(key, tensor, hook):
        stored[key] = tensor
        return tensor

    model.set_use_split_qkv_input(True)
    try:
        hooks = [
            (f"blocks.{layer}.hook_{letter}_input", partial(keep, (layer, letter)))
            for layer in (2, 3)
            for letter in "qv"
        ]
        with torch.enable_grad(), model.hooks(hooks):
            value = metric(model(corrupted)).sum()
        gradients = dict(zip(stored, torch.autograd.grad(value, list(stored.values())), strict=True))
    finally:
        model.set_use_split_qkv_input(False)
    for inputs in (clean, corrupted):
        cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_z"))[1]
        heads = [(layer, untouched.model.language_model.layers[layer].self_attn.o_proj) for layer, _ in senders]
        results.append({
            (layer, head): cache["z", layer][:, :, head] @ projection.weight[:, 16 * head : 16 * head + 16].T
            for (layer, projection), (_, head) in zip(heads, senders, strict=True)
        })  # fmt: skip
    assert len(edges.index_df) == 2 * (2 * 6 + 1 * 4)
    for effect, cell in zip(edges.effect(), edges.index_df.itertuples(), strict=True):
        layer, head = int(cell.receiver[1]), int(cell.receiver[-1])
        added = results[0][cell.layer, cell.head] - results[1][cell.layer, cell.head]
        by_position = (added * gradients[layer, cell.into][:, :, head]).sum(-1)
        expected = [
            sum(by_position[row, position] for position in positions)
            for row, positions in enumerate(group(corrupted, cell.positions).rows)
        ]
        torch.testing.assert_close(effect, torch.stack(expected), atol=2e-5, rtol=1e-3)


@torch.no_grad()
def test_edges_summed_over_receivers_rank_senders_as_path_patching_does(double):
    clean, corrupted = pair(double)
    receivers = [(2, 1), (3, 0)]
    patched = gl.path_patch(double, clean, corrupted, None, receivers, positions="last", metric=metric, progress=False)
    edges = gl.attribute_edges(double, clean, corrupted, None, receivers, positions="last", metric=metric)
    assert agreement(edges, patched) > 0.8


def test_agreement_is_spearmans(shelf):
    model, _ = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    options = {"positions": "last", "metric": metric}
    estimate = gl.attribute(model, clean, corrupted, **options)
    patched = gl.patch(model, clean, corrupted, what="z", where=[1, 2], progress=False, **options)
    both = estimate.effect().mean(-1)[4:12], patched.effect().mean(-1)
    ranks = [pd.Series(effect.tolist()).rank() for effect in both]
    gaps = sum((first - second) ** 2 for first, second in zip(*ranks, strict=True))
    assert agreement(estimate, patched) == pytest.approx(1 - 6 * gaps / (8 * 63))
    with pytest.raises(InputError, match="at least three"):
        agreement(estimate, gl.patch(model, clean, corrupted, what="z", where=["L1H0"], progress=False, **options))


def test_parameters_are_left_as_they_were(double):
    clean, corrupted = pair(double)
    parameters = list(double.original_model.parameters())
    parameters[3].requires_grad_(False)
    parameters[5].grad = torch.ones_like(parameters[5])
    before = [parameter.requires_grad for parameter in parameters]
    gl.attribute(double, clean, corrupted, metric=metric)
    gl.attribute_edges(double, clean, corrupted, [(0, 0)], "logits", metric=metric)
    with pytest.raises(InputError, match="has no gradient"):
        gl.attribute(double, clean, corrupted, metric=lambda logits: logits[:, -1].argmax(-1).double())
    assert [parameter.requires_grad for parameter in parameters] == before
    assert torch.equal(parameters[5].grad, torch.ones_like(parameters[5]))
    assert all(parameter.grad is None for parameter in parameters if parameter is not parameters[5])
    parameters[3].requires_grad_(True)
    parameters[5].grad = None


def test_what_fits_no_attribution_is_refused(shelf):
    model, _ = shelf.get("Qwen3-VL")
    clean, corrupted = pair(model)
    with pytest.raises(InputError, match="one number for each row"):
        gl.attribute(model, clean, corrupted, metric=lambda logits: logits.sum())
    with pytest.raises(InputError, match="finite numbers"):
        gl.attribute(model, clean, corrupted, metric=lambda logits: logits[:, -1, 0] * float("nan"))
    with pytest.raises(InputError, match="what='zz' was given"):
        gl.attribute(model, clean, corrupted, what="zz", metric=metric)
    with pytest.raises(InputError):
        gl.attribute(model, clean, model.prepare(picture(64, 64), "else"), metric=metric)


def test_gates_of_queries_are_left_out_as_in_patching(shelf):
    """Qwen3.5 projects queries and gates together; patching a query leaves its gate alone."""
    model, _ = shelf.get("Qwen3.5")
    clean, corrupted = pair(model)
    estimate = gl.attribute(model, clean, corrupted, what="q", where=[3], positions="last", metric=metric)
    stored = {}

    def keep(name, tensor, hook):
        stored[name] = tensor.detach().requires_grad_()
        return stored[name]

    for name, inputs in (("clean", clean), ("corrupted", corrupted)):
        logits = model.run_with_hooks(inputs, fwd_hooks=[("blocks.3.attn.hook_q", partial(keep, name))])
    metric(logits).sum().backward()
    difference, gradient = stored["clean"] - stored["corrupted"], stored["corrupted"].grad
    n_heads = model.cfg.n_heads
    products = (difference * gradient)[:, -1].reshape(2, n_heads, 2, -1).sum(-1)  # [row, head, query or gate]
    torch.testing.assert_close(estimate.effect().T, products[..., 0], atol=1e-6, rtol=1e-3)
    assert largest(products[..., 1]) > 1e-4
    model.original_model.zero_grad()


@torch.no_grad()
def test_edges_count_for_their_senders(double):
    clean, corrupted = pair(double)
    senders, receivers = [(0, 1), (1, 2)], [(2, 1), (3, 0), (3, 3)]
    edges = gl.attribute_edges(double, clean, corrupted, senders, receivers, positions="last", metric=metric)
    table = edges.table()
    expected = [table[(table.layer == layer) & (table["head"] == head)].recovery.sum() for layer, head in senders]
    grid = edges.grid()
    assert [grid[head].item() for head in senders] == pytest.approx(expected)
    assert grid.isfinite().sum() == 2
    assert [tuple(head) for head in edges.top(2)] == sorted(senders, key=lambda head: -grid[head])
