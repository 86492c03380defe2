"""The shipped checkpoint: an ordinary, small Hugging Face folder that answers, looks and can be steered."""

import hashlib
import json
import os
import subprocess
import sys
import warnings

import pytest

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, asking
from gaze_lens.evaluation.judges import ExactDescription
from gaze_lens.tiny import FOLDER, HEADS
from training.evaluate import PARTS, evaluate

STRIPS = comics.synthetic(8, seed=424_242)
PLAIN = f"""
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
model, found = Qwen3VLForConditionalGeneration.from_pretrained({str(FOLDER)!r}, output_loading_info=True)
processor = AutoProcessor.from_pretrained({str(FOLDER)!r})
assert not any(found.values()), found
assert not model.generation_config.do_sample
"""


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 8_000_000


def test_plain_hugging_face_loads_it_without_network():
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", PLAIN], env=offline, check=True, timeout=300)


def test_pictures_land_on_the_token_grid_as_they_are(tiny_model):
    for picture in [*STRIPS[:1], *comics.synthetic(1, seed=1, panels=1), *comics.scenes(1, seed=1)]:
        inputs = tiny_model.prepare(picture, comics.OPEN)
        assert len(inputs.image_tokens[0].positions) == picture.image.width * picture.image.height / 16**2
        boxes = inputs.image_tokens[0].boxes
        assert (boxes[:, 2:] - boxes[:, :2] == 16).all()


def share_of_panels_read(model, strips):
    """How often the answer to the question about a panel is its caption."""
    options = {"protocol": asking(), "judge": ExactDescription(), "progress": False}
    return gl.evaluate(model, strips, [Condition("none")], **options).accuracy("none").value


def test_it_reads_panels(tiny_model):
    assert share_of_panels_read(tiny_model, STRIPS) >= 0.9


def test_it_reads_strips_of_other_lengths_and_places_of_scenes(tiny_model):
    for panels in (1, 3, 8):
        assert share_of_panels_read(tiny_model, comics.synthetic(4, seed=11, panels=panels)) >= 0.7, panels
    scene = comics.scenes(1, seed=5)[0]
    text = str(tiny_model.generate(tiny_model.prepare(scene, comics.LIST_THINGS), max_new_tokens=30))
    assert sum(caption.removesuffix(".") in text for caption in scene.captions.values()) >= len(scene.captions) - 1


def test_few_heads_look_and_steer(tiny_model):
    scores = gl.score_heads(tiny_model, STRIPS, batch_size=8, progress=False)
    assert scores.contrast.max() >= 0.6
    assert (scores.score > 0.1).float().mean() <= 0.25
    conditions = [Condition("few", scores.top(HEADS)), Condition("all", scores.top(scores.score.numel()))]
    results = gl.evaluate(tiny_model, STRIPS, conditions, progress=False)
    assert results.accuracy("few").value >= 0.831
    assert results.accuracy("all").value <= 0.15


def test_an_evaluation_goes_on_with_the_parts_that_its_file_lacks(tmp_path, monkeypatch):
    out = tmp_path / "evaluation.json"
    evaluate(FOLDER, out, strips=2, parts=["looking"])
    first = json.loads(out.read_text())
    assert first["looking"]["heads"] == 72
    monkeypatch.setitem(PARTS, "looking", None)  # measured already
    monkeypatch.setitem(PARTS, "steered", lambda setup: setup.steered(setup.heads))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that the heads were chosen on the pictures that are steered
        evaluate(FOLDER, out, strips=2, parts=["looking", "objects", "steered"])
    second = json.loads(out.read_text())
    assert second["looking"] == first["looking"]
    assert all(0 <= second["objects"][k]["low"] <= second["objects"][k]["high"] <= 1 for k in ("1", "2"))
    with pytest.raises(InputError, match="another evaluation, not of .*'strips': 3"):
        evaluate(FOLDER, out, strips=3)
    with pytest.raises(InputError, match="no part 'steering'"):
        evaluate(FOLDER, out, strips=2, parts=["steering"])


def test_the_figures_that_ship_are_of_the_weights_that_ship_and_of_every_part():
    figures = json.loads((FOLDER.parent / "evaluation.json").read_text())
    assert figures["weights"] == hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert (figures["strips"], figures["heads steered"]) == (200, HEADS)
    assert set(PARTS) <= set(figures)
