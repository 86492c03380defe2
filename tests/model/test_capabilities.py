"""What a model says that it can do, and the inputs that no model takes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import picture

import gaze_lens as gl
from gaze_lens import testing
from gaze_lens.errors import ImageError, InputError
from gaze_lens.model.capabilities import HOOKS, View

DOCS = Path(__file__).parents[2] / "docs"


def test_a_grid_is_told_for_the_size_that_is_asked(shelf):
    model, _ = shelf.get("Qwen3-VL")
    described = model.capabilities((128, 64))
    assert (described.image.tokens, described.image.views) == (8, (View(2, 4, whole=True),))
    assert described.image.prompt == model.prepare(picture(128, 64), "").layout.length
    assert described.live == described.seeing == (0, 1, 2, 3)
    assert all(layer.hooks == HOOKS and layer.attention == "full" for layer in described.layers)
    for expected in ("8 (2 x 4) for 128 x 64 pixels", "DeepStack", "layers 0 to 3: hook_attn_scores", "video"):
        assert expected in str(described)
    with pytest.raises(InputError, match=r"size=\(0, 5\) was given; give \(width, height\)"):
        model.capabilities((0, 5))
    with pytest.raises(ImageError, match="20000 x 20"):
        model.capabilities((20000, 20))


@pytest.mark.parametrize(
    ("family", "kind", "words"),
    [
        ("Qwen3.5", "linear", "linear attention has no heads to hook"),
        ("LFM2-VL", "convolution", "convolution has no heads to hook"),
    ],
)
def test_layers_without_heads_say_so(shelf, family, kind, words):
    described = shelf.get(family)[0].capabilities((96, 64))
    headless = [layer.layer for layer in described.layers if layer.attention == kind]
    assert headless
    assert not set(headless) & set(described.live)
    assert described.heads * len(described.live) == int(
        next(line for line in str(described).splitlines() if "heads:" in line).split()[1]
    )
    assert described.unsupported[0].startswith(words)
    assert f"{words.partition(' has')[0]}:" in str(described)


def test_cross_attention_and_tiles_are_told(shelf):
    cross_attention = shelf.get("Mllama")[0].capabilities((96, 64))
    assert cross_attention.image.cross_attention
    assert [layer.attention for layer in cross_attention.layers if layer.layer in cross_attention.seeing] == [
        "cross"
    ] * len(cross_attention.seeing)
    assert len(cross_attention.seeing) < len(cross_attention.live)
    assert "keys of the cross-attention layers" in str(cross_attention)
    model, _ = shelf.get("InternVL")
    tiled = model.capabilities((192, 96)).image
    (tokens,) = model.prepare(picture(192, 96), "x").image_tokens
    assert len(tiled.views) == len(tokens.view.unique()) > 2
    assert [view.whole for view in tiled.views] == [False] * (len(tiled.views) - 1) + [True]
    assert sum(view.rows * view.columns for view in tiled.views) == tiled.tokens == len(tokens)


def test_sliding_layers_and_shared_keys_are_told(shelf):
    described = shelf.get("Gemma 4")[0].capabilities((96, 64))
    assert {layer.attention for layer in described.layers} == {"sliding", "full"}
    assert any("hook_k, in layers" in line and "earlier layer" in line for line in described.unsupported)


def test_files_with_several_frames_are_refused(shelf, tmp_path):
    model, _ = shelf.get("Qwen3-VL")
    frames = [picture(64, 64, seed) for seed in range(3)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    for given in (tmp_path / "clip.gif", Image.open(tmp_path / "clip.gif")):
        with pytest.raises(ImageError, match=r"3 frames was given; gaze_lens takes single pictures. Choose a frame"):
            model.prepare(given, "What?")
    chosen = Image.open(tmp_path / "clip.gif")
    chosen.seek(1)
    assert model.prepare(chosen.convert("RGB"), "What?").image_tokens[0].size == (64, 64)
    frames[0].save(tmp_path / "still.gif")
    assert len(model.prepare(tmp_path / "still.gif", "What?").image_tokens) == 1
    with pytest.raises(ImageError, match=r"shape \(4, 8, 8, 3\) was given"):
        model.prepare(np.zeros((4, 8, 8, 3), np.uint8), "What?")


def test_other_parts_of_chat_messages_are_refused(shelf):
    model, _ = shelf.get("Qwen3-VL")
    for part, message in (
        ({"type": "audio", "audio": "x.wav"}, "'audio', and gaze_lens does not take audio"),
        ({"type": "image_url", "image_url": {"url": "x"}}, "a part of type 'image_url'; expected"),
        ({"text": "hello"}, "a part of type None; expected"),
        ({"type": "video_url"}, "'video_url', and gaze_lens takes video as gl.Video alone"),
        ({"type": "image", "video": "x.mp4"}, "gaze_lens takes video as gl.Video alone"),
    ):
        with pytest.raises(InputError, match=message):
            model.prepare(picture(64, 64), [{"role": "user", "content": [{"type": "image"}, part]}])


def test_encoded_video_is_refused(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = model.prepare(None, "Hi")
    with pytest.raises(InputError, match=r"mm_encoder_outputs\['video'\] was given, and gaze_lens takes video as"):
        model(inputs, mm_encoder_outputs={"video": object()})
    assert model(inputs, pixel_values_videos=None).isfinite().all()


def test_the_documents_know_every_family():
    table = (DOCS / "families.md").read_text()
    for name in testing.BUILDERS:
        assert f"\n| {name} | " in table, f"{name} is missing: python docs/make_families.py"
    assert gl.testing.BUILDERS is testing.BUILDERS
