"""Prompts of every family are Hugging Face's, token for token, and so are those that are made from other prompts."""

import pytest
import torch
from every_family import NAMES, Case
from hugging_face_prompts import CONVERSATIONS, in_every_form, same, texts_of, theirs, without_template
from reference import picture

import gaze_lens as gl
from gaze_lens.errors import InputError
from gaze_lens.inputs.prompt_variants import prepare_variants
from gaze_lens.inputs.prompts import rewritten
from gaze_lens.regions.picture import Picture, panels

WITHOUT_TEMPLATE = ("PaliGemma", "PaliGemma 2")
NO_SYSTEM = ("Mllama",)  # its template leaves a system turn out beside an image
BEGIN = {  # who writes the begin token of the published models
    "LLaVA": "tokenizer", "LLaVA padded": "tokenizer", "LLaVA-NeXT": "tokenizer", "VipLlava": "tokenizer",
    "DeepSeek-VL": "tokenizer", "PaliGemma": "processor",
    "PaliGemma 2": "processor", "SmolVLM": "template", "Molmo2": "processor",
    **dict.fromkeys(("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3.5", "GLM-4V", "GLM-4.6V", "InternVL",
                     "LLaVA-OneVision"), ""),
    **dict.fromkeys(("Gemma 3", "Gemma 3 pan and scan", "Gemma 4", "Pixtral", "Mistral3", "AyaVision", "Cohere2Vision",
                     "Idefics3", "Mllama", "Llama 4", "LFM2-VL"), "template and tokenizer"),
}  # fmt: skip
QUESTIONS = ["What is in panel 1?", "What is in panel 2, on the right?", "Which?"]


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


@pytest.fixture
def model(case):
    return case.model


@pytest.fixture(scope="module")
def strip():
    return Picture(picture(96, 64), panels(2, 96, 64))


def images(n):
    return [picture(96, 64), picture(70, 90, seed=1)][:n]


def expected_of(case, conversation, pictures):
    """What Hugging Face makes of a conversation, for every form of its contents that the template takes."""
    make = without_template if case.name in WITHOUT_TEMPLATE else theirs
    return in_every_form(lambda messages: make(case.model.processor, messages, pictures), conversation)


def refusal(family, name):
    """The error for a conversation that the family's template does not take; None where it takes it."""
    if family in WITHOUT_TEMPLATE and name not in ("one image", "two images"):
        return "take images and then one text"
    if family in NO_SYSTEM and name.startswith("system"):
        return r"'Be brief\.' is not in the text"
    return None


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_those_of_hugging_face(case, name):
    n_images, conversation = CONVERSATIONS[name]
    if error := refusal(case.name, name):
        with pytest.raises(InputError, match=error):
            case.model.prepare([images(n_images)], [conversation])
        return
    inputs = case.model.prepare([images(n_images)], [conversation])
    said = case.model.processor.tokenizer.decode(inputs.input_ids[0])
    assert all(words in said for words in texts_of(conversation))
    assert "'type'" not in said
    assert any(same(inputs.tensors, one) for one in expected_of(case, conversation, images(n_images)))


def test_the_begin_token_stands_once(case):
    """And it is written by whom the published processor has it written."""
    inputs = case.model.prepare(picture(96, 64), "What?")
    ids = inputs.input_ids[0].tolist()
    tokenizer, begin = case.model.processor.tokenizer, case.model.processor.tokenizer.bos_token
    by_tokenizer = begin is not None and tokenizer("A").input_ids[0] == tokenizer.bos_token_id
    by_template = begin is not None and inputs.prompts[0].startswith(begin)
    writers = " and ".join(["template"] * by_template + ["tokenizer"] * by_tokenizer)
    who = BEGIN.get(case.name, writers)
    assert writers == who.replace("processor", "")
    begin = tokenizer.eos_token_id if case.name == "Molmo2" else tokenizer.bos_token_id
    found = [index for index, token in enumerate(ids) if token == begin]
    if case.name == "Molmo2":  # its processor takes the end token, which ends the turns as well
        found = [found[0], *(index for index in found[1:] if index < 10)]
    n_before = len(inputs.layout.images[0]) if case.name in WITHOUT_TEMPLATE else 0
    assert found == [n_before] * bool(who)


def test_an_answer_follows_the_same_prompt(case):
    plain = case.model.prepare(picture(96, 64), QUESTIONS[:1])
    answered = case.model.prepare(picture(96, 64), QUESTIONS[:1], answers=["a cat"])
    length = plain.layout.length
    assert torch.equal(answered.input_ids[:, :length], plain.input_ids)
    assert case.model.processor.tokenizer.decode(answered.input_ids[0, length:]) == "a cat"
    assert answered.answers == (length,)


@pytest.mark.parametrize("answers", [None, ["a cat", "two dogs", "one"]], ids=["prompts", "answers"])
def test_variants_of_a_prompt_are_prepared_prompts(model, strip, answers):
    rows = prepare_variants(model, strip, QUESTIONS, answers)
    for index, row in enumerate(rows):
        answer = None if answers is None else answers[index]
        alone = model.encode(model.prepare(strip, QUESTIONS[index], answers=answer))
        assert same(row.tensors, alone.tensors)
        assert (row.prompts, row.answers, row.layout) == (alone.prompts, alone.answers, alone.layout)


def test_rewritten_prompts_and_counterfactuals_are_hugging_faces(case, strip):
    conversation = CONVERSATIONS["one image"][1]
    changed = rewritten(conversation, lambda question: question.replace("What", "Who"))
    inputs = case.model.prepare(strip, changed)
    assert "Who is this?" in inputs.prompts[0]
    assert any(same(inputs.tensors, one) for one in expected_of(case, changed, [strip.image]))
    pair = gl.counterfactual(case.model, strip, [conversation], gl.changes.question("Who is this?"), align=True)
    assert same(pair.corrupted.tensors, inputs.tensors)
    assert any(same(pair.clean.tensors, one) for one in expected_of(case, conversation, [strip.image]))


def test_rows_of_a_batch_are_the_prompts_alone(model):
    """Rows of a batch without their padding; what prompts share is cut from such a batch."""
    batch = model.prepare([images(1), images(2)], ["What?", "Which of the two is larger?"])
    for row, (pictures, question) in enumerate([(images(1), "What?"), (images(2), "Which of the two is larger?")]):
        alone = model.prepare([pictures], question).input_ids[0]
        assert torch.equal(batch.input_ids[row, -len(alone) :], alone)


def test_tokens_as_text_keep_their_spaces(case, strip):
    inputs = case.model.prepare(strip, "What is  this?")
    assert "What is  this?" in "".join(inputs.str_tokens())
    assert "What is  this?" in "".join(inputs.str_tokens(collapse=True))
