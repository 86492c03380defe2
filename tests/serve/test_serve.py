"""The server: answers as streams, one at a time, and the command that starts it."""

import sys
import time

import pytest
from serving import events, served, wait
from sse_starlette.sse import AppStatus
from typer.testing import CliRunner

from gaze_lens import HeadSet, comics, score_heads
from gaze_lens.cli import commands
from gaze_lens.cli.arguments import SCORED, heads_of
from gaze_lens.errors import HeadError, InputError
from gaze_lens.serve import Limits, require_extra, serve
from gaze_lens.serve import server as module
from gaze_lens.serve.app import FILES
from gaze_lens.serve.server import bind

HEADS = HeadSet(["L1H6", "L1H11"])


@pytest.fixture(scope="module")
def strip():
    return comics.synthetic(1, seed=5)[0]


@pytest.fixture(scope="module")
def running(tiny_model):
    with served(tiny_model, HEADS, Limits(new_tokens=60, waiting=2)) as server:
        yield server


@pytest.fixture
def server(running):
    """The module's server, at rest before and after."""
    running.idle()
    yield running
    running.idle()


def test_it_streams(server, strip):
    connection, response = server.open(server.question(pause=0.1, max_new_tokens=6))
    assert response.headers["content-type"].startswith("text/event-stream")
    arrived = [(time.monotonic(), event) for event in events(response)]
    connection.close()
    words = [(at, event) for at, event in arrived if event["kind"] == "word"]
    assert len(words) == 6
    assert words[-1][0] - words[0][0] > 0.4, "words come one after the other, not in one piece"
    assert [event["kind"] for _, event in arrived][:2] == ["queued", "started"]
    assert arrived[-1][1] == {"kind": "done", "reason": "full", "tokens": 6}


def test_a_target_that_is_posted_moves_the_description(server, strip):
    question = server.question(target={"name": "panel 2", "box": [32, 0, 64, 32], "strength": 10000}, pause=0.1)
    connection, response = server.open(question)
    text, key, kinds = "", None, []
    for event in events(response):
        kinds.append(event["kind"])
        key = event.get("id", key)
        if event["kind"] == "word":
            text += event["text"]
            if event["step"] == 2:
                body = {"target": {"name": "panel 5", "box": [128, 0, 160, 32], "strength": 10000}}
                assert server.ask("POST", f"/answers/{key}/target", body)[0] == 204
    connection.close()
    assert "target" in kinds
    assert text.startswith("red square")
    assert strip.captions["panel 5"] in text
    assert server.error("POST", f"/answers/{key}/target", {"target": None})[0] == 404


def test_one_at_a_time_in_order_and_the_queue_is_bounded(server):
    first = server.open(server.question(pause=0.3))
    wait(lambda: server.state.queue.running is not None)
    quick = server.question(max_new_tokens=2)
    second, third = server.open(quick), server.open(quick)
    wait(lambda: len(server.state.queue.waiting) == 2)
    status, message = server.error("POST", "/answers", quick)
    assert status == 503
    assert "2 questions are waiting" in message
    first_events = [next(iter(events(response))) for _, response in (second, third)]
    assert [event["ahead"] for event in first_events] == [1, 2]
    key = next(iter(events(first[1])))["id"]
    assert server.ask("POST", f"/answers/{key}/stop", {})[0] == 204
    assert list(events(first[1]))[-1]["reason"] == "stopped"
    rests = [list(events(response)) for _, response in (second, third)]
    assert [rest[-1]["kind"] for rest in rests] == ["done", "done"]
    assert [event["ahead"] for event in rests[1] if event["kind"] == "queued"] == [1]
    for connection, _ in (first, second, third):
        connection.close()


def test_the_size_of_a_token_is_told_where_the_model_is_free(server):
    server.idle()
    question = server.question(pause=0.3)
    path = f"/pictures/{question['picture']}/token"
    assert server.json("GET", path) == {"width": 16, "height": 16}
    connection, response = server.open(question)
    wait(lambda: server.state.queue.running is not None)
    assert server.json("GET", path) is None
    started = next(event for event in events(response) if event["kind"] == "started")
    assert started["token"] == {"width": 16, "height": 16}
    response.close()
    connection.close()
    server.idle()
    assert server.error("GET", "/pictures/unknown/token")[0] == 404


def test_whoever_waits_can_leave(server):
    first, second = server.open(server.question(pause=0.3)), server.open(server.question())
    wait(lambda: len(server.state.queue.waiting) == 1)
    key = server.state.queue.waiting[0].key
    server.ask("POST", f"/answers/{key}/stop", {})
    assert list(events(second[1]))[-1] == {"kind": "done", "reason": "stopped", "tokens": 0}
    assert server.state.queue.running is not None
    for connection, response in (first, second):
        response.close()
        connection.close()


