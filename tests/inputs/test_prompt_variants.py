"""Several prompts about one picture: rows equal those prepared one by one, and the processor runs once."""

import pytest
import torch
from every_family import NAMES, Case
from reference import picture

from gaze_lens.errors import InputError
from gaze_lens.inputs.prompt_variants import prepare_variants

PROMPTS = ["What?", "What is that, a dog or a cat?", "x"]
ANSWERS = ["a dog", "no", "two cats"]
PREPARED_AGAIN = {"PaliGemma", "PaliGemma 2"}  # their processors append to the prompt


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
def test_rows_equal_those_prepared_and_encoded_one_by_one(case, answers, prepared):
    image, listed = picture(96, 64), answers or [None] * len(PROMPTS)
    prepare, encode = case.model.prepare, case.model.encode
    expected = [encode(prepare(image, prompt, answers=answer)) for prompt, answer in zip(PROMPTS, listed, strict=True)]
    calls = prepared(case.model)
    rows = prepare_variants(case.model, expected[0].pictures[0][0], PROMPTS, answers)
    assert len(calls) == (len(PROMPTS) if case.name in PREPARED_AGAIN else 1)
    for mine, theirs in zip(rows, expected, strict=True):
        assert (mine.layout, mine.prompts, mine.answers) == (theirs.layout, theirs.prompts, theirs.answers)
        assert mine.tensors.keys() == theirs.tensors.keys()
        for name, tensor in theirs.tensors.items():
            assert torch.equal(mine.tensors[name], tensor), name
            assert mine.tensors[name].dtype == tensor.dtype, name
        for one, other in zip(mine.image_tokens, theirs.image_tokens, strict=True):
            assert torch.equal(one.positions, other.positions)
        assert torch.equal(case.model(mine), case.model(theirs))


def test_the_processor_runs_again_where_it_does_more_than_tokenize(qwen, prepared, monkeypatch):
    """Here the tokenizer alone makes other tokens of the text after the picture than the processor did."""
    inputs = qwen.encode(qwen.prepare(picture(96, 64), "b"))
    tokenizer = type(qwen.processor.tokenizer)
    plain = tokenizer.__call__
    calls = prepared(qwen)

    def other(self, text, **options):
        encoded = plain(self, text, **options)
        if not options:  # as `prepare_variants` calls it
            encoded["input_ids"] = [[*ids, 5] for ids in encoded["input_ids"]]
        return encoded

    monkeypatch.setattr(tokenizer, "__call__", other)
    rows = prepare_variants(qwen, inputs.pictures[0][0], ["a", "b"])
    assert len(calls) == 2
    assert torch.equal(rows[1].input_ids, inputs.input_ids)


def test_a_prompt_that_is_too_long_is_refused(qwen, monkeypatch):
    image = qwen.prepare(picture(96, 64), "a").pictures[0][0]
    limit = qwen.prepare(picture(96, 64), "a").layout.length + 3
    monkeypatch.setattr(qwen.config.get_text_config(), "max_position_embeddings", limit)
    assert len(prepare_variants(qwen, image, ["a", "bbb"])) == 2
    with pytest.raises(InputError, match=f"the model's context holds {limit}"):
        prepare_variants(qwen, image, ["a", "b" * 10])
