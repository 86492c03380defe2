"""Gaze scores against a slow loop over Hugging Face's own eager attention weights."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.attention import attention_function
from gaze_lens.data.picture_digests import image_digest
from gaze_lens.errors import InputError, ModelError, RegionError
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.shapes import Box
from gaze_lens.scoring import gaze_score

NAMES = ["Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE"]
SAID = ["red dog", "a cat sits", "sun", "no"]


def question(index):
    return f"What is in panel {index + 1}, or {'about ' * index}there?"


def strip(model, n, seed=0):
    """n panels, each one token wide and two high, with captions of different lengths."""
    side = model.processor.image_processor.patch_size * model.processor.image_processor.merge_size
    pixels = np.random.default_rng(seed).integers(0, 256, (2 * side, n * side, 3), dtype=np.uint8)
    regions = panels(n, n * side, 2 * side)
    return Picture(Image.fromarray(pixels), regions, dict(zip(regions, SAID, strict=False)))


@pytest.fixture(scope="module", params=NAMES)
def pair(request, shelf):
    """(wrapped model, an unwrapped copy of it with Hugging Face's eager attention)."""
    model, plain = shelf.get(request.param)
    eager = copy.deepcopy(plain)
    eager.set_attn_implementation({"text_config": "eager"})
    return model, eager


@torch.no_grad()
def slow_scores(model, eager, picture, at):
    """[layer, head, asked, attended], from the paper's definition, token by token."""
    n = len(picture.regions)
    result = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, n, n)
    for asked in range(n):
        answer = SAID[asked] if at == "answer" else ""
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question(asked)}]}
        text = model.processor.apply_chat_template([message], add_generation_prompt=True) + answer
        tensors = model.processor(text=[text], images=[[picture.image]], return_tensors="pt")
        ids = tensors["input_ids"][0].tolist()
        images = [position for position, token in enumerate(ids) if token == model.config.image_token_id]
        # The answer has a token a letter; each is predicted one position earlier.
        queries = [len(ids) - 1 - k for k in range(1, len(answer) + 1)] if answer else [len(ids) - 1]
        attentions = eager(**tensors, output_attentions=True).attentions
        for layer in range(model.cfg.n_layers):
            for head in range(model.cfg.n_heads):
                for attended in range(n):
                    keys = [position for k, position in enumerate(images) if k % n == attended]
                    masses = [sum(float(attentions[layer][0, head, query, key]) for key in keys) for query in queries]
                    result[layer, head, asked, attended] = sum(masses) / len(masses)
    return result


@pytest.mark.parametrize("at", ["prompt", "answer"])
def test_scores_equal_a_slow_loop_over_eager_attentions(pair, at):
    model, eager = pair
    strips = [strip(model, 3), strip(model, 4, seed=1)]
    scores = gl.score_heads(model, strips, prompts=question, at=at, progress=False)
    for sample, picture in zip(scores.samples, strips, strict=True):
        n = len(picture.regions)
        expected = slow_scores(model, eager, picture, at)
        assert expected.std() > 0.005, "a model that looks nowhere tests nothing"
        torch.testing.assert_close(sample[:, :, :n, :n], expected, atol=1e-5, rtol=0)
        assert sample[:, :, n:].isnan().all()
        assert sample[:, :, :, n:].isnan().all()


@pytest.mark.parametrize("at", ["prompt", "answer"])
def test_batches_of_unequal_strips_equal_single_strips(pair, at):
    model, _ = pair
    strips = [strip(model, 3), strip(model, 4, seed=1), strip(model, 2, seed=2), strip(model, 4, seed=3)]
    one, three = (
        gl.score_heads(model, strips, prompts=question, at=at, batch_size=size, progress=False) for size in (1, 3)
    )
    torch.testing.assert_close(three.samples, one.samples, atol=1e-5, rtol=0, equal_nan=True)
    images = " ".join(map(image_digest, strips))
    assert one.provenance == {"method": "gaze score", "at": at, "strips": 4, "images": images}
    assert one.top(2).chosen_on == set(images.split())
    assert one.fingerprint == model.fingerprint
    assert one.samples.shape == (4, model.cfg.n_layers, model.cfg.n_heads, 4, 4)


def test_permuting_the_panels_permutes_the_scores(qwen):
    picture = strip(qwen, 4)
    order = [2, 0, 3, 1]
    names = list(picture.regions)
    shuffled = Picture(picture.image, {names[k]: picture.regions[names[k]] for k in order})
    straight = gl.score_heads(qwen, [picture], prompts=question, progress=False).samples
    asked = [question(k) for k in order]
    turned = gl.score_heads(qwen, [shuffled], prompts=asked, progress=False).samples
    torch.testing.assert_close(turned, straight[..., order, :][..., order], atol=1e-6, rtol=0)
    assert (turned - straight).abs().max() > 1e-3


