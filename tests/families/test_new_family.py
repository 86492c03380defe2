"""A family that gaze_lens does not have: the error says what to do, and the description of docs/new_family.md works."""

import copy
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import at_real, eager, full, look, padded, picture
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

import gaze_lens as gl
from gaze_lens import families, testing
from gaze_lens.errors import ModelError
from gaze_lens.families import features
from gaze_lens.regions.picture import Picture, panels

DOCUMENT = Path(__file__).parents[2] / "docs" / "new_family.md"


class StarVLConfig(Qwen2VLConfig):
    model_type = "star_vl"


class StarVLProcessor(Qwen2VLProcessor):
    pass


class StarVLForConditionalGeneration(Qwen2VLForConditionalGeneration):
    config_class = StarVLConfig


AutoConfig.register("star_vl", StarVLConfig)
AutoModelForImageTextToText.register(StarVLConfig, StarVLForConditionalGeneration)
AutoProcessor.register(StarVLConfig, StarVLProcessor)


@pytest.fixture
def star():
    """A model of an unknown class with random weights, and its processor."""
    like, processor = testing.tiny("Qwen2-VL")
    config = StarVLConfig(**{**like.config.to_dict(), "architectures": ["StarVLForConditionalGeneration"]})
    model = StarVLForConditionalGeneration(config).eval()
    model.load_state_dict(like.state_dict())
    processor.__class__ = StarVLProcessor
    return model, processor


@pytest.fixture
def described(monkeypatch):
    """The family as the document's code describes it; removed after the test."""
    monkeypatch.setattr(families, "REGISTERED", [])
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)[0]
    assert code.count("\n") < 32
    exec(compile(code, str(DOCUMENT), "exec"), {"__name__": "star"})


def test_the_error_for_an_unknown_family_names_the_nearest_family_and_the_document(star, tmp_path):
    with pytest.raises(ModelError, match=r"StarVL\w+ is an unknown family.*nearest.*is Qwen2-VL.*docs/new_family\.md"):
        gl.HookedVLM.wrap(*star)
    star[0].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"StarVL\w+ is an unknown family.*families\.register.*works with"):
        gl.HookedVLM.from_pretrained(str(tmp_path))
    assert DOCUMENT.exists()


def test_the_nearest_family_depends_on_the_name_and_the_fields_of_the_config():
    for kind, expected in (("deepseek_vl_hybrid", "DeepSeek-VL"), ("video_llava", "VipLlava")):
        with pytest.raises(ModelError, match=rf"nearest that is known is {expected} \("):
            families.family_of(AutoConfig.for_model(kind))
    unknown = AutoConfig.for_model("mllama")
    unknown.architectures = ["ZzzForImages"]
    with pytest.raises(ModelError, match=r"nearest that is known is Mllama \("):
        families.family_of(unknown)


@pytest.mark.parametrize("kind", ["chameleon", "emu3", "fuyu", "idefics", "janus", "florence2", "git"])
def test_a_family_like_no_other_gets_no_suggestion_and_is_no_language_model(kind):
    """Chameleon, Emu3 and Fuyu have no vision tower, and no vision_config."""
    with pytest.raises(ModelError, match="is an unknown family; none that is known is much like it") as caught:
        families.family_of(AutoConfig.for_model(kind))
    assert "is a language model" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("blip-2", "a Q-Former"), ("instructblip", "a Q-Former"), ("instructblipvideo", "a Q-Former"),
        ("idefics2", "a perceiver resampler"), ("aria", "learned queries"), ("kosmos-2", "a resampler"),
        ("kosmos-2.5", "a resampler"),
    ],
)  # fmt: skip
def test_a_family_whose_image_tokens_have_no_place_is_refused_for_that(kind, what):
    with pytest.raises(ModelError, match=rf"cannot be described: .* out of .*{what}.*None has a place in the picture"):
        families.family_of(AutoConfig.for_model(kind))


