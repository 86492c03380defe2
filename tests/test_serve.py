"""The server: answers under a target that moves, one at a time, and what it refuses."""

import socket
import sys
import threading
import time
from io import BytesIO

import pytest
import torch
from PIL import Image
from serving import events, served, wait
from typer.testing import CliRunner

from gaze_lens import Box, HeadSet, cli, comics, steer, track
from gaze_lens.attention_hooks import AttentionBias
from gaze_lens.errors import HeadError, InputError, RegionError
from gaze_lens.serve import Limits, require_extra, serve
from gaze_lens.serve.app import Desk
from gaze_lens.serve.asks import Aim, Ask
from gaze_lens.serve.guard import Guard
from gaze_lens.serve.server import bind
from gaze_lens.serve.turns import Turn, Wheel

HEADS = HeadSet(["L2H0", "L1H4"])
LIMITS = Limits(upload=1_000_000, new_tokens=60, waiting=2, pictures=3, patience=1.0, pixels=20_000, regions=8)
STRENGTH = 10_000.0


@pytest.fixture(scope="module")
def strip():
    return comics.synthetic(1, seed=5)[0]


@pytest.fixture(scope="module")
def running(tiny_model):
    with served(tiny_model, HEADS, LIMITS) as server:
        yield server


@pytest.fixture
def server(running):
    """The module's server, at rest before and after."""
    running.idle()
    yield running
    running.idle()


def aim(strip, name):
    return Aim(name, strip.regions[name], STRENGTH)


def answer(model, strip, target=None, *, at=None, **changes):
    """Run a turn without a server; `at`: step -> what to do with the turn when that word has been written."""
    told = []

    def tell(event):
        told.append(event)
        if event["kind"] == "word" and event["step"] in (at or {}):
            at[event["step"]](turn)

    options = {"max_new_tokens": 40, "pause": 0.0, **changes}
    turn = Turn(model, HEADS, Ask(strip, comics.NARRATE_FREELY, target, **options), tell)
    turn.run()
    return told


def said(told):
    return "".join(event["text"] for event in told if event["kind"] == "word")


def kinds(told):
    return [event["kind"] for event in told if event["kind"] != "word"]


@pytest.mark.parametrize("step", [0, 3, 10])
def test_a_switch_in_mid_sentence_is_the_schedule_with_that_step(tiny_model, strip, step):
    told = answer(tiny_model, strip, aim(strip, "panel 2"), at={step: lambda turn: turn.aim(aim(strip, "panel 5"))})
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    schedule = [(0, inputs.region("panel 2")), (step + 1, inputs.region("panel 5"))]
    expected = tiny_model.generate(inputs, fwd_hooks=steer(HEADS, schedule=schedule), max_new_tokens=40)
    assert said(told) == str(expected)
    words = [event for event in told if event["kind"] == "word"]
    assert [event["target"] for event in words] == ["panel 2" if e["step"] <= step else "panel 5" for e in words]


def test_without_a_target_it_says_what_the_model_says_and_letting_go_lets_go(tiny_model, strip):
    free = answer(tiny_model, strip)
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    assert said(free) == str(tiny_model.generate(inputs, max_new_tokens=40))
    held = answer(tiny_model, strip, aim(strip, "panel 2"))
    let_go = answer(tiny_model, strip, aim(strip, "panel 2"), at={8: lambda turn: turn.aim(None)})
    assert said(held) == " ".join([strip.captions["panel 2"]] * 6)
    assert said(let_go)[:20] == said(held)[:20]
    assert said(let_go) != said(held)


def test_masses_are_those_of_track(tiny_model, strip):
    told = answer(tiny_model, strip, aim(strip, "panel 3"), max_new_tokens=8)
    inputs = tiny_model.prepare(strip, comics.NARRATE_FREELY)
    hooks = steer(HEADS, inputs.region("panel 3"))
    expected = track(tiny_model, inputs, HEADS, fwd_hooks=hooks, max_new_tokens=8)
    words = [event for event in told if event["kind"] == "word"]
    assert len(words) == 8
    for event in words:
        mass = torch.tensor([event["mass"][name] for name in expected.regions])
        assert (mass - expected.mean[event["step"]]).abs().max() < 1e-4
        assert event["mass"]["panel 3"] > 0.9
        assert event["image"] == pytest.approx(mass.sum().item(), abs=1e-3), "panels cover the strip"


def test_a_box_that_is_drawn_in_mid_sentence_is_watched_from_then_on(tiny_model, strip):
    box = Aim("box 1", Box(129, 1, 158, 30), STRENGTH)
    told = answer(tiny_model, strip, at={4: lambda turn: turn.aim(box)})
    words = [event for event in told if event["kind"] == "word"]
    assert all(("box 1" in event["mass"]) == (event["step"] > 4) for event in words)
    assert words[-1]["mass"]["box 1"] > 0.9
    assert strip.captions["panel 5"] in said(told)


