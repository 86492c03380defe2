"""Videos are scored, steered, tracked and shown as pictures are: regions in time, regions that move, moments."""

import numpy as np
import pytest
import torch

import gaze_lens as gl
from gaze_lens.data.picture_digests import picture_digest
from gaze_lens.errors import InputError, RegionError

LEFT, RIGHT = gl.Box(0, 0, 56, 84), gl.Box(56, 0, 112, 84)
REGIONS = {"start": gl.Seconds(0, 2), "moving": {"frame 1": LEFT, "frame 7": RIGHT}, "end": gl.Seconds(3, 4, LEFT)}
PROMPTS = ["What is in the start?", "What moves there?", "The end?"]


@pytest.fixture(scope="module", params=["Qwen2-VL", "Qwen3-VL", "GLM-4V", "InternVL", "LLaVA-OneVision"])
def model(request):
    return gl.HookedVLM.wrap(*gl.testing.tiny(request.param))


def clip(seed=0, regions=REGIONS):
    frames = np.random.default_rng(seed).integers(60, 196, (8, 84, 112, 3), dtype=np.uint8)
    captions = {name: f"It is {name}." for name in regions}
    return gl.Video(frames, fps=2, regions=regions, captions=captions, sampling_fps=2)


@torch.no_grad()
@pytest.mark.parametrize("at", ["prompt", "answer"])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_scores_are_sums_of_full_attention_over_the_regions(model, at, share_prefix):
    videos = [clip(), clip(1)]
    options = {"share_prefix": share_prefix, "progress": False, "at": at, "batch_size": 2}
    scores = gl.score_heads(model, videos, prompts=PROMPTS, **options)
    assert scores.mean_map is None
    for strip, video in enumerate(videos):
        for asked, prompt in enumerate(PROMPTS):
            answers = None if at == "prompt" else f"It is {list(REGIONS)[asked]}."
            inputs = model.prepare(video, prompt, answers=answers)
            _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_pattern"))
            queries = [-1] if at == "prompt" else list(inputs.answer_positions[0])
            for layer in range(model.cfg.n_layers):
                pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0][:, queries].mean(1)
                for attended, name in enumerate(REGIONS):
                    expected = pattern[:, list(inputs.region(name).positions[0])].sum(-1)
                    torch.testing.assert_close(
                        scores.samples[strip, layer, :, asked, attended], expected, atol=1e-5, rtol=1e-4
                    )


def test_steered_heads_look_at_a_frame_alone(model):
    inputs = model.prepare(clip(), "What?")
    region = inputs.region("moving", seconds=(0, 1))
    hooks = gl.steer([(1, 2), (2, 0)], region)
    _, cache = model.run_with_cache(inputs, names_filter="blocks.1.attn.hook_pattern")
    with model.hooks(hooks):
        _, steered = model.run_with_cache(inputs, names_filter="blocks.1.attn.hook_pattern")
    positions = list(region.positions[0])
    assert steered["blocks.1.attn.hook_pattern"][0, 2, -1, positions].sum() > 0.999
    assert cache["blocks.1.attn.hook_pattern"][0, 2, -1, positions].sum() < 0.9
    tokens = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3).tokens
    encoded = model.generate(model.encode(inputs), fwd_hooks=gl.steer([(1, 2), (2, 0)], region), max_new_tokens=3)
    assert torch.equal(tokens, encoded.tokens)


def test_beams_and_copies_share_encoded_frames(model):
    inputs = model.encode(model.prepare([clip(), clip(1)], "What?"))
    with torch.no_grad():
        once, twice = model(inputs), model(inputs, copies=2)
    torch.testing.assert_close(twice, once.repeat_interleave(2, dim=0), atol=1e-4, rtol=1e-4)
    if model.family.name == "GLM-4V":  # Hugging Face looks for a token of videos, which this model has not in its text
        plain, _ = gl.testing.tiny("GLM-4V")
        with pytest.raises(ValueError, match="expected a non-empty list"):
            plain.generate(**model.prepare(clip(), "What?").tensors, num_beams=2, max_new_tokens=3)
        return
    beams = model.generate(inputs, num_beams=2, max_new_tokens=3)
    pixels = model.generate(model.prepare([clip(), clip(1)], "What?"), num_beams=2, max_new_tokens=3)
    assert torch.equal(beams.tokens, pixels.tokens)


def test_moments_are_tracked_where_nothing_has_a_name(model):
    inputs = model.prepare(clip(regions={}), "What?")
    trajectory = gl.track(model, inputs, [(1, 2)], max_new_tokens=3)
    assert trajectory.regions == tuple(moment.name for moment in inputs.videos[0][0].moments)
    sums = torch.as_tensor(trajectory.mass).sum(-1)
    rest = torch.as_tensor(trajectory.on_image) - sums
    assert rest.min() > -1e-5
    if model.family.name != "LLaVA-OneVision":  # whose token at the end of a video is in no frame
        assert rest.max() < 1e-5
    named = gl.track(model, model.prepare(clip(), "What?"), [(1, 2)], max_new_tokens=3)
    assert named.regions == tuple(REGIONS)


def test_an_attention_map_shows_the_moments_side_by_side(model):
    inputs = model.prepare(clip(regions={}), "What?")
    plot = gl.show.attention_map(model, inputs, [(1, 2)])
    assert plot.data["regions"] == tuple(moment.name for moment in inputs.videos[0][0].moments)
    rest = plot.data["on_image"] - plot.data["on_regions"].sum(-1)
    assert (rest > -1e-5).all()
    assert (rest < 1e-5).all() == (model.family.name != "LLaVA-OneVision")


def test_the_viewer_names_the_moments(model):
    inputs = model.prepare(clip(regions={}), "What?")
    html = gl.show.attention(model, inputs, [(1, 2)], max_new_tokens=2).to_html()
    for moment in inputs.videos[0][0].moments:
        assert f"Of a video {moment}, 112 x 84 pixels" in html
        assert f"{moment.name}: " in html
    assert "image 1" not in html


def test_what_videos_do_not_serve_says_so(model):
    with pytest.raises(InputError, match="how to ask about region 1 of a video; give prompts="):
        gl.score_heads(model, [clip()], progress=False)
    with pytest.raises(RegionError, match="fewer than two named regions"):
        gl.score_heads(model, [clip(regions={})], prompts=PROMPTS, progress=False)
    with pytest.raises(InputError, match="A video was given to an evaluation"):
        picture_digest(clip())
    with pytest.raises(InputError, match="Pictures, passages or videos were given together"):
        gl.score_heads(model, [clip(), *gl.comics.synthetic(1, seed=0)], prompts=PROMPTS, progress=False)
