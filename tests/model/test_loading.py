"""Checkpoints from folders: sound ones give the model that was saved, damaged ones say what is wrong."""

import copy
import json
import os
import pickle
import shutil

import pytest
import torch
from reference import QWENS, full, padded, picture
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from gaze_lens import HookedVLM, testing
from gaze_lens.errors import InputError, ModelError
from gaze_lens.model import checkpoint_checks, loading


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder as Hugging Face writes it."""
    folder = tmp_path_factory.mktemp("sound") / "checkpoint"
    model, processor = testing.tiny("Qwen3-VL", num_hidden_layers=2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(sound, tmp_path / "checkpoint")


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("where", ["device", "device_map"])
@pytest.mark.parametrize("device", ["cuda", "cuda:31", "cuda:one", "gpu", "xpu"])
def test_a_device_that_is_not_here_is_refused_before_anything_is_read(folder, monkeypatch, where, device):
    if device in ("cuda", "xpu") and getattr(torch, device).is_available():
        pytest.skip("it is here")
    monkeypatch.setattr(loading, "_config", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(
        ModelError, match=rf"The device '{device}' was given, and PyTorch cannot use it here \(.+\); give"
    ):
        HookedVLM.from_pretrained(str(folder), **{where: device})


def test_weights_that_cannot_be_unpickled(folder):
    (folder / "model.safetensors").unlink()
    for content in (b"no pickle", b"", b"PK\x03\x04 no archive", pickle.dumps(os.system), pickle.dumps({"a": 1})[:-3]):
        (folder / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ModelError, match="checkpoint cannot be loaded: "):
            HookedVLM.from_pretrained(str(folder))


@pytest.mark.parametrize("read", ["load", "skeleton"])
def test_custom_code_is_never_asked_about_on_standard_input(folder, monkeypatch, read):
    """Hugging Face would ask, and wait, where `trust_remote_code` is not given."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    edit_config(folder, model_type="our_own", auto_map={"AutoConfig": "code.OurConfig", "AutoModel": "code.Our"})
    (folder / "code.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(ModelError, match=r"contains custom code.* run only with .*trust_remote_code=True"):
        HookedVLM.from_pretrained(str(folder)) if read == "load" else loading.skeleton(str(folder))


TEMPLATES = {
    "a syntax error": "{% if %}",
    "a division": "{{ 1 / 0 }}",
    "an unknown name": "{{ messages.nothing.there }}",
    "an unknown method": "{{ messages[0].content.nothing() }}",
    "an index": "{{ messages[99].content }}",
    "a refusal": "{{ raise_exception('only one turn') }}",
    "a number": "{{ 'x' | int('y') + messages }}",
    "endless": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_fails_is_named(shelf, monkeypatch, template):
    model, _ = shelf.get("Qwen3-VL")
    monkeypatch.setattr(model.processor, "chat_template", template)
    with pytest.raises(InputError, match="The prompt cannot be written: the model's chat template refused"):
        model.prepare(picture(96, 64), "x")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"device": "cpu"},
        {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"device": torch.device("cpu"), "dtype": "float32", "revision": "main"},
        {"attn_implementation": "eager", "token": "none", "local_files_only": True},
    ],
    ids=str,
)
@torch.no_grad()
def test_a_folder_gives_the_model_that_was_saved(sound, options):
    expected, _ = testing.tiny("Qwen3-VL", num_hidden_layers=2)
    model = HookedVLM.from_pretrained(str(sound), **options)
    assert not model.training
    inputs = padded(model)
    logits = model.run_with_hooks(inputs, fwd_hooks=full(range(2)))
    everywhere = options.get("attn_implementation")
    expected.set_attn_implementation(everywhere or {"text_config": "eager"})
    real = inputs.tensors["attention_mask"].bool()
    assert torch.equal(logits[real], expected(**inputs.tensors).logits[real])
    assert model.cfg.model_name == sound.name, "files of heads name no place of this machine"


@torch.no_grad()
def test_a_precision_can_be_asked_for(sound):
    model = HookedVLM.from_pretrained(sound.as_posix(), dtype="bfloat16")
    assert model(model.prepare(picture(64, 64), "Hi")).dtype == torch.bfloat16
    model = HookedVLM.from_pretrained(sound.as_posix(), dtype=torch.float16)
    assert model(model.prepare(picture(64, 64), "Hi")).dtype == torch.float16


@pytest.mark.parametrize("name", QWENS)
@torch.no_grad()
def test_a_wrapped_model_can_be_saved(shelf, name, tmp_path):
    model, untouched = shelf.get(name)
    model.save_pretrained(tmp_path / "ours")
    untouched.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    loaded = HookedVLM.from_pretrained(str(tmp_path / "ours"))
    inputs = padded(model)
    assert torch.equal(loaded(inputs), model(inputs))
    assert loaded.config.text_config._attn_implementation == model.config.text_config._attn_implementation


