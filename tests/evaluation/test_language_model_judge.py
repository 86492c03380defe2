"""The judge that asks a language model, through the official clients, against a service in this process."""

import base64
import io
import json
import sys

import pytest
from PIL import Image, ImageChops
from stub_server import serving

from gaze_lens.comics.generator import synthetic
from gaze_lens.errors import InputError, JudgeError
from gaze_lens.evaluation.judges import Description, Judgement, LanguageModelJudge
from gaze_lens.evaluation.judges.judge import crop
from gaze_lens.evaluation.judges.reply_cache import ReplyCache, key_of

KEY = "a-key-that-nobody-may-see"
(STRIP,) = synthetic(1, seed=3)
SAID = Description("A crimson ring on top of a bar.", "panel 2", STRIP)
FAILED = {"error": {"type": "server_error", "message": f"overloaded; your key is {KEY}"}}


def anthropic_reply(answer):
    tool = {"type": "tool_use", "id": "t", "name": "report", "input": answer}
    return 200, {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
                 "content": [{"type": "text", "text": "Let me see."}, tool], "usage": {}}  # fmt: skip


def openai_reply(answer):
    message = {"role": "assistant", "content": json.dumps(answer)}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return 200, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


WRITERS = {"anthropic": anthropic_reply, "openai": openai_reply}
GOOD = {"reason": "Both have a ring.", "match": "panel 2"}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Keys of this test and nobody's own settings."""
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_PROFILE", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "no-config"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture(params=list(WRITERS))
def provider(request):
    return request.param


def make(provider, address, **options):
    base_url = address + ("/v1" if provider == "openai" else "")
    return LanguageModelJudge(provider, model="some-model", base_url=base_url, **options)


def shown(request):
    """The texts and pictures of the question, however the provider writes them."""
    content = request["body"]["messages"][-1]["content"]
    texts = [part["text"] for part in content if part["type"] == "text"]
    data = [
        part["source"]["data"] if part["type"] == "image" else part["image_url"]["url"].split(",")[1]
        for part in content
        if part["type"] != "text"
    ]
    return texts, [Image.open(io.BytesIO(base64.b64decode(item))) for item in data]


def schema_of(body):
    tools, shape = body.get("tools"), body.get("response_format")
    return tools[0]["input_schema"] if tools else shape["json_schema"]["schema"]


def test_captions_are_sent_and_the_structured_reply_is_the_judgement(provider):
    with serving(WRITERS[provider](GOOD)) as (stub, address):
        judged = make(provider, address, options={"temperature": 0}).judge(SAID)
    assert judged == Judgement("panel 2", correct=True, detail={"reason": "Both have a ring."})
    (request,) = stub.requests
    assert request["path"] == {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}[provider]
    assert KEY in request["headers"].get("x-api-key", request["headers"].get("authorization", ""))
    assert KEY not in json.dumps(request["body"])
    texts, pictures = shown(request)
    assert texts == [f"{name}: {caption}" for name, caption in STRIP.captions.items()] + [f"The text: {SAID.text}"]
    assert pictures == []
    assert schema_of(request["body"])["properties"]["match"]["enum"] == [*STRIP.regions, "none"]
    assert (request["body"]["model"], request["body"]["temperature"]) == ("some-model", 0)


def test_regions_are_sent_as_pictures(provider):
    bare = Description("A ring.", "panel 1", type(STRIP)(STRIP.image, STRIP.regions))
    with serving(WRITERS[provider](GOOD)) as (stub, address):
        judged = make(provider, address, look=True).judge(bare)
        with pytest.raises(JudgeError, match="no caption for 'panel 1'"):
            make(provider, address).judge(bare)
    assert (judged.match, judged.correct) == ("panel 2", False)
    texts, pictures = shown(stub.requests[0])
    assert texts == [f"{name}:" for name in STRIP.regions] + ["The text: A ring."]
    for name, picture in zip(STRIP.regions, pictures, strict=True):
        assert ImageChops.difference(picture.convert("RGB"), crop(STRIP, name)).getbbox() is None


