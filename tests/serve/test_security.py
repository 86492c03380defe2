"""What the server refuses: foreign hosts and origins, files that are no pictures, and too much of anything."""

import socket
import time
from contextlib import contextmanager, suppress
from io import BytesIO

import pytest
from PIL import Image
from serving import events, served

from gaze_lens import HeadSet
from gaze_lens.serve import Limits
from gaze_lens.serve.security import SecurityMiddleware

LIMITS = Limits(upload=1_000_000, new_tokens=60, pictures=3, patience=1.0, pixels=20_000, regions=8)


@pytest.fixture(scope="module")
def server(tiny_model):
    with served(tiny_model, HeadSet(["L2H0", "L1H4"]), LIMITS) as running:
        yield running
        running.idle()


def test_a_script_in_the_prompt_is_text_like_any_other(server):
    emitted = server.events(server.question(prompt="<script>alert(1)</script>", max_new_tokens=2))
    assert emitted[-1]["kind"] == "done"


def png(size=(40, 20), **options):
    buffer = BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format="PNG", **options)
    return buffer.getvalue()


def test_a_picture_comes_back_as_it_was_and_the_oldest_make_room(server):
    stored = server.json("POST", "/pictures", png())
    assert (stored["width"], stored["height"], stored["regions"]) == (40, 20, {})
    status, headers, data = server.ask("GET", f"/pictures/{stored['key']}")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert Image.open(BytesIO(data)).tobytes() == Image.new("RGB", (40, 20), "teal").tobytes()
    for _ in range(LIMITS.pictures):
        server.json("POST", "/pictures", png())
    status, message = server.error("GET", f"/pictures/{stored['key']}")
    assert (status, "load it again" in message) == (404, True)
    assert server.error("POST", "/answers", server.question(picture=stored["key"], regions={}))[0] == 404


def test_a_large_picture_is_scaled_down(server):
    stored = server.json("POST", "/pictures", png((800, 200)))
    assert stored["width"] * stored["height"] <= LIMITS.pixels
    assert stored["width"] / stored["height"] == pytest.approx(4, rel=0.02)


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
    status, answer = server.error("POST", "/pictures", data)
    assert status == 400
    assert message in answer


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


HALF = "GET /about HTTP/1.1\r\nHost: HOST\r\n"


@contextmanager
def half_sent(server, number, before=""):
    """Connections on which half of a request's headers came, after the whole request `before`, if any."""
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(number)]
    try:
        for connection in connections:
            connection.sendall((before + HALF).replace("HOST", f"127.0.0.1:{server.port}").encode())
        if before:
            for connection in connections:  # requests that are being answered are no idle connections: let them end
                with suppress(ConnectionResetError):
                    connection.recv(1)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def test_half_sent_headers_keep_nobody_out(server):
    with half_sent(server, 80):
        for _ in range(5):
            assert server.json("GET", "/about")["upload"] == LIMITS.upload
    with half_sent(server, 80), half_sent(server, 80, before=HALF + "\r\n"):
        assert server.events(server.question(max_new_tokens=2))[-1]["kind"] == "done"


@pytest.mark.parametrize("before", ["", HALF + "\r\n"], ids=["first", "second"])
def test_half_sent_headers_are_given_up(server, before):
    begin = time.monotonic()
    with half_sent(server, 1, before) as (connection,):
        while connection.recv(65536):
            pass  # the answer to the request before
    assert LIMITS.patience * 0.9 < time.monotonic() - begin < 15


def test_an_answer_outlasts_the_patience_and_the_idle(server):
    """A connection with a running answer is no idle one, however long it takes and whoever comes after it."""
    connection, response = server.open(server.question(max_new_tokens=8, pause=0.3))
    with half_sent(server, 80):
        emitted = list(events(response))
    connection.close()
    assert [event["kind"] for event in emitted].count("word") >= 6
    assert emitted[-1]["kind"] == "done"


BODY = '{"picture": "KEY", "prompt": "x", "max_new_tokens": 1, "pause": 0}'
UNCLEAR = {
    "a box of 10**400": ("/answers", BODY[:-1] + ', "regions": {"a": [0, 0, BIG, 9]}}'),
    "a box of 5000 digits": ("/answers", BODY[:-1] + ', "regions": {"a": [0, 0, LONG, 9]}}'),
    "a target of 10**400": (
        "/answers", BODY[:-1] + ', "target": {"name": "a", "box": [0, 0, 9, BIG], "strength": 1}}'),
    "a strength of 10**400": (
        "/answers", BODY[:-1] + ', "target": {"name": "a", "box": [0, 0, 9, 9], "strength": BIG}}'),
    "tokens of 10**400": ("/answers", BODY.replace("1,", "BIG,")),
    "a seed of 10**400": ("/samples", '{"seed": BIG}'),
    "a seed of 5000 digits": ("/samples", '{"seed": LONG}'),
    "half a pair in a prompt": ("/answers", BODY.replace('"x"', '"x \\ud800"')),
    "half a pair in a region's name": ("/answers", BODY[:-1] + ', "regions": {"\\udfff": [0, 0, 9, 9]}}'),
    "half a pair in a target's name": (
        "/answers", BODY[:-1] + ', "target": {"name": "\\ud800", "box": [0, 0, 9, 9], "strength": 1}}'),
    "half a pair in a key": ("/answers", BODY.replace("KEY", "\\ud800")),
    "no UTF-8": ("/answers", BODY.replace('"x"', '"caf\\xe9"').encode().replace(b"\\xe9", b"\xe9")),
    "nested lists": ("/answers", "[" * 30_000),
    "nested lists as a key": ("/answers", BODY.replace('"KEY"', "[" * 20_000 + "]" * 20_000)),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR.values(), ids=UNCLEAR)