@torch.no_grad()
def test_a_described_family_runs_end_to_end(star, described, tmp_path):
    untouched = copy.deepcopy(star[0])
    for part in star:
        part.save_pretrained(tmp_path)
    model = gl.HookedVLM.from_pretrained(str(tmp_path))
    assert model.family.name == "Star-VL"
    inputs = padded(model)
    expected = at_real(eager(untouched)(**inputs.tensors).logits, inputs)
    assert torch.equal(at_real(model.run_with_hooks(inputs, fwd_hooks=full()), inputs), expected)
    assert torch.equal(model(model.encode(inputs)), model(inputs))
    generated = untouched.generate(**inputs.tensors, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(inputs, fwd_hooks=full(function=look), max_new_tokens=4).sequences, generated)


@torch.no_grad()
def test_a_described_family_is_scored_and_steered(star, described):
    model = gl.HookedVLM.wrap(*star)
    strip = Picture(picture(168, 84), panels(2, 168, 84))
    assert "its own" in str(model.capabilities((168, 84)))
    scores = gl.score_heads(model, [strip], progress=False)
    inputs = model.prepare(strip, "What?")
    region, recorded = inputs.region("panel 2"), {}

    def keep(pattern, hook):
        recorded["mass"] = pattern[0, :, -1, list(region.positions[0])].sum(-1)

    hooks = gl.steer(scores.top(1), region)
    layer, head = scores.top(1)[0]
    model.run_with_hooks(inputs, fwd_hooks=[*hooks, (f"blocks.{layer}.attn.hook_pattern", keep)])
    assert recorded["mass"][head] > 0.999


def test_registering_again_replaces_and_a_built_in_name_is_refused(star, described):
    (first,) = families.REGISTERED
    again = families.Family("Star-VL", first.architectures, first.token_maps, first.encode, first.to_forward_kwargs)
    families.register(again)
    (only,) = families.REGISTERED
    assert only is again
    assert families.family_of(star[0].config) is again
    with pytest.raises(ModelError, match="has a family 'Qwen3-VL' of its own; register this one under another name"):
        families.register(families.FAMILIES[2])


def test_the_first_model_of_a_process_is_wrapped_without_a_warning():
    code = "import gaze_lens as gl; gl.HookedVLM.wrap(*gl.testing.tiny('Qwen2-VL', num_hidden_layers=1))"
    quiet = "error::UserWarning:transformer_lens.factories.architecture_adapter_factory"
    subprocess.run([sys.executable, "-W", quiet, "-c", code], check=True, timeout=300)


OLD_NAMES = {
    "arrange": ("to_forward_kwargs", list),
    "crossed": ("cross_attention", True),
    "tower": ("vision_model_type", "clip"),
    "plain": ("no_chat_template", True),
    "whole": ("prefix_sharing_blocker", "why"),
}


@pytest.mark.parametrize("old", OLD_NAMES)
def test_a_family_described_with_an_old_name_works_and_warns(old):
    new, value = OLD_NAMES[old]
    fields = {"name": "Star-VL", "architectures": (), "token_maps": list, "encode": list, "to_forward_kwargs": tuple}
    expected = families.Family(**{**fields, new: value})
    fields.pop(new, None)
    with pytest.warns(DeprecationWarning, match=rf"Family\({old}=\) is now called {new}=; the old name goes in"):
        family = families.Family(**fields, **{old: value})
    assert family == expected
    with pytest.warns(DeprecationWarning, match=f"Family.{old} is now called {new}"):
        assert getattr(family, old) == value
    with pytest.warns(DeprecationWarning, match=old):
        assert dataclasses.replace(expected, **{old: value}) == expected


def test_encoded_images_have_their_old_names_too():
    encoded = features.Features(({"tokens": 1},), list)
    with pytest.warns(DeprecationWarning, match="Features.parts is now called images"):
        assert encoded.parts == encoded.images
    with pytest.warns(DeprecationWarning, match=r"features\.Part is now called EncodedImage"):
        assert features.Part is features.EncodedImage