def test_a_target_that_cannot_be_is_told_and_the_old_one_stays(tiny_model, strip):
    outside = Aim("box 1", Box(500, 0, 600, 30), STRENGTH)
    told = answer(tiny_model, strip, aim(strip, "panel 2"), at={2: lambda turn: turn.aim(outside)})
    assert kinds(told) == ["started", "refused", "done"]
    assert said(told) == said(answer(tiny_model, strip, aim(strip, "panel 2")))
    with pytest.raises(RegionError):
        answer(tiny_model, strip, outside)


def test_cancelling_writes_no_further_token_and_cuts_a_pause_short(tiny_model, strip):
    told = answer(tiny_model, strip, at={3: lambda turn: turn.cancel()})
    assert told[-1] == {"kind": "done", "reason": "stopped", "tokens": 4}
    start = time.monotonic()
    late = {0: lambda turn: threading.Timer(0.05, turn.cancel).start()}
    told = answer(tiny_model, strip, at=late, pause=30.0)
    assert told[-1]["reason"] == "stopped"
    assert time.monotonic() - start < 29


def test_only_the_last_of_many_wishes_counts_whatever_thread_they_come_from(tiny_model, strip):
    def flood(turn):
        threads = [threading.Thread(target=turn.aim, args=(aim(strip, f"panel {n}"),)) for n in (1, 3, 4, 6) * 5]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        turn.aim(aim(strip, "panel 5"))

    told = answer(tiny_model, strip, aim(strip, "panel 2"), at={3: flood})
    once = answer(tiny_model, strip, aim(strip, "panel 2"), at={3: lambda turn: turn.aim(aim(strip, "panel 5"))})
    assert said(told) == said(once)
    assert [event["target"] for event in told if event["kind"] == "target"] == ["panel 5"]


def test_a_wheel_on_the_full_matrix_does_what_its_bias_does(shelf):
    model, _ = shelf.get("Qwen3-VL")
    inputs = model.prepare(Image.new("RGB", (64, 64), "red"), "Hi")
    heads = HeadSet(["L1H0", "L1H2"])
    ((name, bias), *_) = steer(heads, inputs.region((0, 0, 32, 64)))
    wheel, look = Wheel.of(heads), [("blocks.1.attn.hook_pattern", lambda pattern, hook: None)]
    free, steered = model(inputs), model.run_with_hooks(inputs, fwd_hooks=[(name, bias), *look])
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=wheel.hooks()), free)
    wheel.turn(bias)
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=[*wheel.hooks(), *look]), steered)
    assert not torch.allclose(steered, free)
    wheel.turn(None)
    assert torch.equal(model.run_with_hooks(inputs, fwd_hooks=wheel.hooks()), free)
    assert isinstance(wheel, AttentionBias)


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
    text, key, told = "", None, []
    for event in events(response):
        told.append(event)
        key = event.get("id", key)
        if event["kind"] == "word":
            text += event["text"]
            if event["step"] == 2:
                body = {"target": {"name": "panel 5", "box": [128, 0, 160, 32], "strength": 10000}}
                assert server.ask("POST", f"/answers/{key}/target", body)[0] == 204
    connection.close()
    assert "target" in [event["kind"] for event in told]
    assert text.startswith("red square")
    assert text.endswith(strip.captions["panel 5"] + " " + strip.captions["panel 5"])
    assert server.error("POST", f"/answers/{key}/target", {"target": None})[0] == 404


def test_one_at_a_time_in_order_and_the_line_is_bounded(server):
    first = server.open(server.question(pause=0.3))
    wait(lambda: server.desk.line.running is not None)
    quick = server.question(max_new_tokens=2)
    second, third = server.open(quick), server.open(quick)
    wait(lambda: len(server.desk.line.waiting) == 2)
    status, message = server.error("POST", "/answers", quick)
    assert status == 503
    assert "2 questions are waiting" in message
    told = [next(iter(events(response))) for _, response in (second, third)]
    assert [event["ahead"] for event in told] == [1, 2]
    key = next(iter(events(first[1])))["id"]
    assert server.ask("POST", f"/answers/{key}/stop", {})[0] == 204
    assert list(events(first[1]))[-1]["reason"] == "stopped"
    rests = [list(events(response)) for _, response in (second, third)]
    assert [rest[-1]["kind"] for rest in rests] == ["done", "done"]
    assert [event["ahead"] for event in rests[1] if event["kind"] == "queued"] == [1]
    for connection, _ in (first, second, third):
        connection.close()