def test_what_json_may_hold_and_the_server_cannot_use_is_refused(server, case):
    path, body = case
    if isinstance(body, str):
        body = body.replace("BIG", "1" + "0" * 400).replace("LONG", "1" * 5000)
        body = body.replace("KEY", server.json("POST", "/samples", {"seed": 1})["key"]).encode()
    status, message = server.error("POST", path, body)
    assert status == 400
    assert 10 < len(message) < 400


@pytest.mark.parametrize("path", ["/pictures/caf%E9", "/pictures/%ED%A0%80", "/%00", "/pictures/%2e%2e%2fx", "/caf%E9"])
def test_paths_that_are_no_utf8_are_not_here(server, path):
    assert server.ask("GET", path)[0] == 404


def test_bytes_that_are_no_ascii_in_a_request_line_or_host(server):
    for head in ("GET /caf\u00e9 HTTP/1.1\r\nHost: HOST\r\n\r\n", "GET / HTTP/1.1\r\nHost: caf\u00e9\r\n\r\n"):
        answer, _ = raw(server, head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 421")


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_orientation_that_exif_does_not_know_changes_nothing(server, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = server.json("POST", "/pictures", png(exif=exif))
    assert (stored["width"], stored["height"]) == (40, 20)
    question = server.question(picture=stored["key"], regions={"left": [0, 0, 20, 20]}, max_new_tokens=1)
    assert server.events(question)[-1]["kind"] == "done"


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
    assert SecurityMiddleware(None, ["Box.lan"]).error_of("GET", ["box.lan:80"], []) is None
    assert SecurityMiddleware(None, []).error_of("GET", ["localhost", "evil.example"], []).status == 421


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
        ({"prompt": 3}, "prompt: Input should be a valid string; 3 was given"),
        ({"prompt": "a" * 4001}, "4001 characters"),
        ({"max_new_tokens": 61}, "from 1 to 60"),
        ({"max_new_tokens": True}, "max_new_tokens: Input should be a valid number; True"),
        ({"pause": -1}, "pause"),
        ({"pause": "0"}, "pause: Input should be a valid number"),
        ({"regions": [1]}, "regions: Input should be an object"),
        ({"regions": {str(n): [0, 0, 1, 1] for n in range(9)}}, "at most 8 are taken"),
        ({"regions": {"a" * 61: [0, 0, 1, 1]}}, "at most 60 characters"),
        ({"regions": {"a": [0, 0, 1]}}, "regions.a.3: Field required"),
        ({"regions": {"a": [0, 0, 1, 1e400]}}, "regions.a.3: Input should be a finite number"),
        ({"regions": {"a": [500, 0, 600, 20]}}, "outside the image"),
        ({"regions": {"a": [9, 9, 3, 3]}}, ""),
        ({"target": "panel 2"}, "target: Input should be an object"),
        (
            {"target": {"name": "a", "box": [0, 0, 32, 32], "strength": 1e9}},
            "target.strength: Input should be less than or equal to 100000",
        ),
        (
            {"target": {"name": "a", "box": [0, 0, None, 32], "strength": 1}},
            "target.box.2: Input should be a valid number",
        ),
        ({"target": {"name": "a", "disc": [9, 9, 0], "mass": 0.5}}, "target.disc.2: Input should be greater than 0"),
        ({"target": {"name": "a", "disc": [9, 9, 3], "mass": 1.0}}, "target.mass: Input should be less than 1"),
        ({"target": {"name": "a", "disc": [9, 9, 3], "mass": 0.5, "n_heads": 0}}, "target.n_heads"),
        ({"target": {"name": "a", "box": [0, 0, 9, 9], "disc": [9, 9, 3], "mass": 0.5}}, "give a box or a disc"),
        ({"target": {"name": "a", "box": [0, 0, 9, 9]}}, "a strength or a mass"),
        ({"target": {"name": "a", "box": [0, 0, 9, 9], "strength": 1, "mass": 0.5}}, "a strength or a mass"),
        ({"baseline": 1}, "baseline: Input should be a valid boolean"),
    ],
    ids=str,
)
def test_questions_that_cannot_be_asked(server, change, message):
    status, answer = server.error("POST", "/answers", server.question(**change))
    assert status == 400
    assert message in answer


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 60_000])
def test_what_is_no_json_object(server, body):
    assert server.error("POST", "/answers", body)[0] == 400
    assert server.error("POST", "/answers", b'{"prompt": "' + b"a" * 70_000 + b'"}')[0] == 413