def test_judges_of_other_settings_have_other_names():
    settings = {"model": "m", "base_url": "http://localhost:1/v1"}
    judges = [
        LanguageModelJudge("openai", **{**settings, **changes})
        for changes in (
            {}, {"instructions": "Be strict."}, {"options": {"temperature": 0.5}}, {"model": "n"}, {"look": True},
            {"base_url": "http://localhost:2/v1"},
        )
    ]  # fmt: skip
    assert len({repr(judge) for judge in judges}) == len(judges)
    assert repr(judges[0]) == repr(LanguageModelJudge("openai", workers=1, **settings))
    assert "localhost" not in repr(judges[0]), "an address may hold a key"


def test_none_is_no_match_and_an_empty_text_is_not_asked_about(provider):
    with serving(WRITERS[provider]({"reason": "Junk.", "match": "none"})) as (stub, address):
        judge = make(provider, address)
        assert judge.judge(SAID) == Judgement(None, correct=False, detail={"reason": "Junk."})
        assert judge.judge(Description("  ", "panel 1", STRIP)) == Judgement(None, correct=False)
    assert len(stub.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 529])
def test_a_service_that_is_busy_is_asked_again(provider, status):
    with serving((status, FAILED), (status, FAILED), WRITERS[provider](GOOD)) as (stub, address):
        assert make(provider, address).judge(SAID).match == "panel 2"
    assert len(stub.requests) == 3


def test_a_service_that_fails_for_ever_is_an_error_and_no_miss(provider, tmp_path):
    with serving((500, FAILED)) as (stub, address):
        judge = make(provider, address, client={"max_retries": 2}, cache=tmp_path / "judge.sqlite")
        judgements = judge.judge_all([SAID, SAID], progress=False)
    assert [judged.correct for judged in judgements] == [None, None]
    assert all("InternalServerError" in judged.error and address in judged.error for judged in judgements)
    assert all("[key]" in judged.error and KEY not in judged.error for judged in judgements)
    assert len(stub.requests) == 2 * 3
    assert not everything_in(tmp_path / "judge.sqlite")


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_an_error_at_once(provider, status):
    with serving((status, FAILED)) as (stub, address):
        (judged,) = make(provider, address).judge_all([SAID], progress=False)
    assert "Error" in judged.error
    assert KEY not in judged.error
    assert len(stub.requests) == 1


def test_no_service_at_all_is_an_error(provider):
    with serving((500, FAILED)) as (_, address):
        pass
    (judged,) = make(provider, address, client={"max_retries": 0, "timeout": 5}).judge_all([SAID], progress=False)
    assert "APIConnectionError" in judged.error


NONSENSE = [
    b"<html>welcome to the hotel wifi</html>", b'{"cut', b"", b"null", b"[]", {}, {"content": None, "choices": None},
    {"content": [], "choices": []}, {"content": [{"type": "text", "text": "panel 2"}],
    "choices": [{"message": {"content": "panel 2", "role": "assistant"}}]},
    {"content": [3], "choices": [{"message": {"content": None, "refusal": "no"}}]},
]  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_malformed_replies_are_asked_about_again_and_then_an_error(provider, body, tmp_path):
    with serving((200, body), WRITERS[provider](GOOD)) as (stub, address):
        assert make(provider, address).judge(SAID).match == "panel 2"
        assert len(stub.requests) == 2
    with serving((200, body)) as (stub, address):
        (judged,) = make(provider, address, attempts=2, cache=tmp_path / "c").judge_all([SAID], progress=False)
    assert judged.correct is None
    assert "No reply of 2 named one of panel 1" in judged.error
    assert len(stub.requests) == 2
    assert not everything_in(tmp_path / "c")


