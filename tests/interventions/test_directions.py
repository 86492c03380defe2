"""Directions: differences of means, added at the layers that they come from, band by band."""

import json

import pytest
import torch
from every_family import largest
from reference import at_real, padded, picture
from safetensors.torch import save_file

import gaze_lens as gl
from gaze_lens.errors import InputError, ModelError
from gaze_lens.inputs.position_groups import group


def metric(logits):
    return logits[:, -1, 65] - logits[:, -1, 66]


@pytest.fixture(params=["Qwen3-VL", "LLaVA"])
def model(request, shelf):
    return shelf.get(request.param)[0]


def two(model):
    return model.prepare(picture(96, 64), "what now"), model.prepare(picture(96, 64, 5), "that way")


@torch.no_grad()
def test_the_difference_of_two_prompts_turns_one_into_the_other(model):
    a, b = two(model)
    direction = gl.mean_difference(model, a, b, positions="last")
    assert direction.vectors.shape == (4, 64)
    for layer in (1, 3):
        name = f"blocks.{layer}.hook_resid_pre"
        wanted = model.run_with_cache(a, names_filter=name)[1][name][:, -1]
        before = model.run_with_cache(b, names_filter=name)[1][name]
        seen = []
        hooks = direction.hooks(layer, positions=group(b, "last"))
        model.run_with_hooks(b, fwd_hooks=[*hooks, (name, lambda stream, hook, seen=seen: seen.append(stream.clone()))])
        torch.testing.assert_close(seen[0][:, -1], wanted, atol=1e-5, rtol=0)
        assert torch.equal(seen[0][:, :-1], before[:, :-1])
        logits = model.run_with_hooks(b, fwd_hooks=direction.hooks(layer, scale=0.0))
        assert largest(logits - model(b)) == 0


@torch.no_grad()
def test_means_are_those_of_a_slow_loop(model):
    batches, other = [padded(model), model.prepare(picture(96, 64, 9), "third")], model.prepare(picture(64, 64, 3), "b")
    direction = gl.mean_difference(model, batches, other, layers=[2, 3], positions="image")
    for layer in (2, 3):
        means = []
        for inputs in (*batches, other):
            stream = model.run_with_cache(inputs)[1]["resid_pre", layer]
            for row, positions in enumerate(group(inputs, "image").rows):
                means.append(sum(stream[row, position] for position in positions) / len(positions))
        expected = sum(means[:3]) / 3 - means[3]
        torch.testing.assert_close(direction.vector(layer), expected, atol=1e-5, rtol=0)
    assert "2 layers (2 to 3), d_model 64" in repr(direction)


@torch.no_grad()
def test_where_it_is_added(model):
    a, b = two(model)
    direction = gl.mean_difference(model, a, b)
    last, name = group(b, "last"), "blocks.2.hook_resid_pre"
    streams = {}
    for key, options in {
        "no": None, "all": {}, "last": {"positions": last}, "prompt": {"positions": last, "decode": False}
    }.items():  # fmt: skip
        seen = []
        hooks = [] if options is None else direction.hooks(2, **options)
        # Forced tokens, so that every run decodes the same.
        look = [(name, lambda stream, hook, seen=seen: seen.append(stream.clone()))]
        model.generate(
            b, fwd_hooks=[*hooks, *look], max_new_tokens=2, min_new_tokens=2, suppress_tokens=list(range(64))
        )
        streams[key] = seen
    vector = direction.vector(2)
    torch.testing.assert_close(
        streams["all"][0] - streams["no"][0], vector.expand_as(streams["no"][0]), atol=1e-5, rtol=0
    )
    assert torch.equal(streams["last"][0][:, :-1], streams["no"][0][:, :-1])
    assert torch.equal(streams["last"][0], streams["prompt"][0])
    assert len({len(seen) for seen in streams.values()}) == 1
    step = direction.hooks(2, positions=last)[0][1]
    stay = direction.hooks(2, positions=last, decode=False)[0][1]
    token = torch.randn(1, 1, 64)
    torch.testing.assert_close(step(token, None), token + vector)
    assert torch.equal(stay(token, None), token)


