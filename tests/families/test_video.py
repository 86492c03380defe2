"""Videos of every family that takes them: Hugging Face's own tensors and logits, the places of tokens, their frames.

Pixels of a small clip are noise, so that nothing agrees by chance.
"""

import numpy as np
import pytest
import torch
from painting import UNCHANGED, Example, entering, far_from, noise, painted, spot_in
from PIL import Image

import gaze_lens as gl
from gaze_lens.errors import ImageError, InputError, ModelError
from gaze_lens.families import FAMILIES
from gaze_lens.inputs.preparation import prepare
from gaze_lens.inputs.sampling import refuse_family

MERGED_IN_PAIRS = [
    "Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Qwen3.5", "Qwen3.5-MoE", "GLM-4V", "GLM-4.6V", "GLM-4V-MoE",
]  # fmt: skip
ONE_LENGTH = ["InternVL", "LLaVA-OneVision"]  # their processors stack the videos of a batch
TAKE_VIDEO = [*MERGED_IN_PAIRS, *ONE_LENGTH]
SIDES = {
    "InternVL": 16,
    "LLaVA-OneVision": 28,
    "Qwen2-VL": 28,
    "Qwen2.5-VL": 28,
    "GLM-4V": 28,
    "GLM-4.6V": 28,
    "GLM-4V-MoE": 28,
}


def clip(n_frames=10, width=112, height=84):
    return np.stack([noise(width, height, seed=seed) for seed in range(n_frames)])


@pytest.fixture(params=TAKE_VIDEO)
def example(request):
    return Example.of(request.param)


def prepared(example, sources, prompt="look"):
    return prepare(example.processor, example.family, sources, prompt, config=example.hf_model.config)


def hugging_faces(processor, frames, fps, prompt="look"):
    """The tensors that Hugging Face's processor makes of a conversation, with its own sampling."""
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    n_frames, height, width = frames.shape[:3]
    metadata = {
        "total_num_frames": n_frames, "fps": fps, "width": width, "height": height, "duration": n_frames / fps,
        "frames_indices": list(range(n_frames)),
    }  # fmt: skip
    return processor(text=[text], videos=[frames], video_metadata=[metadata], return_tensors="pt")


