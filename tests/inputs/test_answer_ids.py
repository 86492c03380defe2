"""Answers as token ids give the inputs that their texts give, and those of tokens that no text makes."""

import pytest
import torch
from reference import picture

from gaze_lens import testing
from gaze_lens.errors import InputError, ModelError
from gaze_lens.inputs.answer_ids import appended

PROMPTS, ANSWERS = ["What?", "And what is this one?"], ["a red dog", "a cat."]
ALONE = ("PaliGemma", "PaliGemma 2")  # their processors take answers as text


def tokens(model, texts):
    return [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.mark.parametrize("family", list(testing.BUILDERS))
@torch.no_grad()
def test_ids_are_as_good_as_their_text(shelf, family):
    model, _ = shelf.get(family)
    image = picture(96, 64)
    expected = model.prepare(image, PROMPTS, answers=ANSWERS)
    starts = expected.answers
    ids = [row[start:].tolist() for row, start in zip(expected.input_ids, starts, strict=True)]
    if model.tokenizer("a").input_ids[-2:-1] != model.tokenizer(" ").input_ids[-1:]:  # no space is put before texts
        assert ids == tokens(model, ANSWERS)
    for given in (ids, [torch.tensor(row) for row in ids]):
        found = model.prepare(image, PROMPTS, answers=given)
        assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
            name: tensor.tolist() for name, tensor in expected.tensors.items()
        }
        assert {name: tensor.dtype for name, tensor in found.tensors.items()} == {
            name: tensor.dtype for name, tensor in expected.tensors.items()
        }
        assert (found.layout, found.answers, found.prompts) == (expected.layout, expected.answers, expected.prompts)
    assert torch.equal(model(found), model(expected))


@pytest.mark.parametrize("family", [name for name in testing.BUILDERS if name not in ALONE])
@torch.no_grad()
def test_a_models_own_answer_is_scored_as_it_was_written(shelf, family):
    model, _ = shelf.get(family)
    images = [picture(96, 64), picture(64, 96, seed=1)]
    inputs = model.prepare(images, PROMPTS)
    text = {"suppress_tokens": [model.config.image_token_id]}
    generation = model.generate(inputs, max_new_tokens=5, min_new_tokens=5, output_logits=True, **text)
    answered = model.prepare(images, PROMPTS, answers=generation.tokens)
    assert torch.equal(answered.input_ids, generation.sequences)
    start = inputs.layout.length
    assert answered.answers == (start, start)
    logits = model(answered)[:, start - 1 : -1]
    torch.testing.assert_close(logits, torch.stack(generation.logits, 1), atol=2e-4, rtol=0)


def test_one_answer_serves_all_rows(model):
    ids = tokens(model, ["a red dog"])[0]
    inputs = model.prepare(picture(96, 64), PROMPTS, answers=ids)
    assert [row[start:] for row, start in zip(inputs.input_ids.tolist(), inputs.answers, strict=True)] == [ids, ids]
    assert torch.equal(model.prepare(picture(96, 64), PROMPTS, answers=torch.tensor(ids)).input_ids, inputs.input_ids)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([[65], [66], [67]], "3 answers were given for 2 prompts"),
        ([[65], []], "An answer is empty"),
        ([[65], [-1]], "An answer holds -1"),
        ([[65], [10**6]], "An answer holds 1000000"),
        ([[65], [6.5]], "An answer holds 6.5"),
        ([[65], [True]], "An answer holds True"),
        ([[65], "text"], "An answer is str; give a text, or a list of token ids, for each prompt"),
        (torch.tensor([[0.5], [1.0]]), "An answer holds 0.5"),
    ],
)
def test_what_are_no_ids_is_refused(model, answers, message):
    with pytest.raises(InputError, match=message):
        model.prepare(picture(96, 64), PROMPTS, answers=answers)
    with pytest.raises(InputError, match=f"An answer holds {model.config.image_token_id}"):
        model.prepare(picture(96, 64), "What?", answers=[[65, model.config.image_token_id]])


def test_ids_that_no_text_makes_are_refused_where_the_processor_takes_text(shelf):
    model, _ = shelf.get("PaliGemma")
    special = model.tokenizer.eos_token_id
    with pytest.raises(InputError, match=r"The answer's ids \[65, .*processor takes answers as text"):
        model.prepare(picture(96, 64), "What?", answers=[[65, special, 10, 255, 254]])


def test_a_value_per_token_that_is_not_known_is_refused():
    """A family of the user may have one; without the answer's values it would be out of step."""
    ids = torch.tensor([[5, 6, 7]])
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "depth_ids": ids, "pixel_values": ids[0, :2]}
    with pytest.raises(ModelError, match="depth_ids for each token"):
        appended(tensors, [(8, 9)], pad=0)
    del tensors["depth_ids"]
    assert appended(tensors, [(8, 9)], pad=0)["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
