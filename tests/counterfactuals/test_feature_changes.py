"""Changes of image features: the language model's inputs differ at a region's tokens, and nowhere else."""

import math

import pytest
import torch
from every_family import NAMES, Case
from reference import picture

import gaze_lens as gl
from gaze_lens import changes
from gaze_lens.comics.generator import synthetic
from gaze_lens.comics.questions import ask
from gaze_lens.errors import InputError

LEFT = gl.Box(0, 0, 48, 64)  # of a picture of 96 x 64 pixels


@pytest.fixture(scope="module")
def strip():
    return synthetic(1, seed=1)[0]


@torch.no_grad()
def entering(model, inputs):
    """The inputs of the first layer that attends to the image, by key of the prompt `[row, position, ...]`."""
    if inputs.layout.cross_attention:
        layer = model.config.text_config.cross_attention_layers[0]
        return model.run_with_cache(inputs, names_filter=f"blocks.{layer}.attn.hook_v")[1][
            f"blocks.{layer}.attn.hook_v"
        ]
    name = "blocks.0.hook_resid_pre"
    if name in model.silent:  # several streams, made of these inputs
        kept = {}
        text = model.original_model.get_decoder()
        handle = text.register_forward_pre_hook(lambda _, args, kwargs: kept.update(kwargs), with_kwargs=True)
        model(inputs)
        handle.remove()
        return kept["inputs_embeds"]
    return model.run_with_cache(inputs, names_filter=name)[1][name]


@pytest.mark.parametrize("name", NAMES)
def test_features_change_at_the_regions_tokens_and_nowhere_else(name, shelf):
    model = Case.of(name, shelf).model
    first, second = picture(96, 64), picture(64, 64, seed=1)
    arguments = model, [[first], [first, second]], ["What?", "a longer question"]
    for change in (changes.mean, changes.blank, changes.noise):
        if name == "Mllama":
            arguments = model, [[first], [first]], ["What?", "a longer question"]
        pair = gl.counterfactual(*arguments, change(LEFT, space="features"), image=0)
        before, after = (entering(model, side) for side in pair)
        inside = torch.zeros(before.shape[:2], dtype=torch.bool)
        for row in range(2):
            inside[row, list(pair.clean.positions_of(LEFT, row=row, image=0))] = True
        assert torch.equal(after[~inside], before[~inside])
        assert (after[inside] != before[inside]).flatten(1).any(1).all()
        for row in range(2):
            tokens = next(t for t in pair.clean.image_tokens if (t.row, t.image) == (row, 0))
            source = before[row, tokens.positions[~tokens.boxes[:, 0].isnan()]].flatten(1)
            new = after[row][inside[row]].flatten(1)
            if change is changes.mean:  # everything after the features is linear
                assert (new - source.mean(0)).abs().max() < 1e-5 * max(1, source.abs().max())
            elif change is changes.blank and name != "Molmo2":
                assert new.abs().max() == 0
            elif change is changes.blank:  # Molmo2 adds the features to the placeholder's embedding
                ids = pair.clean.input_ids[row, inside[row]]
                assert torch.equal(new, model.original_model.get_input_embeddings()(ids))


@pytest.mark.parametrize("name", ["Qwen3-VL", "Qwen3-VL-MoE"])
def test_deepstacks_additions_change_with_the_features(name, shelf):
    model = Case.of(name, shelf).model
    change = changes.mean(LEFT, space="features")
    pair = gl.counterfactual(model, picture(96, 64), "What?", change)
    levels = []

    def keep(_module, _args, kwargs):
        levels.append([level.clone() for level in kwargs["deepstack_visual_embeds"]])

    handle = model.original_model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for side in pair:
            model(side)
    finally:
        handle.remove()
    tokens = pair.clean.image_tokens[0]
    selected = torch.isin(tokens.positions, torch.tensor(pair.clean.positions_of(LEFT)))
    assert len(levels[0]) == 2
    for before, after in zip(*levels, strict=True):
        assert torch.equal(after[~selected], before[~selected])
        assert (after[selected] - before.mean(0)).abs().max() < 1e-6


def test_means_over_other_inputs_and_over_a_region(tiny_model, strip):
    others = tiny_model.encode(tiny_model.prepare(synthetic(3, seed=9), "What?"))
    pair = gl.counterfactual(tiny_model, strip, ask(3), changes.mean("panel 4", over=others, space="features"))
    slow = torch.stack([row for part in others.features.images for row in part["tokens"]]).mean(0)
    positions = list(pair.clean.positions_of("panel 4"))
    assert torch.allclose(entering(tiny_model, pair.corrupted)[0, positions], slow.expand(4, -1), atol=1e-6)
    pair = gl.counterfactual(tiny_model, strip, ask(3), changes.mean("panel 4", over="panel 2", space="features"))
    source = entering(tiny_model, pair.clean)[0, list(pair.clean.positions_of("panel 2"))].mean(0)
    assert torch.allclose(entering(tiny_model, pair.corrupted)[0, positions], source.expand(4, -1), atol=1e-6)
    assert pair.corrupted.pictures == pair.clean.pictures
    raw = tiny_model.prepare(strip, "What?")
    with pytest.raises(InputError, match="not encoded"):
        gl.counterfactual(tiny_model, strip, ask(3), changes.mean("panel 4", over=raw, space="features"))


def test_noise_in_features_is_seeded_and_of_their_own_scale(tiny_model, strip):
    def rows(seed):
        pair = gl.counterfactual(tiny_model, strip, ask(3), changes.noise(whole, seed=seed, space="features"))
        image = list(pair.clean.image_tokens[0].positions)
        return [entering(tiny_model, side)[0, image] for side in pair]

    whole = gl.Box(0, 0, 192, 32)
    (before, first), (_, again), (_, other) = rows(0), rows(0), rows(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    score = (first - before.mean(0)) / before.std(0, correction=0)
    assert abs(float(score.mean())) < 4 / math.sqrt(score.numel())
    assert abs(float(score.std()) - 1) < 4 / math.sqrt(2 * score.numel())


def test_changed_features_are_not_reused_as_the_pictures_own(tiny_model, strip):
    pair = gl.counterfactual(tiny_model, strip, ask(3), changes.blank("panel 4", space="features"))
    assert repr(pair).splitlines()[1] == "  row 0: image 1 has other features in 4 tokens"
    fresh = tiny_model.prepare(strip, ask(3))
    assert torch.equal(tiny_model(tiny_model.encode(fresh, reuse=pair.corrupted)), tiny_model(pair.clean))


def test_features_with_other_rows_than_tokens_are_refused(tiny_model, strip, monkeypatch):
    real = tiny_model.family.encode

    def pooled(*args):
        return [{**part, "tokens": part["tokens"][:5]} for part in real(*args)]

    def with_more(*args):
        return [{**part, "summary": part["tokens"][0]} for part in real(*args)]

    change = changes.blank("panel 4", space="features")
    for encode, words in ((pooled, r"holds \[5"), (with_more, "summary")):
        monkeypatch.setitem(tiny_model.family.__dict__, "encode", encode)
        with pytest.raises(InputError, match=f"{words}.*expected a row for each token"):
            gl.counterfactual(tiny_model, strip, ask(3), change)
