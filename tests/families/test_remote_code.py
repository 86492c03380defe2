"""A model whose code comes with its checkpoint: the description in docs/new_family.md, exactly as printed there."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from reference import full, look, picture
from transformers import AutoConfig, AutoModelForCausalLM

import gaze_lens as gl
from gaze_lens import families
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.testing.parts import byte_tokenizer, chat_template, text_config

DOCUMENT = Path(__file__).parents[2] / "docs" / "new_family.md"
CODE = Path(__file__).parent / "remote_code"
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 84,
    "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
MINE = {"AutoConfig": "configuration_hare.HareConfig", "AutoModelForCausalLM": "modeling_hare.HareForCausalLM"}
STRIP = Picture(picture(96, 64), panels(2, 96, 64))
TRUSTED = {"trust_remote_code": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint with its own code, random weights and a tokenizer, and no processor."""
    folder = tmp_path_factory.mktemp("hare")
    for path in CODE.glob("*.py"):
        shutil.copy(path, folder)
    tokenizer = byte_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.chat_template = chat_template("<image>\n")
    tokenizer.save_pretrained(folder)
    config = {"model_type": "hare", "auto_map": MINE, "llm_config": text_config(tokenizer, {}), "visual_config": TOWER}
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HareForCausalLM"]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **TRUSTED), **TRUSTED)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.12)
        model.save_pretrained(folder)
        yield folder


@pytest.fixture(scope="module")
def own(folder):
    """The model with its own forward."""
    return AutoModelForCausalLM.from_pretrained(folder, **TRUSTED).eval()


@pytest.fixture(scope="module")
def hare(folder):
    """The model as the document's code wraps it."""
    code = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)[1]
    assert sum(bool(line.strip()) for line in code.splitlines()) < 50
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "REGISTERED", [])
        names = {"__name__": "hare"}
        exec(compile(code.replace('"hare"', repr(str(folder))), str(DOCUMENT), "exec"), names)
        yield names["model"]


def in_its_own_form(model, inputs):
    """The ids of one row for the model's own forward: -200 in place of the tokens of a picture."""
    ids = inputs.input_ids[0].tolist()
    for tokens in reversed(inputs.image_tokens):
        first, last = int(tokens.positions[0]), int(tokens.positions[-1])
        assert {ids[at] for at in range(first, last + 1)} == {model.config.image_token_id}
        ids[first : last + 1] = [-200]
    return torch.tensor([ids])


@torch.no_grad()
def test_logits_and_generation_are_those_of_the_models_own_forward(hare, own):
    for images in ([picture(96, 64)], [picture(96, 64), picture(50, 70, seed=1)]):
        inputs = hare.prepare([images], "What?")
        ids, pixels = in_its_own_form(hare, inputs), inputs.tensors["pixel_values"]
        expected = own(ids, images=pixels).logits
        assert torch.equal(hare(inputs), expected)
        assert torch.equal(hare(hare.encode(inputs)), expected)
        torch.testing.assert_close(hare.run_with_hooks(inputs, fwd_hooks=full()), expected, atol=1e-5, rtol=0)
        written = []
        for _ in range(4):
            logits = own(torch.cat([ids, torch.tensor([written], dtype=torch.long)], dim=1), images=pixels).logits
            written.append(int(logits[0, -1].argmax()))
        assert hare.generate(inputs, max_new_tokens=4).tokens[0].tolist() == written
        assert hare.generate(inputs, fwd_hooks=full(function=look), max_new_tokens=4).tokens[0].tolist() == written


@torch.no_grad()
def test_rows_of_different_lengths_are_as_alone(hare, own):
    texts = ["What?", "a longer question"]
    inputs = hare.prepare([picture(96, 64), picture(50, 70, seed=1)], texts)
    logits = hare(inputs)
    for row, image in enumerate((picture(96, 64), picture(50, 70, seed=1))):
        single = hare.prepare(image, texts[row])
        alone = own(in_its_own_form(hare, single), images=single.tensors["pixel_values"]).logits[0]
        torch.testing.assert_close(logits[row, -len(alone) :], alone, atol=2e-5, rtol=0)


@torch.no_grad()
def test_it_is_scored_and_steered(hare):
    assert hare.family.name == "Hare"
    assert hare.capabilities().live == (0, 1, 2, 3)
    scores = gl.score_heads(hare, [STRIP], progress=False)
    inputs, kept = hare.prepare(STRIP, "What?"), {}
    region, (layer, head) = inputs.region("panel 2"), scores.top(1)[0]

    def keep(pattern, hook):
        kept["mass"] = float(pattern[0, head, -1, list(region.positions[0])].sum())

    name = f"blocks.{layer}.attn.hook_pattern"
    hare.run_with_hooks(inputs, fwd_hooks=[*gl.steer(scores.top(1), region), (name, keep)])
    assert kept["mass"] > 0.999


def test_without_the_description_it_is_unknown_and_no_language_model(folder, monkeypatch):
    monkeypatch.setattr(families, "REGISTERED", [])
    with pytest.raises(
        gl.errors.ModelError, match=r"HareForCausalLM is an unknown family; none .* docs/new_family\.md"
    ):
        gl.HookedVLM.from_pretrained(str(folder), **TRUSTED)
