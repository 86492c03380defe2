"""`gl.steering`: Hugging Face's own generate, pipelines and streamers under hooks."""

import threading

import pytest
import torch
from reference import padded, picture
from transformers import TextIteratorStreamer, pipeline

import gaze_lens as gl
from gaze_lens.errors import HookError, ModelError, RegionError

HEADS = ["L1H0", "L1H3", "L2H2"]
STEPS = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
KINDS = {"bias": {}, "mass": {"mass": 0.9}, "when": {"mass": 0.9, "when": lambda logits: logits is not None}}


@pytest.fixture(scope="module")
def model(shelf):
    return shelf.get("Qwen3-VL")[0]


@pytest.fixture(scope="module")
def batch(model):
    return padded(model)


def hooks_for(inputs, **options):
    return gl.steer(HEADS, inputs.region([(0, 0, 32, 64)] * inputs.n_rows, image=0), **options)


def arguments(inputs):
    return {"input_ids": inputs.input_ids, **inputs.arguments()}


@pytest.mark.parametrize("kind", KINDS)
def test_generate_of_hugging_face_writes_what_ours_writes(model, batch, kind):
    hooks = hooks_for(batch, **KINDS[kind])
    expected = model.generate(batch, fwd_hooks=hooks, **STEPS)
    plain = model.original_model.generate(**arguments(batch), **STEPS)
    with gl.steering(model, hooks) as same:
        assert same is model
        found = model.original_model.generate(**arguments(batch), **STEPS)
        again = model.original_model.generate(**arguments(batch), cache_implementation="static", **STEPS)
        assert torch.equal(model.generate(batch, **STEPS).sequences, expected.sequences)
    assert torch.equal(found, expected.sequences)
    assert torch.equal(again, expected.sequences)
    assert not torch.equal(found, plain)
    assert torch.equal(model.original_model.generate(**arguments(batch), **STEPS), plain)
    assert model.attention_backend.layout is None


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_beams_and_return_sequences_keep_the_target_of_their_row(model, batch, options):
    hooks = hooks_for(batch, mass=0.9)
    torch.manual_seed(0)
    expected = model.generate(batch, fwd_hooks=hooks, **{**STEPS, **options})
    torch.manual_seed(0)
    with gl.steering(model, hooks):
        found = model.original_model.generate(**arguments(batch), **{**STEPS, **options})
    assert torch.equal(found, expected.sequences)


def test_a_condition_and_beams_are_refused(model, batch):
    hooks = hooks_for(batch, when=lambda logits: logits is not None)
    with pytest.raises(HookError, match="beam search and the like reorder rows"), gl.steering(model, hooks):
        model.original_model.generate(**arguments(batch), **{**STEPS, "num_beams": 2})


def test_drafts_beside_the_prompt_are_refused(model):
    inputs = model.prepare(picture(64, 64), "What?")
    options = {"max_new_tokens": 12, "do_sample": False, "prompt_lookup_num_tokens": 2}
    with pytest.raises(RegionError, match="without draft tokens"), gl.steering(model, hooks_for(inputs, mass=0.9)):
        model.original_model.generate(**arguments(inputs), **options)


def test_a_streamer_in_another_thread_is_steered(model):
    inputs = model.prepare(picture(64, 64), "What?")
    hooks = hooks_for(inputs)
    expected = model.generate(inputs, fwd_hooks=hooks, **STEPS)
    streamer = TextIteratorStreamer(model.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {**arguments(inputs), **STEPS, "streamer": streamer}
    with gl.steering(model, hooks):
        thread = threading.Thread(target=model.original_model.generate, kwargs=options)
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert text == str(expected)


def test_the_block_ends_after_the_run_of_another_thread(model):
    """A run that has begun keeps its hooks: the block waits for it."""
    inputs = model.prepare(picture(64, 64), "What?")
    hooks, results, begun = hooks_for(inputs), [], threading.Event()
    expected = model.generate(inputs, fwd_hooks=hooks, **STEPS).sequences

    class Begin:
        def put(self, _ids):
            begun.set()

        def end(self):
            pass

    def run():
        results.append(model.original_model.generate(**arguments(inputs), **STEPS, streamer=Begin()))

    with gl.steering(model, hooks):
        thread = threading.Thread(target=run)
        thread.start()
        begun.wait(60)
    thread.join()
    assert torch.equal(results[0], expected)


def test_a_pipeline_is_steered(model):
    image, question = picture(64, 64), "What?"
    inputs = model.prepare(image, question)
    hooks = hooks_for(inputs)
    expected = model.generate(inputs, fwd_hooks=hooks, **STEPS)
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    pipe = pipeline("image-text-to-text", model=model.original_model, processor=model.processor)
    options = {"return_full_text": False, "generate_kwargs": STEPS}
    with gl.steering(model, hooks):
        (answer,) = pipe(text=[{"role": "user", "content": content}], **options)
    assert answer["generated_text"] == str(expected)


def test_other_prompts_are_refused(model, batch):
    hooks = hooks_for(batch)
    longer = model.prepare([picture(96, 64), [picture(64, 64), picture(96, 64)]], ["What?", "a longer question here"])
    with pytest.raises(RegionError, match=r"2 rows x \d+ positions is run"), gl.steering(model, hooks):
        model.original_model.generate(**arguments(longer), **STEPS)
    swapped = model.prepare([picture(96, 64), [picture(96, 64), picture(64, 64)]], ["What?", "a longer question"])
    with pytest.raises(RegionError, match="row 1 has 10 image tokens, or at other places"), gl.steering(model, hooks):
        model.original_model(**arguments(swapped))
    turned = {**arguments(batch), "attention_mask": batch.tensors["attention_mask"].flip(0)}
    with pytest.raises(RegionError, match="row 0 is padded in another way"), gl.steering(model, hooks):
        model.original_model(**turned)
    with pytest.raises(RegionError), gl.steering(model, hooks):
        model.generate("a text", max_new_tokens=2)
    one = model.prepare(picture(64, 64), "What?")
    with pytest.raises(RegionError, match="for different prompts"), gl.steering(model, hooks + hooks_for(one)):
        pass
    assert model.attention_backend.layout is None


def test_a_block_in_which_nothing_acted(model, batch):
    with pytest.raises(HookError, match="did nothing in layers"), gl.steering(model, hooks_for(batch)):
        pass
    with pytest.raises(ModelError, match="takes a HookedVLM"), gl.steering(model.original_model, hooks_for(batch)):
        pass
    with pytest.raises(HookError, match="expected"), gl.steering(model, [3]):
        pass


def test_hooks_without_a_layout_take_any_prompt(model, batch):
    bias = gl.AttentionBias(gl.HeadSet(HEADS), gl.Positions.everything(), gl.Positions.of([12, 13]), 30.0)
    expected = model.generate(batch, fwd_hooks=bias.hooks(), **STEPS)
    with gl.steering(model, bias.hooks()):
        assert torch.equal(model.original_model.generate(**arguments(batch), **STEPS), expected.sequences)
