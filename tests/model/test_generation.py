"""`model.generate`: Hugging Face's tokens, under hooks, with what was asked for kept per step."""

import pytest
import torch
from reference import QWENS, SLIDING, eager, full, padded, picture
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from gaze_lens.errors import HookError, InputError
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
