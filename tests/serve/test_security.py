"""What the server refuses: foreign hosts and origins, files that are no pictures, and too much of anything."""

import socket
from io import BytesIO

import pytest
from PIL import Image
from serving import served

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
