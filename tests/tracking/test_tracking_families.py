"""Every number of a trajectory, on several families, against full patterns walked through one weight at a time."""

import math

import pytest
import torch
from reference import picture
from transformers import DynamicCache

import gaze_lens as gl
from gaze_lens.errors import HookError

STEPS = {"max_new_tokens": 4, "min_new_tokens": 4}
HALVES = {"left": gl.Box(0, 0, 48, 64), "right": gl.Box(48, 0, 96, 64)}
HEADS = {
    "Qwen3-VL": ["L2H1", "L0H3"], "LLaVA": ["L1H2", "L3H0"], "Gemma 3": ["L2H1", "L0H3"],
    "PaliGemma": ["L1H1", "L0H2"], "Mllama": ["L3H1", "L0H2"],
}  # fmt: skip


@torch.no_grad()
def value_norms(plain, inputs, layer, head):
    """[key] from the values that Hugging Face's own model keeps, in a cache that forgets none of them."""
    cache = plain(**inputs.tensors, past_key_values=DynamicCache(), use_cache=True).past_key_values
    values = cache.layers[layer].values[0]
    return values[head * len(values) // 4].norm(dim=-1)  # 4 query heads


def slow_step(row, first, image, regions, sink, norms):
    """(mass by region, on the image, entropy, sink) of one row of a pattern whose first key is `first`."""
    weights = {key: float(row[key - first]) * float(norms[key]) for key in image if 0 <= key - first < len(row)}
    total = sum(weights.values())
    shares = [weight / total for weight in weights.values() if weight > 0]
    entropy = -sum(share * math.log2(share) for share in shares) if shares else math.nan
    masses = [sum(weights.get(key, 0.0) for key in region) for region in regions]
    rest = float(row[sink - first]) if sink is not None and sink >= first else 0.0
    return [*masses, total, entropy, rest]


@pytest.mark.parametrize("weighted", [False, True], ids=["raw", "weighted"])
@pytest.mark.parametrize("family", HEADS)
def test_every_number_equals_a_slow_walk_over_full_patterns(shelf, family, weighted):
    model, plain = shelf.get(family)
    inputs = model.prepare(gl.Picture(picture(96, 64), HALVES), "Tell")
    trajectory = gl.track(model, inputs, HEADS[family], weighted=weighted, **STEPS)
    generation = model.generate(inputs, names_filter=lambda name: name.endswith("hook_pattern"), **STEPS)
    assert torch.equal(trajectory.generation.tokens, generation.tokens)
    image, cross_attention = inputs.layout.images[0], inputs.layout.cross_attention
    regions = [inputs.region(name).positions[0] for name in HALVES]
    sink = min(set(range(inputs.layout.length)) - (set() if cross_attention else set(image)))
    for index, name in enumerate(HEADS[family]):
        layer, head = int(name[1]), int(name[3])
        sees = model.blocks[layer].attn.is_cross_attention == cross_attention
        norms = value_norms(plain, inputs, layer, head) if weighted and sees else torch.ones(10**4)
        for step in range(4):
            row = generation.activations[f"blocks.{layer}.attn.hook_pattern"][step][0, head, -1]
            within = cross_attention and sees
            first = 0 if within else inputs.layout.length + step - len(row)
            place = (image if sees else (), regions if sees else [(), ()], None if within else sink)
            numbers = trajectory.on_image, trajectory.entropy, trajectory.sink
            values = [*trajectory.mass[step, index], *(number[step, index] for number in numbers)]
            expected = torch.tensor(slow_step(row, first, *place, norms))
            torch.testing.assert_close(torch.stack(values), expected, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert trajectory.on_image[:, 0].gt(0).all()
    assert trajectory.entropy[:, 0].std() > 1e-4, "steps that do not differ test nothing"


def test_the_sink_is_the_first_text_token_also_behind_an_image(shelf):
    model, _ = shelf.get("PaliGemma")
    inputs = model.prepare(gl.Picture(picture(96, 64), HALVES), "Tell")
    assert inputs.layout.images[0][0] == 0
    generation = model.generate(inputs, names_filter="blocks.1.attn.hook_pattern", **STEPS)
    rows = [pattern[0, 1, -1] for pattern in generation.activations["blocks.1.attn.hook_pattern"]]
    expected = torch.stack([row[inputs.layout.after_images[0]] for row in rows])
    torch.testing.assert_close(gl.track(model, inputs, ["L1H1"], **STEPS).sink[:, 0], expected, atol=1e-6, rtol=1e-4)


def test_values_that_a_model_norms_are_weighed_as_attention_mixes_them(shelf):
    model, plain = shelf.get("Gemma 4")
    inputs = model.prepare(gl.Picture(picture(96, 64), HALVES), "Tell")
    raw, weighted = (gl.track(model, inputs, ["L1H3"], weighted=flag, max_new_tokens=1) for flag in (False, True))
    generation = model.generate(inputs, names_filter="blocks.1.attn.hook_pattern", max_new_tokens=1)
    row = generation.activations["blocks.1.attn.hook_pattern"][0][0, 3, -1]
    norms = value_norms(plain, inputs, 1, 3)
    expected = sum(float(row[key] * norms[key]) for key in inputs.region("right").positions[0])
    assert float(weighted.mass[0, 0, 1]) == pytest.approx(expected, rel=1e-4)
    assert float(raw.mass[0, 0, 1]) != pytest.approx(expected, rel=1e-2)


def test_layers_without_the_rows_or_values_are_refused_in_words(shelf):
    gemma, qwen = shelf.get("Gemma 4")[0], shelf.get("Qwen3.5")[0]
    linear = next(layer for layer in range(qwen.cfg.n_layers) if layer not in qwen.capabilities((96, 64)).live)
    for model, layer, weighted, words in (
        (gemma, 2, True, "takes its keys and values from an earlier layer"),
        (qwen, linear, False, f"blocks.{linear}.attn.hook_pattern"),
    ):
        inputs = model.prepare(gl.Picture(picture(96, 64), HALVES), "Tell")
        with pytest.raises(HookError, match=words):
            gl.track(model, inputs, [(layer, 0)], weighted=weighted, **STEPS)
        assert gl.track(model, inputs, [(layer + 1 - 2 * weighted, 0)], regions=["left"], max_new_tokens=1).mass.shape
