"""Thinkers of Omni models: out of a whole checkpoint, with pictures and text but no sound."""

import copy
import json
import re

import pytest
import torch
from reference import picture
from safetensors.torch import save_file
from transformers import Qwen2_5OmniConfig, Qwen3OmniMoeConfig

from gaze_lens import HookedVLM
from gaze_lens.errors import InputError, ModelError
from gaze_lens.families import family_of
from gaze_lens.model.loading import skeleton

WHOLE = {"Qwen2.5-Omni": Qwen2_5OmniConfig, "Qwen3-Omni": Qwen3OmniMoeConfig}


@pytest.fixture(params=WHOLE)
def name(request):
    return request.param


def whole_checkpoint(name, shelf, folder):
    """A checkpoint as published: the weights of the thinker under their names there, and one of another part."""
    model, plain = shelf.get(name)
    config = WHOLE[name](thinker_config=plain.config.to_dict()).to_dict()
    config["thinker_config"]["architectures"] = ["AThinkerOfAnotherName"]
    config |= {"architectures": [WHOLE[name].__name__.replace("Config", "ForConditionalGeneration")]}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {
        "thinker." + re.sub(r"^model\.(language_(?=model)|(?=visual|audio_tower))", "", key): weight
        for key, weight in plain.state_dict().items()
    }
    save_file({**weights, "talker.model.norm.weight": torch.ones(4)}, folder / "model.safetensors", {"format": "pt"})
    model.processor.save_pretrained(folder)
    return plain


@torch.no_grad()
def test_a_whole_checkpoint_gives_the_logits_of_its_thinker(name, shelf, tmp_path):
    plain = whole_checkpoint(name, shelf, tmp_path)
    loaded = HookedVLM.from_pretrained(str(tmp_path))
    assert type(loaded.original_model) is type(plain)
    inputs = loaded.prepare(picture(96, 64), "What?")
    assert torch.equal(loaded(inputs), plain(**inputs.tensors).logits)
    loaded.save_pretrained(tmp_path / "thinker")
    again = HookedVLM.from_pretrained(str(tmp_path / "thinker"))
    assert torch.equal(again(inputs), plain(**inputs.tensors).logits)


def test_a_whole_checkpoint_tells_what_it_can_do_without_its_weights(name, shelf, tmp_path):
    plain = whole_checkpoint(name, shelf, tmp_path)
    hf_model, processor = skeleton(str(tmp_path))
    assert type(hf_model) is type(plain)
    assert HookedVLM.wrap(hf_model, processor).capabilities((96, 64)).live == (0, 1, 2, 3)


def test_a_whole_model_in_memory_is_refused_with_the_way_to_its_thinker(name):
    with pytest.raises(ModelError, match=r"config of an Omni model.*wrap its thinker, model.thinker"):
        family_of(WHOLE[name]())


def test_audio_is_refused(name, shelf):
    model, _ = shelf.get(name)
    for part in ({"type": "audio"}, {"type": "audio", "audio": "clip.wav"}):
        message = [{"role": "user", "content": [{"type": "image"}, part, {"type": "text", "text": "What?"}]}]
        with pytest.raises(InputError, match="a part of type 'audio', and gaze_lens does not take audio"):
            model.prepare(picture(96, 64), message)
    with pytest.raises(InputError, match="holds the placeholder token"):
        model.prepare(picture(96, 64), f"What is {model.processor.audio_token}?")
    inputs, sound = model.prepare(picture(96, 64), "What?"), torch.zeros(1, 16, 8)
    for arguments in ({"input_features": sound}, {"feature_attention_mask": sound[:, 0]}, {"use_audio_in_video": True}):
        for run in (model, model.run_with_hooks, model.run_with_cache, model.generate):
            with pytest.raises(InputError, match="was given, and gaze_lens does not take"):
                run(inputs, **arguments)
    assert model(inputs, use_audio_in_video=False).shape[:2] == inputs.shape


@torch.no_grad()
def test_positions_are_in_rows_and_columns_of_the_picture(name, shelf):
    """M-RoPE: a picture moves what follows on by its longer side, not by its number of tokens."""
    model, plain = shelf.get(name)
    inputs = model.prepare(picture(96, 64), "What?")
    plain = copy.deepcopy(plain)
    plain(**inputs.tensors)
    assert int(plain.model.rope_deltas) == max(inputs.image_tokens[0].grid) - len(inputs.image_tokens[0])
