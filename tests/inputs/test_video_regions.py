"""Regions of videos: frames, time, shapes that move, names; and videos that cannot be used."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import gaze_lens as gl
from gaze_lens.errors import ImageError, InputError, RegionError

LEFT, RIGHT = gl.Box(0, 0, 56, 84), gl.Box(56, 0, 112, 84)


@pytest.fixture(scope="module")
def qwen2():
    return gl.HookedVLM.wrap(*gl.testing.tiny("Qwen2-VL"))


@pytest.fixture(scope="module")
def qwen3():
    return gl.HookedVLM.wrap(*gl.testing.tiny("Qwen3-VL"))


def clip(n_frames=8, width=112, height=84):
    return np.random.default_rng(0).integers(60, 196, (n_frames, height, width, 3), dtype=np.uint8)


def positions(inputs, *moments, shape=None):
    """What a region must be: the tokens of some moments, those whose centre is in a shape."""
    chosen = [inputs.image_tokens[moment] for moment in moments]
    return tuple(p for tokens in chosen for p in (tokens.positions if shape is None else tokens.select(shape)).tolist())


def test_a_frame_is_the_tokens_of_all_frames_that_share_them(qwen2):
    inputs = qwen2.prepare(gl.Video(clip(), fps=2), "look")  # its processor samples all, two for each token
    assert inputs.region_names() == ("frames 1 and 2", "frames 3 and 4", "frames 5 and 6", "frames 7 and 8")
    for name in ("frame 3", "frame 4", "frames 3 and 4", "frame 3 of video 1"):
        assert inputs.region(name).positions[0] == positions(inputs, 1)
    assert inputs.region("video 1").positions[0] == inputs.layout.images[0]
    assert inputs.region("frame 3").others[0] == positions(inputs, 0, 2, 3)


def test_a_shape_is_in_all_frames_or_in_those_of_some_seconds(qwen2):
    inputs = qwen2.prepare(gl.Video(clip(), fps=2), "look")  # moments begin at 0, 1, 2, 3 s; mean times 0.25 more
    assert inputs.region(LEFT).positions[0] == positions(inputs, 0, 1, 2, 3, shape=LEFT)
    assert inputs.region(LEFT, seconds=(1.0, 2.3)).positions[0] == positions(inputs, 1, 2, shape=LEFT)
    assert inputs.region(LEFT, seconds=(1.5, 2.3)).positions[0] == positions(inputs, 2, shape=LEFT)
    assert inputs.region(None, seconds=(1.0, 1.9)).positions[0] == positions(inputs, 1)
    assert inputs.region(gl.Seconds(1.0, 1.9, RIGHT)).positions[0] == positions(inputs, 1, shape=RIGHT)
    assert inputs.region("frame 3", seconds=(1.0, 1.9)).positions[0] == positions(inputs, 1)
    assert inputs.region((10, 10), seconds=(0, 1)).positions[0] == tuple(inputs.image_tokens[0].at(10, 10).tolist())


def test_overlap_takes_moments_any_frame_of_which_is_shown_in_the_time(qwen2):
    inputs = qwen2.prepare(gl.Video(clip(), fps=2), "look")
    with pytest.raises(RegionError, match="holds no token of the video"):
        inputs.region(None, seconds=(1.3, 1.4))
    assert inputs.region(None, seconds=(1.3, 1.4), rule="overlap").positions[0] == positions(inputs, 1)
    assert inputs.region(None, seconds=(0.9, 2.1), rule="overlap").positions[0] == positions(inputs, 0, 1, 2)
    assert inputs.region(None, seconds=(1.0, 2.0), rule="overlap").positions[0] == positions(inputs, 1)


def test_a_box_that_moves_is_where_it_is_in_each_moment(qwen2):
    inputs = qwen2.prepare(gl.Video(clip(), fps=2), "look")
    moving = {"frame 1": LEFT, "frame 5": RIGHT, "frame 6": RIGHT}
    expected = positions(inputs, 0, shape=LEFT) + positions(inputs, 2, shape=RIGHT)
    assert inputs.region(moving).positions[0] == expected
    both = inputs.region({"frame 5": LEFT, "frame 6": RIGHT}).positions[0]
    assert both == positions(inputs, 2)


def test_named_regions_stay_move_or_last_for_some_time(qwen2):
    regions = {"left": LEFT, "cup": {"frame 1": LEFT, "frame 8": RIGHT}, "end": gl.Seconds(3, 4)}
    video = gl.Video(clip(), fps=2, regions=regions, captions={"cup": "a cup"})
    inputs = qwen2.prepare(video, "look")
    assert inputs.region_names() == ("left", "cup", "end")
    assert inputs.region("left").positions[0] == positions(inputs, 0, 1, 2, 3, shape=LEFT)
    assert inputs.region("cup").positions[0] == positions(inputs, 0, shape=LEFT) + positions(inputs, 3, shape=RIGHT)
    assert inputs.region("end").positions[0] == positions(inputs, 3)
    assert inputs.region("left", seconds=(3, 4)).positions[0] == positions(inputs, 3, shape=LEFT)
    assert dict(inputs.pictures[0][0].regions) == {"left": LEFT, "cup": LEFT}


def test_frames_that_were_not_sampled_are_left_out_of_a_region_and_refused_alone(qwen3):
    inputs = qwen3.prepare(gl.Video(clip(12), fps=4, sampling_fps=2), "look")
    (video,) = inputs.videos[0]
    assert video.sampled == (0, 2, 4, 7, 9, 11)
    with pytest.raises(RegionError, match=r"'frame 2' holds no token .* the model sees 6, frames 1, 3, 5, 8, 10, 12"):
        inputs.region("frame 2")
    assert inputs.region({"frame 2": LEFT, "frame 3": RIGHT}).positions[0] == positions(inputs, 0, shape=RIGHT)
    with pytest.raises(RegionError, match="the model sees 6"):
        inputs.region("frame 13")
    with pytest.raises(RegionError, match=r"from 5 to 6 s holds no token .* \(0 to 3 s\)"):
        inputs.region(LEFT, seconds=(5, 6))


def test_two_videos_are_told_apart(qwen2):
    first, second = gl.Video(clip(2), fps=1, regions={"cup": LEFT}), gl.Video(clip(4, 84, 112), fps=1)
    inputs = qwen2.prepare([[first, second]], "compare")
    assert inputs.region("cup").positions[0] == positions(inputs, 0, shape=LEFT)
    assert inputs.region("video 2").positions[0] == positions(inputs, 1, 2)
    assert inputs.region("frame 1 of video 2").positions[0] == positions(inputs, 1)
    assert inputs.region_names() == ("cup", "frames 1 and 2", "frames 3 and 4")
    with pytest.raises(RegionError, match="Row 0 has 2 videos with 'frame 1'; say which: 'frame 1 of video 2'"):
        inputs.region("frame 1")
    with pytest.raises(RegionError, match="2 videos and 0 images, and a shape or time may be in each"):
        inputs.region(LEFT)
    with pytest.raises(RegionError, match="'video 3' was given for a prompt of 2 videos"):
        inputs.region("video 3")


def test_a_prompt_without_video_has_no_frames_and_no_time(qwen2):
    inputs = qwen2.prepare(gl.Picture(Image.fromarray(clip(1)[0]), {"left": LEFT}), "look")
    for where in (gl.Seconds(0, 1), {"frame 1": LEFT}):
        with pytest.raises(RegionError, match="Row 0 has no video"):
            inputs.region(where)
    with pytest.raises(RegionError, match="Row 0 has no video"):
        inputs.region("left", seconds=(0, 1))
    with pytest.raises(RegionError, match="No picture of row 0 has a region 'frame 1'"):
        inputs.region("frame 1")


def test_a_video_of_one_frame_is_two_equal_ones_to_qwen2_and_refused_by_qwen3(qwen2, qwen3):
    inputs = qwen2.prepare(gl.Video(clip(1), fps=2), "look")
    assert [tokens.moment.frames for tokens in inputs.image_tokens] == [(0,)]
    with pytest.raises(ImageError, match="refused the videos .1 frames of 112 x 84 pixels.*give more or fewer frames"):
        qwen3.prepare(gl.Video(clip(1), fps=2), "look")
    with pytest.raises(InputError, match="cannot sample 1 frames at 2 a second"):
        qwen2.prepare(gl.Video(clip(1), fps=2, sampling_fps=2), "look")


def test_videos_that_cannot_be_used_say_why(qwen2):
    with pytest.raises(InputError, match="A video of no frames"):
        gl.Video([], fps=2)
    with pytest.raises(InputError, match="fps=None was given; give frames per second"):
        gl.Video(clip(2))
    with pytest.raises(InputError, match="several sizes .112 x 84, 84 x 112 pixels"):
        gl.Video([clip(1)[0], clip(1, 84, 112)[0]], fps=2)
    with pytest.raises(InputError, match="not both"):
        gl.Video(clip(2), fps=2, sampling_fps=1, num_frames=2)
    with pytest.raises(InputError, match="int was given as the frames"):
        gl.Video(3, fps=2)
    with pytest.raises(ImageError, match=r"shape \(84, 112\)|shape"):
        gl.Video(clip(2)[..., :2], fps=2)
    with pytest.raises(RegionError, match="'frame 9'; give names of frames, 'frame 1' to 'frame 8'"):
        gl.Video(clip(), fps=2, regions={"cup": {"frame 9": LEFT}})
    with pytest.raises(RegionError, match="lies outside frames of 112 x 84"):
        gl.Video(clip(), fps=2, regions={"cup": gl.Box(200, 0, 210, 10)})
    with pytest.raises(RegionError, match="begins after 9 s, and the video lasts 4"):
        gl.Video(clip(), fps=2, regions={"late": gl.Seconds(9, 10)})
    with pytest.raises(RegionError, match="give 0 <= start < end"):
        gl.Seconds(2, 2)
    with pytest.raises(RegionError, match="no region of that name"):
        gl.Video(clip(), fps=2, captions={"cup": "a cup"})
    with pytest.raises(InputError, match="fit='whole' was given for a video"):
        qwen2.prepare(gl.Video(clip(2), fps=2), "look", fit="whole")


def test_a_sampling_that_the_processor_does_not_do_is_refused():
    glm = gl.HookedVLM.wrap(*gl.testing.tiny("GLM-4V"))  # it has no num_frames
    with pytest.raises(InputError, match="samples 8 of 8 frames where 4 were asked for"):
        glm.prepare(gl.Video(clip(), fps=2, num_frames=4), "look")
    assert len(glm.prepare(gl.Video(clip(), fps=2, sampling_fps=1), "look").videos[0][0].sampled) == 4


def test_num_frames_are_sampled_as_many_as_asked(qwen2, qwen3):
    for model in (qwen2, qwen3):
        assert len(model.prepare(gl.Video(clip(), fps=2, num_frames=4), "look").videos[0][0].sampled) == 4


def test_a_video_longer_than_the_context_is_refused(qwen2):
    with pytest.raises(InputError, match="the model's context holds 4096; shorten the text or give smaller images or"):
        qwen2.prepare(gl.Video(np.zeros((700, 84, 112, 3), np.uint8), fps=2), "look")


def test_a_frame_of_a_prompt_is_no_picture_for_another(qwen2):
    inputs = qwen2.prepare(gl.Video(clip(4), fps=2), "look")
    with pytest.raises(InputError, match="frames 1 and 2, 0.00 to 1.00 s of a video were given as a picture"):
        qwen2.prepare(inputs.pictures[0][0], "look")
    with pytest.raises(RegionError, match="for a prompt of 0 images"):
        inputs.region("image 1")


def test_chat_messages_say_where_a_video_stands(qwen2):
    video = gl.Video(clip(4), fps=2)
    content = [{"type": "text", "text": "See "}, {"type": "video"}, {"type": "text", "text": " end"}]
    inputs = qwen2.prepare(video, [{"role": "user", "content": content}])
    carried = [content[0], {"type": "video", "video": video}, content[2]]
    again = qwen2.prepare(None, [{"role": "user", "content": carried}])
    assert torch.equal(inputs.input_ids, again.input_ids)
    text = "".join(inputs.str_tokens(collapse=True))
    assert text.index("See") < text.index("<image") < text.index(" end")
    with pytest.raises(InputError, match="1 video placeholders, and 0 videos were given; give a video for each"):
        qwen2.prepare(None, [{"role": "user", "content": content}])
    with pytest.raises(InputError, match=r'0 video placeholders, and 1 videos were given; write {"type": "video"}'):
        qwen2.prepare(video, [{"role": "user", "content": content[:1]}])
    with pytest.raises(InputError, match="takes video as gl.Video alone"):
        qwen2.prepare(None, [{"role": "user", "content": [{"type": "video", "video": "clip.mp4"}]}])


def test_without_pyav_a_file_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"needs PyAV, which is not installed: pip install 'gaze-lens\[video\]'"):
        gl.Video(tmp_path / "clip.mp4")
    with pytest.raises(ImageError, match="There is no video file"):
        gl.Video("nowhere.mp4")
    with pytest.raises(ImageError, match="is a web address"):
        gl.Video("https://example.com/clip.mp4")


def test_a_file_has_the_frames_that_were_written(tmp_path, qwen3):
    av = pytest.importorskip("av")
    frames, path = np.repeat(np.arange(12, dtype=np.uint8)[:, None, None, None] * 20, 3, axis=3), tmp_path / "clip.mkv"
    frames = np.broadcast_to(frames, (12, 64, 96, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=4, width=96, height=64, pix_fmt="bgr0")  # without loss
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    video = gl.Video(path, sampling_fps=2)
    assert (video.n_frames, video.fps, video.size) == (12, 4.0, (96, 64))
    from_file, from_array = (qwen3.prepare(one, "look") for one in (video, gl.Video(frames, fps=4, sampling_fps=2)))
    for name, tensor in from_array.tensors.items():
        assert torch.equal(tensor, from_file.tensors[name])
    with pytest.raises(InputError, match="fps=8 was given for a file of 4 frames per second"):
        gl.Video(path, fps=8)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ImageError, match="cannot be read|holds no frames"):
        gl.Video(path)