@torch.no_grad()
@pytest.mark.parametrize("fps", [4, 1.5])
def test_tensors_and_logits_are_those_of_hugging_faces_own_processor_and_model(example, fps):
    frames = clip()
    inputs = prepared(example, gl.Video(frames, fps=fps))
    expected = hugging_faces(example.processor, frames, fps)
    assert set(inputs.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(inputs.tensors[name], tensor), name
    model = gl.HookedVLM.wrap(*gl.testing.tiny(next(name for name in TAKE_VIDEO if Example.of(name) is example)))
    assert torch.equal(model(inputs), example.hf_model(**expected).logits)


@torch.no_grad()
def test_encoded_frames_make_the_logits_that_pixels_make(example):
    inputs = prepared(example, gl.Video(clip(7), fps=2))
    selected = list(range(len(inputs.maps)))
    parts = example.family.encode(example.hf_model, inputs.tensors, inputs.maps, selected)
    rest = {name: tensor for name, tensor in inputs.tensors.items() if name not in example.family.pixel_names}
    logits = example.hf_model(**rest, **example.family.to_forward_kwargs(parts)).logits
    torch.testing.assert_close(logits, example.hf_model(**inputs.tensors).logits, rtol=0, atol=1e-5)
    (alone,) = example.family.encode(example.hf_model, inputs.tensors, inputs.maps, [1])
    torch.testing.assert_close(alone["tokens"], parts[1]["tokens"], rtol=0, atol=1e-5)


def test_positions_are_the_placeholders_in_their_order_also_in_a_padded_batch(example):
    n_frames = (6, 6) if example.family.name in ONE_LENGTH else (4, 8)
    videos = [gl.Video(clip(n_frames[0]), fps=2), gl.Video(clip(n_frames[1], 84, 112), fps=2)]
    inputs = prepare(
        example.processor, example.family, videos, ["a much longer prompt", "b"], config=example.hf_model.config
    )
    config = example.hf_model.config
    placeholders = torch.isin(
        inputs.input_ids, torch.tensor([config.image_token_id, getattr(config, "video_token_id", -1)])
    )
    for row in range(2):
        mine = torch.cat([tokens.positions for tokens in inputs.image_tokens if tokens.row == row])
        assert torch.equal(mine, torch.nonzero(placeholders[row])[:, 0])
        assert [tokens.moment for tokens in inputs.image_tokens if tokens.row == row] == list(
            inputs.videos[row][0].moments
        )


def test_each_frame_that_was_sampled_is_in_one_moment_and_moments_follow_one_another(example):
    (video,) = prepared(example, gl.Video(clip(11), fps=3)).videos[0]
    frames = [frame for moment in video.moments for frame in moment.frames]
    assert frames == list(dict.fromkeys(video.sampled))
    assert all(moment.seconds == (moment.frames[0] / 3, (moment.frames[-1] + 1) / 3) for moment in video.moments)


def test_a_painted_box_in_one_frame_changes_its_own_token_most_and_no_other_moment(example):
    frames = clip(8)
    before_inputs = prepared(example, gl.Video(frames, fps=2))
    before = entering(example.unmixed, before_inputs)[0]
    side = SIDES.get(example.family.name, 32)
    n_far = 0
    for tokens in (before_inputs.image_tokens[0], before_inputs.image_tokens[-1]):
        boxes = tokens.boxes.double().numpy()
        for frame in tokens.moment.frames:
            placed = np.flatnonzero(~np.isnan(boxes[:, 0]))  # not the token at the end of a video of LLaVA-OneVision
            for target in (placed[0], placed[len(placed) // 2], placed[-1]):
                changed = frames.copy()
                spot = spot_in(boxes[target])
                changed[frame] = painted(changed[frame], spot)
                inputs = prepared(example, gl.Video(changed, fps=2))
                change = (entering(example.unmixed, inputs)[0] - before).norm(dim=-1)
                own = change[tokens.positions]
                assert int(own.argmax()) == target
                untouched = torch.ones(len(change), dtype=torch.bool)
                far = torch.from_numpy(far_from(spot, boxes, side=side, taps=2, leak=0, add=0))
                untouched[tokens.positions] = far
                assert change[untouched].max() < UNCHANGED * own[target]
                n_far += int(far[placed].sum())
    assert n_far > 0, "every token was in reach; give frames with more tokens"


def test_every_other_family_refuses_a_video_and_is_named():
    assert {family.name for family in FAMILIES if family.video_maps is not None} == set(TAKE_VIDEO)
    for family in FAMILIES:
        if family.video_maps is None:
            with pytest.raises(InputError, match=f"a model of the family {family.name}, and gaze_lens does not"):
                refuse_family(family)
    with pytest.raises(InputError, match="a model of the family PaliGemma"):
        prepared(Example.of("PaliGemma"), gl.Video(clip(2), fps=1))


@pytest.mark.parametrize("name", ONE_LENGTH)
def test_videos_of_several_lengths_in_one_batch_are_refused_where_they_are_stacked(name):
    with pytest.raises(ImageError, match="refused the videos .4 frames of 112 x 84, 8 frames of 112 x 84 pixels"):
        prepared(Example.of(name), [gl.Video(clip(4), fps=2), gl.Video(clip(8), fps=2)], ["a", "b"])


def test_a_template_that_writes_pictures_first_refuses_them_after_a_video():
    example = Example.of("LLaVA-OneVision")
    video, picture = gl.Video(clip(4), fps=2), Image.fromarray(noise(56, 84))
    with pytest.raises(InputError, match="writes them in the order image, video, and they were given as video, image"):
        prepared(example, [[video, picture]])
    inputs = prepared(example, [[picture, video]])
    assert [tokens.moment is None for tokens in inputs.image_tokens] == [True, False, False, False, False]


def test_frames_of_internvl_that_are_no_squares_are_refused(monkeypatch):
    example = Example.of("InternVL")
    monkeypatch.setattr(example.processor.video_processor, "do_center_crop", True)
    monkeypatch.setattr(example.processor.video_processor, "crop_size", {"height": 32, "width": 32})
    with pytest.raises(InputError, match="cut out or not square"):
        prepared(example, gl.Video(clip(4), fps=2))


def test_frames_of_onevision_of_another_size_than_the_towers_are_refused(monkeypatch):
    example = Example.of("LLaVA-OneVision")
    monkeypatch.setattr(example.processor.video_processor, "do_center_crop", True)
    monkeypatch.setattr(example.processor.video_processor, "crop_size", {"height": 60, "width": 60})
    with pytest.raises(ModelError, match="expected the same for both sides, and no crop"):
        prepared(example, gl.Video(clip(4), fps=2))


def test_qwen3_vl_writes_the_mean_time_of_the_frames_before_their_tokens():
    example = Example.of("Qwen3-VL")
    inputs = prepared(example, gl.Video(clip(8), fps=2, sampling_fps=2))
    ids = inputs.input_ids[0].tolist()
    for tokens in inputs.image_tokens:
        before = example.processor.tokenizer.decode(ids[: int(tokens.positions[0])])
        mean = sum(tokens.moment.frames) / len(tokens.moment.frames) / 2
        assert before.endswith(f"<{mean:.1f} seconds><|vision_start|>")


def test_glm_has_one_token_for_pictures_and_videos_and_takes_one_kind_at_a_time():
    example = Example.of("GLM-4V")
    with pytest.raises(InputError, match="this model has one token for both"):
        prepared(example, [[noise(56, 56), gl.Video(clip(4), fps=2)]])


@torch.no_grad()
@pytest.mark.parametrize("name", ["Qwen2-VL", "Qwen3-VL", "Qwen3.5", "InternVL"])
def test_a_picture_and_a_video_in_one_prompt_stand_in_the_order_that_was_given(name):
    example = Example.of(name)
    picture = gl.Picture(Image.fromarray(noise(56, 84)), {"corner": gl.Box(0, 0, 28, 28)})
    inputs = prepared(example, [[gl.Video(clip(4), fps=2), picture]])
    kinds = [tokens.moment is None for tokens in inputs.image_tokens]
    assert kinds == [False] * (len(kinds) - 1) + [True]
    assert inputs.region("image 1").positions[0] == tuple(inputs.image_tokens[-1].positions.tolist())
    assert set(inputs.region("corner").positions[0]) <= set(inputs.image_tokens[-1].positions.tolist())
    assert len(inputs.region("image 1")) + len(inputs.region("video 1")) == len(inputs.layout.images[0])
    logits = example.hf_model(**inputs.tensors).logits
    model = gl.HookedVLM.wrap(*gl.testing.tiny(name))
    assert torch.equal(model(inputs), logits)
    torch.testing.assert_close(model(model.encode(inputs)), logits, rtol=0, atol=1e-5)
