"""A second turn on the cache of the first: what the whole conversation gives, without running it again."""

import pytest
import torch
from reference import picture, tower_runs
from transformers import DynamicCache

import gaze_lens as gl
from gaze_lens import testing
from gaze_lens.errors import InputError
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.show.interactive.recording import record

STEPS = {"max_new_tokens": 4, "min_new_tokens": 4}
PALIGEMMA = ("PaliGemma", "PaliGemma 2")
THOUGHTS = ("Qwen3.5", "Qwen3.5-MoE")  # their template writes thoughts, here none, into the last turn alone
CHAT = [name for name in testing.BUILDERS if name not in PALIGEMMA + THOUGHTS]
FIRST = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
TURNS = [
    *FIRST,
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
]


def strip():
    return Picture(picture(96, 64), panels(2, 96, 64))


def new_cache(model):
    return DynamicCache(config=model.config.get_text_config())


def after_first(model, pictures=None, first=FIRST, encoded=False):
    """A cache that holds the first turn."""
    cache, inputs = new_cache(model), model.prepare(pictures or strip(), first)
    model.generate(model.encode(inputs) if encoded else inputs, max_new_tokens=1, past_key_values=cache)
    return cache


@pytest.mark.parametrize("family", CHAT)
def test_the_second_turn_is_that_of_the_whole_conversation(shelf, family):
    model, plain = shelf.get(family)
    inputs = model.prepare(strip(), TURNS)
    expected = plain.generate(**inputs.tensors, **STEPS, do_sample=False)
    for encoded in (False, True):
        cache = after_first(model, encoded=encoded)
        held = cache.get_seq_length(model.attention_backend.first)
        assert 0 < held < inputs.layout.length
        given = model.encode(inputs) if encoded else inputs
        ran = []
        watch = [("hook_embed", lambda embedded, hook, ran=ran: ran.append(embedded.shape[1]))]
        generation = model.generate(given, fwd_hooks=watch, past_key_values=cache, **STEPS)
        assert torch.equal(generation.sequences, expected)
        assert ran[0] == inputs.layout.length - held, "only what the cache does not hold"


@pytest.mark.parametrize("family", THOUGHTS)
def test_a_first_turn_that_reads_otherwise_in_the_whole_conversation_is_refused(shelf, family):
    model, _ = shelf.get(family)
    with pytest.raises(InputError, match="only the first .* of the inputs are the same"):
        model.generate(model.prepare(strip(), TURNS), past_key_values=after_first(model), **STEPS)


def test_no_picture_is_run_again(model):
    cache, inputs = after_first(model), model.prepare(strip(), TURNS)
    with tower_runs(model) as runs:
        model.generate(inputs, past_key_values=cache, **STEPS)
    assert not runs


def test_an_answer_of_the_model_is_gone_on_from(model):
    cache = new_cache(model)
    first = model.generate(model.prepare(strip(), FIRST), past_key_values=cache, **STEPS)
    answer = first.tokens[0].tolist()
    ids = first.sequences[0].tolist()
    inputs = model.prepare(strip(), FIRST, answers=[[*answer, *model.tokenizer("then?")["input_ids"]]])
    assert inputs.input_ids[0].tolist()[: len(ids)] == ids
    expected = model.generate(inputs, **STEPS).sequences
    assert torch.equal(model.generate(inputs, past_key_values=cache, **STEPS).sequences, expected)


@pytest.mark.parametrize("family", ["Qwen3-VL", "LLaVA", "Mllama", "Cohere2Vision"])  # the last has sliding layers
def test_steering_and_tracking_are_those_of_the_whole_conversation(shelf, family):
    model, _ = shelf.get(family)
    inputs = model.prepare(strip(), TURNS)
    heads = ["L3H0", "L3H2"]
    steering = gl.steer(heads, inputs.region("panel 2"), where=["decode"])
    whole = gl.track(model, inputs, heads, fwd_hooks=steering, **STEPS)
    second = gl.track(model, inputs, heads, fwd_hooks=steering, past_key_values=after_first(model), **STEPS)
    assert torch.equal(second.generation.sequences, whole.generation.sequences)
    torch.testing.assert_close(second.mass, whole.mass, atol=1e-5, rtol=1e-4)
    unsteered = gl.track(model, inputs, heads, **STEPS)
    assert (unsteered.mass - whole.mass).abs().max() > 0.01


