"""A server in a thread of the test process: loopback only, on a free port, stopped at the end of its tests."""

import http.client
import json
import threading
import time
from contextlib import contextmanager

LONGEST = 60  # seconds that any wait in these tests may take


class Served:
    """A running server, its state, and requests as its own page sends them."""

    def __init__(self, state, port):
        self.state, self.port = state, port
        self.origin = f"http://127.0.0.1:{port}"

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST)

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body) of one request; a dict goes as JSON."""
        connection = self.connect()
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        named = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        sent = {"Origin": self.origin, **named} if "origin" not in headers else named
        connection.request(method, path, data, {name: value for name, value in sent.items() if value is not None})
        response = connection.getresponse()
        content = response.status, response.headers, response.read()
        connection.close()
        return content

    def json(self, method, path, body=None, **headers):
        """The JSON of a request that must succeed."""
        status, _, data = self.ask(method, path, body, **headers)
        assert status == 200, data
        return json.loads(data)

    def error(self, method, path, body=None, **headers):
        """(status, message) of a request that must fail."""
        status, _, data = self.ask(method, path, body, **headers)
        assert status >= 400
        return status, json.loads(data)["error"]

    def question(self, **changes):
        """A question about a new sample strip."""
        sample = self.json("POST", "/samples", {"seed": 5})
        base = {"picture": sample["key"], "prompt": "Say what each panel shows, in any order, without numbers.",
                "regions": sample["regions"], "target": None, "max_new_tokens": 40, "pause": 0}  # fmt: skip
        return {**base, **changes}

    def open(self, question):
        """Send a question; the connection and its response, whose events are yet to be read."""
        connection = self.connect()
        connection.request("POST", "/answers", json.dumps(question), {"Origin": self.origin})
        return connection, connection.getresponse()

    def events(self, question):
        """All events of an answer."""
        connection, response = self.open(question)
        assert response.status == 200, response.read()
        emitted = list(events(response))
        connection.close()
        return emitted

    def idle(self):
        """Wait until nothing runs and nothing waits."""
        wait(lambda: self.state.queue.running is None and not self.state.queue.waiting)


def events(response):
    """Events of a response, as they come."""
    while line := response.readline():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def wait(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@contextmanager
def served(model, heads, limits):
    """Serve a model from a thread."""
    from gaze_lens.serve.app import AppState
    from gaze_lens.serve.server import Server, bind

    listening = bind("127.0.0.1", 0)
    state = AppState(model, heads, limits)
    running = Server(state)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait(lambda: running.started)
    try:
        yield Served(state, listening.getsockname()[1])
    finally:
        running.should_exit = True
        thread.join(LONGEST)
        assert not thread.is_alive(), "the server did not stop"
