"""gaze_lens on the metadata of published checkpoints, beside plain Hugging Face on the same folder.

The environment variable GAZE_LENS_CHECKPOINTS names a folder with `metadata.tar.xz` and `unpack.py`, which writes
checkpoint folders with real metadata and random weights. Without it, one test is skipped.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from hugging_face_prompts import CONVERSATIONS, in_every_form, same, texts_of, theirs, without_template
from painting import noise
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import gaze_lens as gl
from gaze_lens.errors import InputError, RegionError
from gaze_lens.regions.picture import Picture, panels

FOLDER = os.environ.get("GAZE_LENS_CHECKPOINTS")
WITHOUT_TEMPLATE = ("paligemma2-3b-pt-224",)
CUT = ("llava-1.5-7b-hf",)  # the processor cuts the ends of a strip away
pytestmark = pytest.mark.slow
NOT_IN_TEMPLATE = {("Llama-3.2-11B-Vision", "system"), ("Llama-3.2-11B-Vision", "system as a text")}


def names():
    """The checkpoints in the archive."""
    with tarfile.open(Path(FOLDER) / "metadata.tar.xz") as archive:
        return sorted({Path(member.name).parts[0] for member in archive if member.isfile()})


if FOLDER is None:

    def test_published_checkpoints():
        pytest.skip("GAZE_LENS_CHECKPOINTS names no folder with the metadata of published checkpoints")


class Checkpoint:
    """A checkpoint as plain Hugging Face loads it, and as gaze_lens does."""

    def __init__(self, folder):
        self.name, self.folder = folder.name, folder
        self.plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = gl.HookedVLM.from_pretrained(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=names() if FOLDER is not None else [])
def checkpoint(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("published")
    command = [sys.executable, str(Path(FOLDER) / "unpack.py"), str(out), request.param]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True)
    yield Checkpoint(out / request.param)
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def strip(checkpoint):
    """Three panels side by side; square where the processor would cut a strip."""
    width, height = (96, 96) if checkpoint.name in CUT else (384, 128)
    regions = panels(3, width, height)
    return Picture(Image.fromarray(noise(width, height)), regions, dict.fromkeys(regions, "a cat"))


@pytest.fixture(scope="module")
def inputs(checkpoint, strip):
    return checkpoint.model.prepare(strip, "What is this?")


@pytest.fixture(scope="module")
def heads(checkpoint):
    """Heads of a layer that sees the image: the last with cross-attention, if there are any, else the last."""
    attentions = [(i, block.attn) for i, block in enumerate(checkpoint.model.blocks) if "attn" in block._modules]
    crossing = [i for i, attention in attentions if attention.is_cross_attention]
    return gl.HeadSet([((crossing or [i for i, _ in attentions])[-1], head) for head in (0, 1)])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_those_of_hugging_face(checkpoint, name):
    n_images, conversation = CONVERSATIONS[name]
    images = [Image.fromarray(noise(600, 400)), Image.fromarray(noise(300, 500, seed=1))][:n_images]
    if checkpoint.name in WITHOUT_TEMPLATE and name not in ("one image", "two images"):
        with pytest.raises(InputError, match="no conversation"):
            checkpoint.model.prepare([images], [conversation])
        return
    if (checkpoint.name, name) in NOT_IN_TEMPLATE:
        with pytest.raises(InputError, match=r"'Be brief\.' is not in the text that the model's chat template makes"):
            checkpoint.model.prepare([images], [conversation])
        return
    ours = checkpoint.model.prepare([images], [conversation])
    said = checkpoint.processor.decode(ours.input_ids[0])
    assert all(words in said for words in texts_of(conversation))
    assert "'type'" not in said
    beginning = ours.input_ids[0, :2].tolist()
    assert beginning != [checkpoint.processor.tokenizer.bos_token_id] * 2
    make = without_template if checkpoint.name in WITHOUT_TEMPLATE else theirs
    forms = in_every_form(lambda form: make(checkpoint.processor, form, images), conversation)
    assert any(same(ours.tensors, form) for form in forms), (
        "in no form of its contents does the conversation give the same tensors in Hugging Face"
    )


@torch.no_grad()
def test_logits_are_those_of_hugging_face(checkpoint, inputs):
    plain = checkpoint.plain(**inputs.tensors).logits
    assert torch.equal(checkpoint.model(inputs), plain)


@pytest.mark.parametrize("sample", [False, True])
def test_generated_tokens_are_those_of_hugging_face(checkpoint, inputs, sample):
    options = {"do_sample": sample, "max_new_tokens": 4}
    torch.manual_seed(3)
    expected = checkpoint.plain.generate(**inputs.tensors, **options)
    torch.manual_seed(3)
    assert torch.equal(checkpoint.model.generate(inputs, **options).sequences, expected)


def test_scores_steering_and_tracking(checkpoint, strip, inputs, heads):
    scores = gl.score_heads(checkpoint.model, [strip], progress=False)
    assert scores.score.shape == (checkpoint.model.cfg.n_layers, checkpoint.model.cfg.n_heads)
    layer, head = next(iter(heads)).layer, next(iter(heads)).head
    assert 0 < scores.score[layer, head] <= 1
    target = inputs.region("panel 2")
    with torch.no_grad():
        _, cache = checkpoint.model.run_with_cache(inputs, names_filter=f"blocks.{layer}.attn.hook_pattern")
        with checkpoint.model.hooks(gl.steer(heads, target)):
            _, after = checkpoint.model.run_with_cache(inputs, names_filter=f"blocks.{layer}.attn.hook_pattern")
    name = f"blocks.{layer}.attn.hook_pattern"
    positions = target.positions[0]
    before, steered_mass = (one[name][0, head, -1, list(positions)].sum() for one in (cache, after))
    assert steered_mass > max(0.99, before)
    trajectory = gl.track(checkpoint.model, inputs, heads, max_new_tokens=3)
    assert trajectory.mass.shape[0] == 3


def test_a_mass_is_what_the_generation_reports(checkpoint, inputs, heads):
    """In the prompt and in every step; and the text is that of a run without a cache."""
    hooks, options = gl.steer(heads, inputs.region("panel 2"), mass=0.7), {"max_new_tokens": 3, "min_new_tokens": 3}
    generation = checkpoint.model.generate(inputs, fwd_hooks=hooks, exposure=True, **options)
    masses = [row["mass"] for row in generation.exposure.rows()]
    assert len(masses) == 2 * 3
    assert masses == pytest.approx([0.7] * len(masses), abs=1e-5)
    rows = checkpoint.model.generate(inputs, fwd_hooks=hooks, use_cache=False, **options)
    assert torch.equal(rows.sequences, generation.sequences)


def test_capabilities_are_told(checkpoint):
    described = str(checkpoint.model.capabilities((1536, 256)))
    assert "1536" in described


@pytest.mark.skipif(FOLDER is None, reason="no folder")
def test_a_region_that_the_processor_cuts_away_is_an_error(checkpoint):
    if checkpoint.name not in CUT:
        return
    wide = Picture(Image.fromarray(noise(384, 128)), panels(3, 384, 128))
    with pytest.raises(RegionError, match="panel 1"):
        checkpoint.model.prepare(wide, "What?").region("panel 1")
