"""Several prompts about one picture: rows are those of whole preparation, and the processor sees the picture once."""

import pytest
import torch
from every_family import NAMES, Case
from reference import picture

from gaze_lens.errors import InputError
from gaze_lens.inputs.prompt_variants import each_about

PROMPTS = ["What?", "What is that, a dog or a cat?", "x"]
ANSWERS = ["a dog", "no", "two cats"]
ANEW = {"PaliGemma", "PaliGemma 2"}  # their processors write behind the prompt


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


@pytest.fixture
def prepared(monkeypatch):
    """A function that counts how often a model prepares inputs from here on."""

    def watch(model):
        calls, prepare = [], model.prepare
        monkeypatch.setattr(model, "prepare", lambda *args, **options: (calls.append(1), prepare(*args, **options))[1])
        return calls

    return watch


@pytest.mark.parametrize("answers", [None, ANSWERS])
def test_rows_are_those_prepared_and_encoded_one_by_one(case, answers, prepared):
    image, told = picture(96, 64), answers or [None] * len(PROMPTS)
    prepare, encode = case.model.prepare, case.model.encode
    expected = [encode(prepare(image, prompt, answers=said)) for prompt, said in zip(PROMPTS, told, strict=True)]
    calls = prepared(case.model)
    rows = each_about(case.model, expected[0].pictures[0][0], PROMPTS, answers)
    assert len(calls) == (len(PROMPTS) if case.name in ANEW else 1)
    for mine, theirs in zip(rows, expected, strict=True):
        assert (mine.layout, mine.prompts, mine.answers) == (theirs.layout, theirs.prompts, theirs.answers)
        assert mine.tensors.keys() == theirs.tensors.keys()
        for name, tensor in theirs.tensors.items():
            assert torch.equal(mine.tensors[name], tensor), name
            assert mine.tensors[name].dtype == tensor.dtype, name
        for one, other in zip(mine.image_tokens, theirs.image_tokens, strict=True):
            assert torch.equal(one.positions, other.positions)
        assert torch.equal(case.model(mine), case.model(theirs))


def test_what_the_processor_must_say_is_left_to_it(qwen, prepared, monkeypatch):
    """Where a tokenizer alone makes other tokens behind the picture than the processor did."""
    inputs = qwen.encode(qwen.prepare(picture(96, 64), "b"))
    tokenizer = type(qwen.processor.tokenizer)
    plain = tokenizer.__call__
    calls = prepared(qwen)

    def other(self, text, **options):
        made = plain(self, text, **options)
        if not options:  # as `each_about` calls it
            made["input_ids"] = [[*ids, 5] for ids in made["input_ids"]]
        return made

    monkeypatch.setattr(tokenizer, "__call__", other)
    rows = each_about(qwen, inputs.pictures[0][0], ["a", "b"])
    assert len(calls) == 2
    assert torch.equal(rows[1].input_ids, inputs.input_ids)


def test_a_prompt_that_is_too_long_is_refused(qwen, monkeypatch):
    image = qwen.prepare(picture(96, 64), "a").pictures[0][0]
    limit = qwen.prepare(picture(96, 64), "a").layout.length + 3
    monkeypatch.setattr(qwen.config.get_text_config(), "max_position_embeddings", limit)
    assert len(each_about(qwen, image, ["a", "bbb"])) == 2
    with pytest.raises(InputError, match=f"the model's context holds {limit}"):
        each_about(qwen, image, ["a", "b" * 10])