@torch.no_grad()
def test_tied_embeddings_survive_saving(tmp_path):
    untouched, processor = testing.tiny("Qwen3-VL", num_hidden_layers=1)
    untouched.config.tie_word_embeddings = untouched.config.text_config.tie_word_embeddings = True
    untouched.lm_head.weight = untouched.model.language_model.embed_tokens.weight
    model = HookedVLM.wrap(untouched, processor)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    inputs = padded(model)
    assert torch.equal(HookedVLM.from_pretrained(str(tmp_path))(inputs), model(inputs))


DAMAGES = {
    "lacks 1 weights .*layers.1.mlp.up_proj.weight.*random": lambda folder: edit_weights(
        folder, lambda weights: weights.pop("model.language_model.layers.1.mlp.up_proj.weight")
    ),
    "cannot be loaded: .*mismatched_sizes": lambda folder: edit_weights(
        folder, lambda weights: weights.update({"lm_head.weight": torch.zeros(7, 64)})
    ),
    "cannot be loaded: .*deserializing": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:3000]
    ),
    "cannot be loaded: .*no file named model.safetensors": lambda folder: (folder / "model.safetensors").unlink(),
    "no processor": lambda folder: (folder / "processor_config.json").unlink(),
    "without a chat template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "not a valid JSON": lambda folder: (folder / "config.json").write_text("{"),
    "no model that .* can load .config.json.: .*nonsense": lambda folder: edit_config(folder, model_type="nonsense"),
    "NonsenseForImages is an unknown family.*Qwen3VLForConditionalGeneration": lambda folder: edit_config(
        folder, architectures=["NonsenseForImages"]
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_folder_says_what_is_wrong(folder, message):
    DAMAGES[message](folder)
    with pytest.raises(ModelError, match=f"(?s){message}") as caught:
        HookedVLM.from_pretrained(str(folder))
    assert str(folder) in str(caught.value) or "unknown family" in message


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_are_not_finite_are_found_when_they_are_first_used(folder, value, dtype):
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    edit_weights(folder, lambda weights: weights[name][3, 4].fill_(value))
    model = HookedVLM.from_pretrained(str(folder), dtype=dtype)
    inputs = model.prepare(picture(64, 64), "Hi")
    for run in (model, model.run_with_cache, model.generate, model.original_model.generate):
        with pytest.raises(ModelError, match=rf"The weight {name} holds NaN or infinity"):
            run(**inputs.tensors) if run == model.original_model.generate else run(inputs)


def test_loading_reads_no_weights_and_takes_no_memory_for_a_check(sound, monkeypatch):
    checked = []
    monkeypatch.setattr(checkpoint_checks, "check_weights", checked.append)
    model = HookedVLM.from_pretrained(str(sound))
    assert checked == []
    inputs = model.prepare(picture(64, 64), "Hi")
    model(inputs)
    model(inputs)
    assert checked == [model.original_model]


def test_models_that_cannot_be_wrapped(sound, tmp_path):
    with pytest.raises(ModelError, match="Both device and device_map"):
        HookedVLM.from_pretrained(str(sound), device="cpu", device_map="cpu")
    with pytest.raises(ModelError, match="nowhere"):
        HookedVLM.from_pretrained(str(tmp_path / "nowhere"))
    text_only = LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
    text_only.architectures = ["LlamaForCausalLM"]
    text_only.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no tokenizer that Hugging Face can load"):
        HookedVLM.from_pretrained(str(tmp_path))
    processor = testing.tiny("Qwen3-VL", num_hidden_layers=1)[1]
    text_only.architectures = ["GPTJForCausalLM"]
    with pytest.raises(ModelError, match=r"GPTJForCausalLM is a language model .* unknown one; known are Llama"):
        HookedVLM.wrap(LlamaForCausalLM(text_only), processor)
    stranger, _ = testing.tiny("Qwen3-VL", num_hidden_layers=1)
    stranger.config.architectures = ["NewVLForConditionalGeneration"]
    with pytest.raises(ModelError, match="unknown family"):
        HookedVLM.wrap(stranger, processor)


def test_a_model_is_wrapped_once_and_not_half(shelf):
    model, untouched = shelf.get("Qwen3-VL")
    with pytest.raises(ModelError, match="wrapped already"):
        HookedVLM.wrap(model.original_model, model.processor)
    broken = copy.deepcopy(untouched)
    with pytest.raises(ModelError, match=r"has no tokenizer"):
        HookedVLM.wrap(broken, None)
    inputs = padded(model)
    assert torch.equal(HookedVLM.wrap(broken, model.processor)(inputs), model(inputs))
