"""`model.generate`: Hugging Face's tokens, under hooks, with what was asked for kept per step."""

import pytest
import torch
from every_family import NAMES
from reference import QWENS, SLIDING, eager, full, padded, picture
from transformers import BatchFeature, GenerationConfig
from transformers.generation.stopping_criteria import MaxLengthCriteria
from transformers.generation.streamers import BaseStreamer

import gaze_lens as gl
from gaze_lens import HeadSet, steer
from gaze_lens.errors import HookError, InputError, RegionError
from gaze_lens.model.generation import Generation

CASES = [*((name, {}) for name in QWENS), ("Qwen2.5-VL", SLIDING)]
OPTIONS = {
    "greedy": {},
    "static": {"cache_implementation": "static"},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 3, "temperature": 1.3},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("name", "text"), CASES)
def test_tokens_are_hugging_faces(shelf, name, text, options):
    model, untouched = shelf.get(name, **text)
    inputs, options = padded(model), {"max_new_tokens": 7, "min_new_tokens": 7, **OPTIONS[options]}
    for reference, hooks in ((untouched, []), (eager(untouched), full())):
        torch.manual_seed(0)
        expected = reference.generate(**inputs.tensors, **{"do_sample": False, **options})
        torch.manual_seed(0)
        generation = model.generate(inputs, fwd_hooks=hooks, **options)
        assert torch.equal(generation.sequences, expected)
    assert torch.equal(generation.tokens, expected[:, inputs.layout.length :])
    assert len(set(expected[:, inputs.layout.length :].flatten().tolist())) > 2, "not one repeated token"


