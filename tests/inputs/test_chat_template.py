"""Prompts are Hugging Face's, whatever writes the begin token, and whether a template wants texts or parts."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from hugging_face_prompts import CONVERSATIONS, QUESTION, same, theirs, turn
from painting import noise
from tokenizers import processors

from gaze_lens.errors import InputError
from gaze_lens.inputs.preparation import prepare

BEGIN = "<|endoftext|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
OF_PARTS = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + IMAGE + "{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
)
CONTENTS = {
    "either": "{% if message['content'] is string %}{{ message['content'] }}{% else %}" + OF_PARTS + "{% endif %}",
    "parts": OF_PARTS,
    "a text, or an image and parts": "{% if message['role'] == 'user' and message['content'] is not string %}"
    + OF_PARTS
    + "{% else %}{{ message['content'] }}{% endif %}",
    "system as a text": "{% if message['role'] == 'system' %}{{ message['content'] + '' }}{% else %}"
    + OF_PARTS
    + "{% endif %}",
}


def template(contents, begin=""):
    return (
        begin + "{% for message in messages %}[{{ message['role'] }}]" + CONTENTS[contents] + "\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )  # fmt: skip


@pytest.fixture(scope="module")
def make(qwen):
    """A processor with a template, and with a tokenizer that adds a begin token or does not."""

    def build(contents="either", *, in_template=False, by_tokenizer=False):
        old = qwen.processor
        tokenizer = copy.deepcopy(old.tokenizer)
        tokenizer.bos_token = BEGIN
        if by_tokenizer:
            pair = (BEGIN, tokenizer.bos_token_id)
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[pair]
            )
        chat_template = template(contents, BEGIN if in_template else "")
        return type(old)(old.image_processor, tokenizer, old.video_processor, chat_template=chat_template)

    return build


@pytest.fixture
def config(qwen):
    return SimpleNamespace(image_token_id=qwen.processor.image_token_id)


@pytest.mark.parametrize(("in_template", "by_tokenizer"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_prompts_are_those_of_hugging_face(make, config, qwen, in_template, by_tokenizer, name):
    processor = make(in_template=in_template, by_tokenizer=by_tokenizer)
    n_images, conversation = CONVERSATIONS[name]
    images = [noise(64, 96), noise(96, 64, seed=1)][:n_images]
    ours = prepare(processor, qwen.family, [images], [conversation], config=config)
    expected = theirs(processor, conversation, images)
    assert same(ours.tensors, expected)
    n_begin = (ours.input_ids == processor.tokenizer.bos_token_id).sum()
    assert n_begin == (in_template or by_tokenizer)


@pytest.mark.parametrize("in_template", [False, True])
def test_an_answer_follows_the_same_prompt(make, config, qwen, in_template):
    processor = make(in_template=in_template, by_tokenizer=True)
    picture = noise(64, 64)
    plain = prepare(processor, qwen.family, picture, "What?", config=config)
    answered = prepare(processor, qwen.family, picture, "What?", config=config, answers="a cat")
    n = plain.shape[1]
    assert torch.equal(answered.input_ids[:, :n], plain.input_ids)
    assert processor.tokenizer.decode(answered.input_ids[0, n:]) == "a cat"


@pytest.mark.parametrize("contents", CONTENTS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_contents_are_converted_to_what_the_template_wants(make, config, qwen, contents, name):
    n_images, conversation = CONVERSATIONS[name]
    images = [noise(64, 96), noise(96, 64, seed=1)][:n_images]
    given, wanted = (
        prepare(make(which), qwen.family, [images], [conversation], config=config) for which in (contents, "either")
    )
    assert given.tokenizer.decode(given.input_ids[0]) == wanted.tokenizer.decode(wanted.input_ids[0])


def refused(processor, qwen, config, conversation, match):
    with pytest.raises(InputError, match=match):
        prepare(processor, qwen.family, noise(64, 64), conversation, config=config)


def test_a_text_that_the_template_leaves_out_is_an_error(make, config, qwen):
    processor = make()
    processor.chat_template = processor.chat_template.replace(
        "[{{ message['role'] }}]", "{% if message['role'] == 'system' %}{% continue %}{% endif %}"
    )
    match = r"'Be brief.' is not in the text that the model's chat template makes. Change the chat messages"
    refused(processor, qwen, config, CONVERSATIONS["system"][1], match)


def test_errors_of_templates_say_what_they_say(make, config, qwen):
    processor = make()
    processor.chat_template = "{{ raise_exception('No system role, please.') }}"
    refused(processor, qwen, config, [QUESTION], r"refused the conversation: No system role, please\.")


def test_thoughts_of_earlier_turns_may_be_left_out(make, config, qwen):
    processor = make()
    processor.chat_template = processor.chat_template.replace(
        "{{ message['content'] }}", "{{ message['content'].split('</think>')[-1].lstrip() }}"
    )
    conversation = [QUESTION, turn("assistant", "<think>A tail, paws.</think>\nA cat."), turn("user", "Why?")]
    inputs = prepare(processor, qwen.family, noise(64, 64), conversation, config=config)
    assert "paws" not in inputs.tokenizer.decode(inputs.input_ids[0])
