"""Parts of a description that a language model cuts out."""

import json

import pytest
import stub_server

from gaze_lens.errors import JudgeError
from gaze_lens.evaluation.judges import LanguageModelJudge

TEXT = "A brown dog sits on grass. Behind it is a red ball."


def reply(phrases):
    return 200, {"choices": [{"message": {"role": "assistant", "content": json.dumps({"phrases": phrases})}}]}


def judge_at(url, **options):
    return LanguageModelJudge("openai", model="m", base_url=f"{url}/v1", **options)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")


def test_parts_are_copied_from_the_text_and_asked_for_once(tmp_path):
    with stub_server.serving(reply(["a brown dog", "a red ball"])) as (stub, url):
        judge = judge_at(url, cache=tmp_path / "replies.sqlite")
        assert judge.phrases(TEXT) == ["a brown dog", "a red ball"]
        assert judge.phrases(TEXT) == ["a brown dog", "a red ball"]
    assert len(stub.requests) == 1
    assert TEXT in json.dumps(stub.requests[0]["body"])


def test_other_words_are_asked_for_again_and_then_refused():
    with stub_server.serving(reply(["a cat"]), reply(["grass"])) as (stub, url):
        assert judge_at(url, attempts=2).phrases(TEXT) == ["grass"]
    assert len(stub.requests) == 2
    for wrong in (["a cat"], [], "a red ball", [""], None):
        with stub_server.serving(reply(wrong)) as (_, url), pytest.raises(JudgeError, match="word for word"):
            judge_at(url, attempts=1).phrases(TEXT)