def test_whoever_waits_can_leave(server):
    first, second = server.open(server.question(pause=0.3)), server.open(server.question())
    wait(lambda: len(server.desk.line.waiting) == 1)
    key = server.desk.line.waiting[0].key
    server.ask("POST", f"/answers/{key}/stop", {})
    assert list(events(second[1]))[-1] == {"kind": "done", "reason": "stopped", "tokens": 0}
    assert server.desk.line.running is not None
    for connection, response in (first, second):
        response.close()
        connection.close()


def test_a_client_that_is_gone_ends_its_answer_and_leaves_the_line(server):
    first, second = server.open(server.question(pause=0.5, max_new_tokens=60)), server.open(server.question())
    wait(lambda: len(server.desk.line.waiting) == 1)
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


def test_a_script_in_the_prompt_is_text_like_any_other(server):
    told = server.events(server.question(prompt="<script>alert(1)</script>", max_new_tokens=2))
    assert told[-1]["kind"] == "done"


def png(size=(40, 20), **options):
    buffer = BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format="PNG", **options)
    return buffer.getvalue()


def test_a_picture_comes_back_as_it_was_and_the_oldest_make_room(server):
    sent = server.json("POST", "/pictures", png())
    assert (sent["width"], sent["height"], sent["regions"]) == (40, 20, {})
    status, headers, data = server.ask("GET", f"/pictures/{sent['key']}")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert Image.open(BytesIO(data)).tobytes() == Image.new("RGB", (40, 20), "teal").tobytes()
    for _ in range(LIMITS.pictures):
        server.json("POST", "/pictures", png())
    status, message = server.error("GET", f"/pictures/{sent['key']}")
    assert (status, "load it again" in message) == (404, True)
    assert server.error("POST", "/answers", server.question(picture=sent["key"], regions={}))[0] == 404


def test_a_large_picture_is_scaled_down(server):
    sent = server.json("POST", "/pictures", png((800, 200)))
    assert sent["width"] * sent["height"] <= LIMITS.pixels
    assert sent["width"] / sent["height"] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"I am a text, called picture.png", "no picture; expected PNG, JPEG, WEBP, BMP"),
        (png()[:60], "damaged"),
        (b"GIF89a" + bytes(40), "no picture"),
        (png((9000, 9000)), "9000 x 9000 pixels"),
        (b"", "no picture"),
    ],
    ids=["text", "cut short", "gif", "too many pixels", "empty"],
)
def test_what_is_no_picture_is_refused(server, data, message):
    status, told = server.error("POST", "/pictures", data)
    assert status == 400
    assert message in told


def raw(server, head, body=b"", *, parts=0):
    """Send bytes, then `parts` megabytes in chunks as far as the server takes them: (answer, megabytes sent)."""
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.replace("HOST", f"127.0.0.1:{server.port}").encode() + body)
        answer = b""
        try:
            for _ in range(parts):
                connection.sendall(b"100000\r\n" + bytes(0x100000) + b"\r\n")
                sent += 1
        except OSError:
            pass  # the server has closed the connection
        try:
            while piece := connection.recv(65536):
                answer += piece
        except OSError:
            pass
    return answer, sent


UPLOAD = "POST /pictures HTTP/1.1\r\nHost: HOST\r\nOrigin: http://HOST\r\n"


def test_200_megabytes_are_refused_before_any_of_them_is_read(server):
    answer, _ = raw(server, UPLOAD + "Content-Length: 200000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"larger than 1 MB" in answer


def test_200_megabytes_without_a_length_are_refused_on_the_way(server):
    _, sent = raw(server, UPLOAD + "Transfer-Encoding: chunked\r\n\r\n", parts=200)
    assert sent < 100
    assert server.json("GET", "/about")["upload"] == LIMITS.upload, "and the server goes on"


def test_an_upload_that_does_not_come_is_given_up(server):
    answer, _ = raw(server, UPLOAD + "Content-Length: 1000\r\n\r\n", b"half")
    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "user@localhost", "[::2]:1"]
)
def test_a_name_that_only_points_here_is_refused(server, host):
    status, message = server.error("GET", "/", Host=host)
    assert status == 421
    assert "not called" in message


def test_the_names_that_are_its_own(server):
    for host in ("localhost", f"LOCALHOST:{server.port}", "127.0.0.1:1", "[::1]:8765", "[::1]"):
        assert server.ask("GET", "/", Host=host)[0] == 200
    assert Guard(None, ["Box.lan"]).complaint("GET", ["box.lan:80"], []) is None
    assert Guard(None, []).complaint("GET", ["localhost", "evil.example"], []).status == 421


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "http://localhost", "https://127.0.0.1"]
)
@pytest.mark.parametrize("path", ["/samples", "/pictures", "/answers", "/answers/x/stop", "/answers/x/target"])
def test_no_other_origin_may_post(server, path, origin):
    status, message = server.error("POST", path, {"seed": 1}, origin=None, Origin=origin)
    assert status == 403
    assert "own page" in message