def test_regions_may_overlap_and_leave_gaps(qwen):
    whole = strip(qwen, 4)
    width, height = whole.image.size
    nested = Picture(whole.image, {"all": Box(0, 0, width, height), "first": Box(0, 0, 32, height)})
    scores = gl.score_heads(qwen, [nested], prompts=lambda k: question(0), progress=False).samples[0]
    plain = gl.score_heads(qwen, [whole], prompts=lambda k: question(0), progress=False).samples[0]
    torch.testing.assert_close(scores[:, :, 0, 0], plain[:, :, 0].sum(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[:, :, 1, 1], plain[:, :, 0, 0], atol=1e-5, rtol=0)


def test_no_full_pattern_is_ever_built(qwen, monkeypatch):
    def refuse(*_args):
        raise AssertionError("a full attention matrix was built")

    monkeypatch.setattr(attention_function, "_with_matrices", refuse)
    for at in ("prompt", "answer"):
        gl.score_heads(qwen, [strip(qwen, 3)], prompts=question, at=at, progress=False)
    with pytest.raises(AssertionError, match="full attention matrix"):  # the trap is where full patterns are built
        qwen.run_with_cache(qwen.prepare(strip(qwen, 3), "x"), names_filter="blocks.0.attn.hook_pattern")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_image_is_encoded_once(pair, batch_size):
    model, _ = pair
    patches = []
    tower = model.original_model.model.visual
    handle = tower.register_forward_pre_hook(lambda _m, args, _k: patches.append(len(args[0])), with_kwargs=True)
    strips = [strip(model, 3), strip(model, 4, seed=1)]
    gl.score_heads(model, strips, prompts=question, batch_size=batch_size, progress=False)
    handle.remove()
    assert sum(patches) == sum(4 * 2 * len(picture.regions) for picture in strips)  # 2 x 2 patches to a token
    assert len(patches) == 2 / batch_size


def test_broken_attention_is_an_error_and_no_score(qwen):
    def poison(residual, hook):
        return residual * torch.nan

    with (
        qwen.hooks([("blocks.1.hook_resid_pre", poison)]),
        pytest.raises(ModelError, match="attention holds NaN.*float32"),
    ):
        gl.score_heads(qwen, [strip(qwen, 3)], prompts=question, progress=False)


def test_scoring_leaves_gradients_alone(qwen):
    scores = gl.score_heads(qwen, [strip(qwen, 3)], prompts=question, progress=False)
    assert not scores.samples.requires_grad
    assert torch.is_grad_enabled()


def test_the_default_questions_are_those_of_comics(qwen):
    picture = strip(qwen, 3)
    default = gl.score_heads(qwen, [picture], progress=False)
    listed = gl.score_heads(qwen, [picture], prompts=[comics.ask(k) for k in range(8)], progress=False)
    assert torch.equal(default.samples, listed.samples)


def test_strip_by_strip_equals_all_at_once(qwen):
    strips = [strip(qwen, 3), strip(qwen, 4, seed=1)]
    samples = list(gaze_score.score_strips(qwen, strips, prompts=question, progress=False))
    assert [sample.shape[-1] for sample in samples] == [3, 4]
    collected, present = gaze_score.stacked(enumerate(samples), 3, samples[1].shape)
    whole = gl.score_heads(qwen, strips, prompts=question, progress=False)
    assert torch.equal(collected[:2].nan_to_num(-1), whole.samples.nan_to_num(-1))
    assert present.tolist() == [True, True, False]


def test_shards_are_whole_batches():
    assert gaze_score.indices_of_shard(7, 2, (0, 2)) == [0, 1, 4, 5]
    assert gaze_score.indices_of_shard(7, 2, (1, 2)) == [2, 3, 6]
    assert gaze_score.indices_of_shard(1, 2, (1, 2)) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"strips": []}, InputError, r"no list of strips.*\[picture\]"),
        ({"at": "end"}, InputError, 'at=\'end\' was given; give "prompt" or "answer"'),
        ({"batch_size": 0}, InputError, "batch_size=0 was given; give 1 or more"),
        (
            {"prompts": ["What?", "And?"]},
            InputError,
            "prompts is a list of 2, and a strip has 3 regions; give a question",
        ),
        ({"prompts": "What?"}, InputError, "prompts is the text 'What\\?', and a strip has 3 regions"),
    ],
)
def test_arguments_that_cannot_be_scored(qwen, change, error, message):
    arguments = {"strips": [strip(qwen, 3)], "prompts": question, **change}
    with pytest.raises(error, match=message):
        gl.score_heads(qwen, **arguments, progress=False)


def test_strips_that_cannot_be_scored(qwen):
    good = strip(qwen, 3)
    bare, silent = Picture(good.image), Picture(good.image, good.regions, {"panel 1": "x", "panel 2": ""})
    with pytest.raises(RegionError, match=r"Strip 1 has fewer than two named regions.*gl\.comics\.strip"):
        gl.score_heads(qwen, [good, bare], progress=False)
    with pytest.raises(
        InputError, match=r"Strip 1 has no caption for \['panel 2', 'panel 3'\]; at=\"answer\" needs one"
    ):
        gl.score_heads(qwen, [good, silent], at="answer", progress=False)
    crowded = Picture(good.image, panels(48, *good.image.size))
    with pytest.raises(RegionError, match="'panel 1' in row 0.*holds no image token.*a token covers 32 x 32 pixels"):
        gl.score_heads(qwen, [crowded], prompts=question, progress=False)
    with pytest.raises(InputError, match="no ready question about panel index 8"):
        gl.score_heads(qwen, [Picture(good.image, panels(9, *good.image.size))], progress=False)