def test_the_record(model):
    inputs = padded(model)
    generation = model.generate(inputs, max_new_tokens=5)
    assert isinstance(generation, Generation)
    assert generation.texts == tuple(model.processor.batch_decode(generation.tokens, skip_special_tokens=True))
    assert str(generation) == "\n".join(generation.texts)
    assert generation.n_steps == generation.tokens.shape[1] == 5
    assert torch.equal(generation.sequences[:, : inputs.layout.length], inputs.input_ids)
    assert generation.activations == {}
    assert generation.unreached == ()
    record = model.generate(inputs, max_new_tokens=5, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(record.sequences, generation.sequences)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_activations_are_kept_per_step(model, options):
    inputs = padded(model)
    names = ["blocks.1.attn.hook_pattern", "blocks.2.hook_resid_post", "unembed.hook_out"]
    generation = model.generate(inputs, names_filter=names, max_new_tokens=4, min_new_tokens=4, **options)
    rows, length = 2 * options.get("num_beams", 1), inputs.layout.length
    kept = generation.activations
    assert set(kept) == set(names)
    assert [tuple(t.shape) for t in kept[names[0]]] == [(rows, 4, length, length)] + [
        (rows, 4, 1, length + step) for step in (1, 2, 3)
    ]
    assert [t.shape[1] for t in kept[names[1]]] == [length, 1, 1, 1]
    if not options:
        steps = torch.stack([logits[:, -1].argmax(-1) for logits in kept["unembed.hook_out"]], 1)
        assert torch.equal(steps, generation.tokens)
        _, cache = model.run_with_cache(inputs, names_filter=names[0])
        assert torch.equal(kept[names[0]][0], cache[names[0]])


def test_kept_activations_are_of_the_edited_run(model):
    inputs, name = padded(model), "blocks.1.attn.hook_pattern"
    hooks = [(name, lambda pattern, hook: pattern * 0)]
    kept = model.generate(inputs, fwd_hooks=hooks, names_filter=name, max_new_tokens=3).activations[name]
    assert all(pattern.abs().max() == 0 for pattern in kept)
    with model.hooks(hooks):
        inside = model.generate(inputs, max_new_tokens=3)
    assert torch.equal(inside.tokens, model.generate(inputs, fwd_hooks=hooks, max_new_tokens=3).tokens)


def test_how_long_and_how_to_choose_can_be_said_in_every_way(model):
    inputs = model.prepare(picture(64, 64), "Hi")
    length, greedy = inputs.layout.length, model.generate(inputs, max_new_tokens=6, min_new_tokens=6)
    assert model.generate(inputs, max_length=length + 3, min_length=length + 3).n_steps == 3
    sampling = GenerationConfig(max_new_tokens=6, min_new_tokens=6, do_sample=True, temperature=3.0)
    torch.manual_seed(0)
    sampled = model.generate(inputs, generation_config=sampling)
    assert sampled.n_steps == 6
    assert sampled.tokens.tolist() != greedy.tokens.tolist()
    assert model.generate(inputs, generation_config=sampling, max_new_tokens=2, min_new_tokens=0).n_steps == 2
    endless = {"suppress_tokens": [model.processor.tokenizer.eos_token_id]}
    assert model.generate(inputs, **endless).n_steps == 64
    assert model.generate(inputs, generation_config=GenerationConfig(do_sample=False), **endless).n_steps == 64
    to_ten = GenerationConfig(max_length=length + 10)
    assert model.generate(inputs, generation_config=to_ten, **endless).n_steps == 10


def test_a_streamer_sees_the_tokens(model):
    inputs, seen = model.prepare(picture(64, 64), "Hi"), []

    class Streamer(BaseStreamer):
        def put(self, value):
            seen.extend(value.flatten().tolist())

        def end(self):
            seen.append("end")

    generation = model.generate(inputs, streamer=Streamer(), max_new_tokens=4)
    assert seen == [*generation.sequences[0].tolist(), "end"]


@pytest.mark.parametrize("length", [2.5, 0, -1, "5", True, [3], float("inf")])
def test_a_length_that_is_no_number_of_tokens_is_refused(model, as_users_run, length):
    inputs = padded(model)
    for name in ("max_new_tokens", "max_length"):
        with pytest.raises(InputError, match=rf"{name}=.* was given; give a whole number of tokens, 1 or more"):
            model.generate(inputs, **{name: length})
    with pytest.raises(InputError):
        gl.track(model, inputs, ["L1H0"], max_new_tokens=length)
    with pytest.raises(InputError):
        gl.evaluation.question(max_new_tokens=length)


def test_one_misspelt_name_among_others_is_refused(model):
    inputs, names = padded(model), ["blocks.1.hook_resid_pre", "blocks.1.atn.hook_pattern"]
    message = "'blocks.1.atn.hook_pattern' matches no hook point; did you mean 'blocks.1.attn.hook_pattern'"
    for run in (
        lambda names: model.generate(inputs, names_filter=names, max_new_tokens=1),
        lambda names: model.run_with_cache(inputs, names_filter=names),
        lambda names: model.get_caching_hooks(names),
    ):
        for refused in (names, names[1:], names[1]):
            with pytest.raises(HookError, match=message) as caught:
                run(refused)
            assert isinstance(caught.value, KeyError)
        for refused in (7, ("blocks.1.hook_resid_pre",), [7]):
            with pytest.raises(HookError, match="give a hook name, a list of them, or a function"):
                run(refused)
    _, cache = model.run_with_cache(inputs, names_filter=["blocks.1.hook_resid_pre", "blocks.1.hook_in"])
    assert set(cache) >= {"blocks.1.hook_in"}


def test_what_cannot_be_kept_is_refused(model):
    inputs = padded(model)
    with pytest.raises(HookError, match="'blocks.9.nothing' matches no hook point.*model.hook_dict"):
        model.generate(inputs, names_filter="blocks.9.nothing")
    with pytest.raises(HookError, match=r"call model.set_use_attn_result\(True\) first"):
        model.generate(inputs, names_filter="blocks.1.attn.hook_result")
    with pytest.raises(InputError, match="output_attentions is not served"):
        model.generate(inputs, output_attentions=True)
    with pytest.raises(KeyError, match="blocks.9"):
        model.generate(inputs, fwd_hooks=[("blocks.9.hook_resid_pre", lambda tensor, hook: None)])


def test_transformer_lens_own_ways_to_generate_are_out_of_reach(model):
    inputs = padded(model)
    for way in (model.generate_stream, model.hf_generate):
        with pytest.raises(InputError, match="model.generate"):
            way(inputs)


TEXTS = ["Once upon a time", "What?"]


@pytest.fixture(params=NAMES)
def family(request, shelf):
    return shelf.get(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_text_is_continued_as_hugging_face_continues_it(shelf, name):
    model, untouched = shelf.get(name)
    rows = [model.to_tokens(text)[0].tolist() for text in TEXTS]  # with BOS where TransformerLens puts it
    missing = [max(map(len, rows)) - len(row) for row in rows]
    batch = {
        "input_ids": torch.tensor(
            [[model.tokenizer.pad_token_id] * n + row for n, row in zip(missing, rows, strict=True)]
        ),
        "attention_mask": torch.tensor([[0] * n + [1] * len(row) for n, row in zip(missing, rows, strict=True)]),
    }
    options = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5}
    expected = untouched.generate(**batch, **options)
    assert torch.equal(model.generate(TEXTS, 5, min_new_tokens=5).sequences, expected)
    assert torch.equal(model.generate(batch, 5, min_new_tokens=5).sequences, expected)
    alone = torch.tensor(rows[0])
    with torch.no_grad():
        logits = untouched(input_ids=alone[None], attention_mask=torch.ones_like(alone[None])).logits
        assert (model(alone[None]) - logits).abs().max() < 1e-4
    expected = untouched.generate(input_ids=alone[None], attention_mask=torch.ones_like(alone[None]), **options)
    for given in (TEXTS[0], alone, alone[None]):
        generation = model.generate(given, 5, min_new_tokens=5)
        assert torch.equal(generation.sequences, expected)
        assert torch.equal(generation.tokens, expected[:, -5:])


def test_a_processors_batch_is_continued(family):
    model, _ = family
    inputs = padded(model)
    for given in (inputs, model.encode(inputs)):
        expected = model.generate(inputs, 4, min_new_tokens=4).sequences
        assert torch.equal(model.generate(**given, max_new_tokens=4, min_new_tokens=4).sequences, expected)
        assert torch.equal(model.generate(BatchFeature(dict(given)), 4, min_new_tokens=4).sequences, expected)


def test_a_chat_template_makes_text_a_users_turn(model):
    expected = model.generate(model.prepare(None, TEXTS), 5, min_new_tokens=5)
    chat = model.generate(TEXTS, 5, min_new_tokens=5, chat_template=True)
    assert torch.equal(chat.sequences, expected.sequences)
    for text in ("Hi", ["Hi"]):
        one = model.generate(text, 5, min_new_tokens=5, chat_template=True)
        assert torch.equal(one.sequences, model.generate(model.prepare(None, "Hi"), 5, min_new_tokens=5).sequences)
    with pytest.raises(InputError, match="chat_template= and prepend_bos= are for text"):
        model.generate(model.prepare(None, "Hi"), chat_template=True)
    with pytest.raises(InputError, match="leave out prepend_bos="):
        model.generate("Hi", chat_template=True, prepend_bos=True)


def test_results_as_transformer_lens_returns_them(model):
    inputs, tokenizer = padded(model), model.tokenizer
    generation = model.generate(inputs, 4)
    for kind in ("tokens", "input"):
        assert torch.equal(model.generate(inputs, 4, return_type=kind), generation.sequences)
    decoded = tokenizer.batch_decode(generation.sequences, skip_special_tokens=True)
    assert model.generate(inputs, 4, return_type="str") == decoded
    continued = model.generate("What?", 4)
    for kind in ("str", "input"):
        assert model.generate("What?", 4, return_type=kind, verbose=False) == "What?" + str(continued)
        assert model.generate(["What?"], 4, return_type=kind) == "What?" + str(continued)
        assert len(model.generate(TEXTS, 4, return_type=kind)) == 2
    logits = model.generate("What?", 4, output_logits=True)
    assert torch.equal(torch.stack([step.argmax(-1) for step in logits.logits], 1), logits.tokens)
    assert generation.logits is None
    with pytest.raises(InputError, match="return_type='text' was given; give 'tokens', 'str', 'input'"):
        model.generate(inputs, return_type="text")
    with pytest.raises(InputError, match="output_logits=True puts logits into the Generation"):
        model.generate(inputs, return_type="str", output_logits=True)


def test_arguments_of_transformer_lens(model):
    ids = model.generate("What?", 6, min_new_tokens=6, stop_at_eos=False).tokens[0].tolist()
    stop = ids[2]
    assert model.generate("What?", 6, eos_token_id=stop).tokens[0].tolist() == ids[: ids.index(stop) + 1]
    assert model.generate("What?", 6, eos_token_id=stop, stop_at_eos=False).tokens[0].tolist() == ids
    text = model.tokenizer.decode(ids[:2])
    assert model.generate("What?", 6, stop_strings=text).n_steps == 2
    criteria = MaxLengthCriteria(model.to_tokens("What?").shape[1] + 3)
    assert model.generate("What?", 6, stop_strings=[]).tokens[0].tolist() == ids
    for given in (criteria, [criteria]):
        assert model.generate("What?", 6, min_new_tokens=6, stopping_criteria=given).n_steps == 3
    uncached = model.generate("What?", 6, min_new_tokens=6, use_past_kv_cache=False)
    assert uncached.tokens[0].tolist() == ids
    assert model.generate(input="What?", max_new_tokens=6, temperature=0).tokens[0].tolist() == ids
    nothing = {"freq_penalty": 0.0, "return_cache": False, "return_input_tokens": False, "device": None,
               "padding_side": "left", "forced_bos_token_id": None}  # fmt: skip
    assert model.generate("What?", 6, **nothing).tokens[0].tolist() == ids
    refused = {"freq_penalty": 1.0, "return_cache": True, "return_input_tokens": True, "device": "cpu",
               "padding_side": "right", "forced_bos_token_id": 1, "temperature": 0.7, "top_k": 5,
               "top_p": 0.9}  # fmt: skip
    for name, value in refused.items():
        with pytest.raises(InputError, match=f"{name}={value!r} (is not served|acts on sampling)"):
            model.generate("What?", **{name: value})


def test_what_cannot_be_continued_is_refused(model, tmp_path):
    for given, message in (
        ([1, 2], "a list of texts, or token ids .*, not list"),
        (torch.zeros(1, 3), "not Tensor"),
        (picture(32, 32), "the model runs on what model.prepare"),
        ("", "has no token to go on from"),
        (padded(model).input_ids, "no image came with them"),
        (f"{model.tokenizer.decode(model.config.image_token_id)} Hi", "no image came with them"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(given)
    with pytest.raises(InputError, match="no image came with them"):
        model(f"{model.tokenizer.decode(model.config.image_token_id)} Hi")
    ids = model.to_tokens("What?")
    for options, message in (
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask is \(1, 3\), and the prompt \(1, 5\)"),
        ({"padding_side": "left"}, "padding_side= is for text"),
        ({"stopping_criteria": 3}, "stopping_criteria holds 3; give a StoppingCriteria"),
    ):
        with pytest.raises(InputError, match=message):
            model.generate(ids, **options)
    inputs = padded(model)
    hooks = steer(HeadSet([(1, 0)]), inputs.region((0, 0, 32, 32), image=0))
    with pytest.raises(RegionError, match="raw tokens are being run"):
        model.generate(**inputs, fwd_hooks=hooks)