@pytest.mark.parametrize(
    "answer",
    [{"reason": "", "match": "panel 9"}, {"reason": "", "match": ["panel 2"]}, {"match": "panel 2"}, [1], "panel 2"],
    ids=str,
)  # fmt: skip
def test_answers_of_another_shape_are_errors(provider, answer):
    with serving(WRITERS[provider](answer)) as (stub, address):
        (judged,) = make(provider, address, attempts=3).judge_all([SAID], progress=False)
    assert "No reply of 3 named one of panel 1" in judged.error
    assert len(stub.requests) == 3


def everything_in(path):
    return ReplyCache(path)._run("select * from replies")


def test_what_was_asked_once_is_not_asked_again(provider, tmp_path):
    cache = tmp_path / "deep" / "judge.sqlite"
    with serving(WRITERS[provider]({**GOOD, "reason": f"the key is {KEY}"})) as (stub, address):
        first = make(provider, address, cache=cache).judge_all([SAID] * 2, progress=False)
        asked = len(stub.requests)
        assert asked in (1, 2)  # two at the same time do not wait for one another
        again = make(provider, address, cache=cache).judge_all([SAID] * 3, progress=False)
        assert len(stub.requests) == asked
        assert set(map(str, again)) == set(map(str, first)) == {str(first[0])}
        others = [
            make(provider, address, cache=cache, instructions="Other words."),
            make(provider, address, cache=cache, look=True),
            make(provider, address, cache=cache, options={"temperature": 0.5}),
            LanguageModelJudge(
                provider, model="another", base_url=make(provider, address).provider.base_url, cache=cache
            ),
        ]
        for count, judge in enumerate(others, 1):
            judge.judge(SAID)
            judge.judge(SAID)
            assert len(stub.requests) == asked + count
    assert first[0].detail == {"reason": "the key is [key]"}
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in content
    assert b"the key is [key]" in content


def test_the_key_of_a_request_is_of_all_of_it():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 1, "b": 3})


def test_a_file_that_is_no_cache_is_refused_before_anything_is_sent(provider, tmp_path):
    (tmp_path / "notes.txt").write_text("Dear diary, this is long enough to be no database at all. " * 20)
    with pytest.raises(
        InputError,
        match=r"notes.txt cannot be used for replies .*give another path, or delete it".replace("give", "Give"),
    ):
        make(provider, "http://127.0.0.1:9", cache=tmp_path / "notes.txt")


def test_many_are_judged_at_a_time_and_in_order(provider):
    def mirror(request):
        """The panel whose caption is the text."""
        *captions, text = shown(request)[0]
        caption = text.removeprefix("The text: ")
        match = next(line.split(":")[0] for line in captions if line.endswith(caption))
        return WRITERS[provider]({"reason": "", "match": match})

    strips = synthetic(5, seed=8)
    descriptions = [Description(strip.captions[name], name, strip) for strip in strips for name in strip.regions]
    with serving(mirror) as (stub, address):
        judgements = make(provider, address, workers=4).judge_all(descriptions, progress=False)
    assert [judged.match for judged in judgements] == [description.target for description in descriptions]
    assert len(stub.requests) == 30


@pytest.mark.parametrize(("provider", "name"), [("anthropic", "ANTHROPIC_API_KEY"), ("openai", "OPENAI_API_KEY")])
def test_a_missing_key_is_told_before_the_first_call(provider, name, monkeypatch):
    for value in (None, ""):
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        with serving(WRITERS[provider](GOOD)) as (stub, address), pytest.raises(InputError, match=name):
            make(provider, address)
        assert stub.requests == []


def test_a_missing_package_and_wrong_arguments_are_told(provider, monkeypatch):
    with pytest.raises(InputError, match="'acme' is not known; give one of 'anthropic', 'openai'"):
        LanguageModelJudge("acme", model="m")
    with pytest.raises(InputError, match="workers=0"):
        make(provider, "http://127.0.0.1:9", workers=0)
    monkeypatch.setitem(sys.modules, provider, None)
    with pytest.raises(InputError, match=r"pip install 'gaze-lens\[judges\]'"):
        make(provider, "http://127.0.0.1:9")