@torch.no_grad()
def test_a_sweep_over_bands_is_a_loop(model):
    inputs = model.prepare([picture(96, 64, seed) for seed in (1, 2)], ["what now"] * 2)
    goal = model.prepare([picture(96, 64, seed) for seed in (1, 2)], ["that way"] * 2)
    direction = gl.mean_difference(model, goal, inputs)
    options = {"scale": 1.5, "positions": "last", "metric": metric, "progress": False}
    result = gl.sweep_bands(model, inputs, direction, bands=2, towards=goal, **options)
    assert result.index_df.to_numpy().tolist() == [[0, 2], [1, 3], [2, 4]]
    for values, (start, stop) in zip(result.values, result.index_df.to_numpy().tolist(), strict=True):
        hooks = direction.hooks(range(start, stop), scale=1.5, positions=group(inputs, "last"))
        expected = metric(model.run_with_hooks(inputs, fwd_hooks=hooks))
        torch.testing.assert_close(values, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(result.clean, metric(model(goal)), atol=2e-5, rtol=0)
    alone = gl.sweep_bands(model, inputs, direction, bands=[range(0, 1), range(1, 4)], **options)
    assert alone.recovery().isnan().all()
    assert list(alone.table()["stop"]) == [1, 4]


@torch.no_grad()
def test_saved_and_loaded(shelf, tmp_path):
    model, _ = shelf.get("Qwen3-VL")
    direction = gl.mean_difference(model, *two(model), layers=range(1, 4))
    direction.save(tmp_path / "one.safetensors")
    loaded = gl.Direction.load(tmp_path / "one.safetensors", fingerprint=model.fingerprint)
    assert torch.equal(loaded.vectors, direction.vectors)
    assert (loaded.layers, loaded.provenance) == (direction.layers, direction.provenance)
    with pytest.raises(ModelError, match="another residual stream"):
        gl.Direction.load(tmp_path / "one.safetensors", fingerprint="other-1x1x1x1")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    for name in ("bad", "missing"):
        with pytest.raises(ModelError, match="cannot be read as a direction"):
            gl.Direction.load(tmp_path / f"{name}.safetensors")


ABOUT = {"layers": [1, 2], "fingerprint": None, "provenance": {}}
DAMAGED = {
    "no about": None,
    "no JSON": "{",
    "a list": "[]",
    "nested": "[" * 200_000,
    "no layers": json.dumps({"fingerprint": None, "provenance": {}}),
    "no provenance": json.dumps({"layers": [1, 2], "fingerprint": None}),
    "one layer": json.dumps({**ABOUT, "layers": [1]}),
    "a layer twice": json.dumps({**ABOUT, "layers": [1, 1]}),
    "layers as text": json.dumps({**ABOUT, "layers": ["1", "2"]}),
    "halves of layers": json.dumps({**ABOUT, "layers": [1.5, 2]}),
    "a number": json.dumps({**ABOUT, "layers": 7}),
}


@pytest.mark.parametrize("about", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_named(tmp_path, about):
    path, ours = tmp_path / "one.safetensors", {"format": "gaze_lens direction 1"}
    save_file({"vectors": torch.ones(2, 4)}, path, {**ours, "about": json.dumps(ABOUT)})
    assert gl.Direction.load(path).layers == (1, 2)
    save_file({"vectors": torch.ones(2, 4)}, path, ours if about is None else {**ours, "about": about})
    with pytest.raises(
        ModelError, match=r"one.safetensors cannot be read as a direction \(.*expected a file written by"
    ):
        gl.Direction.load(path)


@pytest.mark.parametrize("vectors", [torch.ones(2), torch.ones(2, 4, 1), torch.ones(2, 4).int(), torch.ones(2, 4) * 1j])
def test_vectors_of_other_kinds_are_refused(tmp_path, as_users_run, vectors):
    path = tmp_path / "one.safetensors"
    save_file({"vectors": vectors}, path, {"format": "gaze_lens direction 1", "about": json.dumps(ABOUT)})
    with pytest.raises(ModelError, match="one.safetensors cannot be read as a direction"):
        gl.Direction.load(path)
    with pytest.raises(InputError, match="give real numbers"):
        gl.Direction(vectors, (1, 2))


@torch.no_grad()
def test_what_does_not_fit_is_refused(shelf, tiny_model):
    model, _ = shelf.get("Qwen3-VL")
    a, b = two(model)
    direction = gl.mean_difference(model, a, b, layers=[1, 2])
    before = model(b)
    with pytest.raises(InputError, match="no vector for layer 3"):
        direction.hooks(3)
    with pytest.raises(InputError, match="at least one, such as range"):
        direction.hooks([])
    strip = tiny_model.prepare(gl.comics.synthetic(1, seed=1)[0], "what")
    with pytest.raises(InputError, match="d_model 64 was added at blocks.1.* d_model is 128"):
        tiny_model.run_with_hooks(strip, fwd_hooks=direction.hooks(1))
    with pytest.raises(InputError, match="bands=3 was given"):
        gl.sweep_bands(model, b, direction, bands=3, metric=metric)
    with pytest.raises(InputError, match="one vector for each layer"):
        gl.Direction(torch.zeros(2, 4), (1,))
    with pytest.raises(InputError, match="no inputs to take a mean over"):
        gl.mean_difference(model, [], b)
    assert torch.equal(at_real(model(b), b), at_real(before, b))
