"""Mass on the whole image and maps over it, read with the scores, against a slow loop over eager attention."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

import gaze_lens as gl
from gaze_lens.cli import discovery
from gaze_lens.data import Pictures
from gaze_lens.errors import HeadError
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.scoring.image_readings import ImageReadings


def question(index):
    return f"What is in panel {index + 1}, or {'about ' * index}there?"


def strip(model, n, height=2, seed=0):
    """n panels, each one token wide and `height` high."""
    side = model.processor.image_processor.patch_size * model.processor.image_processor.merge_size
    pixels = np.random.default_rng(seed).integers(0, 256, (height * side, n * side, 3), dtype=np.uint8)
    return Picture(Image.fromarray(pixels), panels(n, n * side, height * side))


@pytest.fixture(scope="module")
def pair(shelf):
    model, plain = shelf.get("Qwen3-VL")
    eager = copy.deepcopy(plain)
    eager.set_attn_implementation({"text_config": "eager"})
    return model, eager


@torch.no_grad()
def slow_readings(model, eager, picture, shape):
    """[layer, head, asked] mass on the image, and [layer, head, row, column] mean attention to the cells."""
    n = len(picture.regions)
    masses = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, n)
    maps = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, *shape)
    for asked in range(n):
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question(asked)}]}
        text = model.processor.apply_chat_template([message], add_generation_prompt=True)
        tensors = model.processor(text=[text], images=[[picture.image]], return_tensors="pt")
        ids = tensors["input_ids"][0].tolist()
        images = [position for position, token in enumerate(ids) if token == model.config.image_token_id]
        attentions = eager(**tensors, output_attentions=True).attentions
        for layer in range(model.cfg.n_layers):
            for head in range(model.cfg.n_heads):
                for k, key in enumerate(images):
                    weight = float(attentions[layer][0, head, -1, key])
                    masses[layer, head, asked] += weight
                    maps[layer, head, k // shape[1], k % shape[1]] += weight / n
    return masses, maps


@pytest.mark.parametrize("options", [{}, {"share_prefix": False}, {"batch_size": 2}])
def test_readings_equal_a_slow_loop(pair, options):
    model, eager = pair
    strips = [strip(model, 4), strip(model, 3, height=3, seed=1), strip(model, 4, seed=2)]
    scores = gl.score_heads(model, strips, prompts=question, progress=False, **options)
    shapes = [(2, 4), (3, 3), (2, 4)]
    expected = [slow_readings(model, eager, *one) for one in zip(strips, shapes, strict=True)]
    for index, (mass, _) in enumerate(expected):
        n = mass.shape[-1]
        torch.testing.assert_close(scores.image_mass[index, ..., :n], mass, atol=1e-5, rtol=0)
        assert scores.image_mass[index, ..., n:].isnan().all()
    first, other, last = (one for _, one in expected)
    resized = interpolate(other, size=(2, 4), mode="bilinear") * 9 / 8
    torch.testing.assert_close(scores.mean_map, (first + resized + last) / 3, atol=1e-5, rtol=0)
    assert first.std() > 1e-3


def test_the_same_forwards_give_the_readings(pair):
    model, _ = pair
    calls = []
    counting = model.original_model.register_forward_pre_hook(lambda *_: calls.append(1))
    scores = gl.score_heads(model, [strip(model, 4)], prompts=question, progress=False)
    counting.remove()
    assert len(calls) == 2, "the shared beginning, and the questions"
    assert len(scores.ranked("image")) == scores.score.numel()
    assert len(scores.values("localization")) == model.cfg.n_layers


def test_tiles_have_no_map_and_text_has_none(shelf):
    model = shelf.get("InternVL")[0]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 192, 3), dtype=np.uint8)
    picture = Picture(Image.fromarray(pixels), panels(3, 192, 64))
    scores = gl.score_heads(model, [picture], prompts=question, progress=False)
    several = len(model.prepare(picture, "Say.").image_tokens[0].view.unique()) > 1
    assert (scores.mean_map is None) == several
    texts = gl.score_heads(shelf.get("Qwen3-VL")[0], [gl.passages(["One.", "Two."])], progress=False)
    torch.testing.assert_close(texts.image_mass, texts.samples.sum(-1), atol=1e-5, rtol=0)
    with pytest.raises(HeadError, match="neither has a text"):
        texts.ranked("localization")


def test_discovery_keeps_the_readings_and_an_old_sample_has_none(tiny_model, tmp_path):
    strips = gl.comics.synthetic(2, seed=3)
    pictures = Pictures({f"s{k}": lambda one=one: one for k, one in enumerate(strips)}, source="here")
    scores = discovery.discover(tiny_model, pictures, tmp_path, top=5, rank_by="image")
    direct = gl.score_heads(tiny_model, strips, progress=False)
    assert torch.equal(scores.image_mass, direct.image_mass)
    assert torch.equal(scores.mean_map, direct.mean_map)
    assert gl.HeadSet.load(tmp_path / "heads.json") == direct.top(5, by="image")


def test_a_strip_without_readings_leaves_all_without():
    readings = ImageReadings()
    readings.add(0, torch.rand(2, 3, 4), torch.rand(2, 3, 5, 6))
    assert readings.mean_map().shape == (2, 3, 5, 6)
    readings.add(1, None, None)
    assert readings.image_mass(4) is None
    assert readings.mean_map() is None