def test_a_client_that_is_gone_ends_its_answer_and_leaves_the_queue(server):
    first, second = server.open(server.question(pause=0.5, max_new_tokens=60)), server.open(server.question())
    wait(lambda: len(server.state.queue.waiting) == 1)
    start = time.monotonic()
    for connection, response in (second, first):
        response.close()
        connection.close()
    server.idle()
    assert time.monotonic() - start < 10, "the answer alone would have taken 30 seconds"


def test_an_answer_that_fails_is_told_and_the_next_one_works(server, monkeypatch, tiny_model, caplog):
    placeholder = server.events(server.question(prompt="<|image_pad|>"))[-1]
    assert placeholder["kind"] == "error"
    assert "placeholder" in placeholder["message"]
    with monkeypatch.context() as patched:
        patched.setattr(type(tiny_model), "generate", lambda *_, **__: 1 / 0)
        assert server.events(server.question())[-1] == {
            "kind": "error", "message": "The server failed (ZeroDivisionError); its log says more."
        }  # fmt: skip
    assert "ZeroDivisionError" in caplog.text
    assert server.events(server.question(max_new_tokens=2))[-1]["kind"] == "done"


def test_the_page_loads_nothing_from_elsewhere(server):
    files = ["/", *(f"/{name}" for name in FILES)]
    texts = {path: server.ask("GET", path)[2].decode() for path in files}
    for path, text in texts.items():
        assert text, path
        for word in ("http:", "https:", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, f"{word} in {path}"


def test_the_server_stops_in_mid_answer_and_says_goodbye(tiny_model, caplog):
    with served(tiny_model, HEADS, Limits(new_tokens=60, pause=60.0)) as server:
        connection, response = server.open(server.question(pause=60.0))
        emitted = events(response)
        wait(lambda: next(emitted)["kind"] == "word")
        start = time.monotonic()
    assert time.monotonic() - start < 30, "the pause is cut short"
    assert list(emitted)[-1]["reason"] == "stopped"
    connection.close()
    assert "Traceback" not in caplog.text


def test_a_server_after_an_interrupted_one_lets_its_answers_finish(tiny_model, monkeypatch):
    monkeypatch.setattr(AppStatus, "should_exit", True)  # as Ctrl-C leaves it, for the whole process
    monkeypatch.setattr("gaze_lens.serve.app.SHUTDOWN_GRACE", 0.1)
    with served(tiny_model, HEADS, Limits()) as server:
        assert server.events(server.question(max_new_tokens=5, pause=0.2))[-1]["reason"] == "full"


def test_silence_is_broken_by_pings(tiny_model, monkeypatch):
    monkeypatch.setattr("gaze_lens.serve.app.HEARTBEAT", 0.1)
    with served(tiny_model, HEADS, Limits()) as server:
        connection, response = server.open(server.question(max_new_tokens=2, pause=0.5))
        lines = response.read().split(b"\n")
        connection.close()
    assert lines.count(b": ") >= 3
    assert {line[:6] for line in lines} == {b"data: ", b": ", b""}


def test_the_command_finds_heads_and_says_where_the_page_is(tiny_model, monkeypatch):
    monkeypatch.setattr("gaze_lens.cli.running.load", lambda *_: tiny_model)
    servers = []
    monkeypatch.setattr(module.Server, "run", lambda self, sockets: servers.append((self, sockets[0])))
    result = CliRunner().invoke(commands.app, ["serve", "--port", "0", "--n-heads", "2", "--name", "box.lan"])
    assert result.exit_code == 0, result.exception
    ((server, listening),) = servers
    with listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert f"http://127.0.0.1:{listening.getsockname()[1]}" in result.output
    assert "box.lan" in server.config.app.names
    expected = score_heads(tiny_model, comics.synthetic(SCORED, seed=10_000), batch_size=8, progress=False).top(2)
    assert list(server.state.heads) == list(expected)
    help_text = CliRunner().invoke(commands.app, ["serve", "--help"]).output
    assert "Example: gaze-lens serve" in help_text.replace("\n", " ")


def test_heads_from_a_file_and_models_without(tiny_model, tmp_path, shelf):
    HEADS.save(tmp_path / "heads.json")
    heads, scores = heads_of(tiny_model, tmp_path / "heads.json", None, 1, force=False)
    assert (list(heads), scores) == (list(HEADS[:1]), None)
    with pytest.raises(InputError, match="--heads heads.json"):
        heads_of(shelf.get("Qwen3-VL")[0], None, None, None, force=False)
    with pytest.raises(HeadError, match="L30H0"):
        serve(tiny_model, HeadSet(["L30H0"]), port=0)


def test_a_port_that_is_taken_and_bounds_that_are_none():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(InputError, match="choose another --port"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match="--port 70000"):
        bind("127.0.0.1", 70000)
    with pytest.raises(InputError, match="new_tokens=0"):
        Limits(new_tokens=0)


@pytest.mark.parametrize("missing", ["pydantic", "sse_starlette", "starlette", "uvicorn"])
def test_the_extra_that_is_missing_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"needs {missing}.*pip install 'gaze-lens\[serve\]'"):
        require_extra()