def test_every_answer_has_safe_headers(server):
    for path in ("/", "/page.js", "/about", "/nothing", "/pictures/x"):
        headers = server.ask("GET", path)[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert server.ask("GET", "/../cli.py")[0] == 404
    assert server.ask("GET", "/answers")[0] == 405


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "no question"),
        ({"prompt": 3}, "no question"),
        ({"prompt": "a" * 4001}, "4001 characters"),
        ({"max_new_tokens": 61}, "from 1 to 60"),
        ({"max_new_tokens": True}, "from 1 to 60"),
        ({"pause": -1}, "pause"),
        ({"pause": "0"}, "pause"),
        ({"regions": [1]}, "at most 8 names"),
        ({"regions": {str(n): [0, 0, 1, 1] for n in range(9)}}, "at most 8 names"),
        ({"regions": {"a" * 61: [0, 0, 1, 1]}}, "at most 60 characters"),
        ({"regions": {"a": [0, 0, 1]}}, "four numbers"),
        ({"regions": {"a": [0, 0, 1, 1e400]}}, "four numbers"),
        ({"regions": {"a": [500, 0, 600, 20]}}, "outside the image"),
        ({"regions": {"a": [9, 9, 3, 3]}}, ""),
        ({"target": "panel 2"}, "'target' is to be"),
        ({"target": {"name": "a", "box": [0, 0, 32, 32], "strength": 1e9}}, "strength"),
        ({"target": {"name": "a", "box": [0, 0, None, 32], "strength": 1}}, "four numbers"),
    ],
    ids=str,
)
def test_questions_that_cannot_be_asked(server, change, message):
    status, told = server.error("POST", "/answers", server.question(**change))
    assert status == 400
    assert message in told


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 60_000])
def test_what_is_no_json_object(server, body):
    assert server.error("POST", "/answers", body)[0] == 400
    assert server.error("POST", "/answers", b'{"prompt": "' + b"a" * 70_000 + b'"}')[0] == 413


def test_the_page_loads_nothing_from_elsewhere(server):
    files = ["/", "/page.css", "/page.js", "/stage.js", "/stream.js", "/words.js"]
    texts = {path: server.ask("GET", path)[2].decode() for path in files}
    for path, text in texts.items():
        assert text, path
        for word in ("http:", "https:", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, f"{word} in {path}"


def test_the_server_stops_in_mid_answer(tiny_model):
    with served(tiny_model, HEADS, Limits()) as server:
        connection, response = server.open(server.question(pause=1.0))
        assert next(iter(events(response)))["kind"] == "queued"
        start = time.monotonic()
    assert time.monotonic() - start < 15
    connection.close()


def test_the_command_finds_heads_and_says_where_the_page_is(tiny_model, monkeypatch):
    from gaze_lens import score_heads
    from gaze_lens.serve import server as module

    monkeypatch.setattr(cli, "_load", lambda *_: tiny_model)
    seen, made = [], []
    monkeypatch.setattr(module, "Desk", lambda *given: made.append(Desk(*given)) or made[-1])
    monkeypatch.setattr(module.uvicorn.Server, "run", lambda self, sockets: seen.append((self, sockets[0])))
    result = CliRunner().invoke(cli.app, ["serve", "--port", "0", "--n-heads", "2", "--name", "box.lan"])
    assert result.exit_code == 0, result.exception
    ((server, listening),) = seen
    with listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert f"http://127.0.0.1:{listening.getsockname()[1]}" in result.output
    assert "box.lan" in server.config.app.names
    expected = score_heads(tiny_model, comics.synthetic(12, seed=10_000), batch_size=4, progress=False).top(2)
    assert list(made[0].heads) == list(expected)
    help_text = CliRunner().invoke(cli.app, ["serve", "--help"]).output
    assert "Example: gaze-lens serve" in help_text.replace("\n", " ")


def test_heads_from_a_file_and_models_without(tiny_model, tmp_path, shelf):
    HEADS.save(tmp_path / "heads.json")
    assert list(cli._heads(tiny_model, tmp_path / "heads.json", 1, False)) == list(HEADS[:1])
    with pytest.raises(InputError, match="--heads heads.json"):
        cli._heads(shelf.get("Qwen3-VL")[0], None, None, False)
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


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_the_extra_that_is_missing_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"needs {missing}.*pip install 'gaze-lens\[serve\]'"):
        require_extra()