def test_value_vectors_that_a_cache_holds_are_not_guessed(model):
    inputs = model.prepare(strip(), TURNS)
    with pytest.raises(InputError, match="The length of value vectors is read as the prompt is run"):
        gl.track(model, inputs, ["L1H0"], weighted=True, past_key_values=after_first(model), **STEPS)
    with pytest.raises(InputError, match="What a recording shows is read as the prompt is run"):
        record(model, inputs, ["L1H0"], past_key_values=after_first(model), **STEPS)
    gl.track(model, inputs, ["L1H0"], weighted=True, past_key_values=new_cache(model), **STEPS)


def test_rows_go_on_where_padding_is_alike(model):
    pictures = [strip(), strip()]
    cache = after_first(model, pictures, [FIRST, FIRST])
    inputs = model.prepare(pictures, [TURNS, TURNS])
    expected = model.generate(inputs, **STEPS).sequences
    assert torch.equal(model.generate(inputs, past_key_values=cache, **STEPS).sequences, expected)
    longer = [*TURNS[:-1], {"role": "user", "content": [{"type": "text", "text": "And now, and then?"}]}]
    with pytest.raises(InputError, match=r"only the first 0 of the inputs are the same.*padded in the same way"):
        model.generate(
            model.prepare(pictures, [TURNS, longer]), past_key_values=after_first(model, pictures, [FIRST] * 2)
        )


def test_a_new_picture_in_the_second_turn(model):
    asked = [{"role": "user", "content": [{"type": "text", "text": "Ready?"}]}, TURNS[1]]
    cache = new_cache(model)
    model.generate(model.prepare(None, asked[:1]), max_new_tokens=1, past_key_values=cache)
    inputs = model.prepare(strip(), [*asked, *FIRST])
    expected = model.generate(inputs, **STEPS).sequences
    assert torch.equal(model.generate(inputs, past_key_values=cache, **STEPS).sequences, expected)
    both = model.prepare([[strip(), strip()]], [*TURNS[:2], *FIRST])
    with pytest.raises(InputError, match="some of the inputs' image tokens, and not all"):
        model.generate(both, past_key_values=after_first(model))


def test_what_does_not_go_on_from_a_cache_is_refused(model):
    inputs = model.prepare(strip(), TURNS)
    cache = after_first(model)
    held = cache.get_seq_length()
    with pytest.raises(InputError, match=f"holds {held} tokens, and the inputs have {held}; give the whole conv"):
        model.generate(model.prepare(strip(), FIRST), past_key_values=cache)
    other = [{**FIRST[0], "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]}, *TURNS[1:]]
    with pytest.raises(InputError, match=r"only the first \d+ of the inputs are the same.*cache.crop\(-\d+\)"):
        model.generate(model.prepare(strip(), other), past_key_values=cache)
    with pytest.raises(InputError, match="model.generate goes on from it"):
        model(inputs, past_key_values=cache)
    assert model(inputs, past_key_values=new_cache(model)).shape[1] == inputs.layout.length


@pytest.mark.parametrize("family", PALIGEMMA)
def test_a_family_whose_image_reads_the_question_does_not_go_on(shelf, family):
    model, _ = shelf.get(family)
    cache = new_cache(model)
    model.generate(model.prepare(strip(), "What"), max_new_tokens=1, past_key_values=cache)
    with pytest.raises(InputError, match="cannot go on from a cache .*: image tokens read the question"):
        model.generate(model.prepare(strip(), "What is this?"), past_key_values=cache)


def test_other_pictures_of_cross_attention_are_refused(shelf):
    model, _ = shelf.get("Mllama")
    both = model.prepare([[strip(), strip()]], [*TURNS[:2], *FIRST])
    with pytest.raises(InputError, match=r"holds 68 image keys, and the inputs' images have 136"):
        model.generate(both, past_key_values=after_first(model))
