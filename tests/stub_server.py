"""A language-model service for tests: loopback only, scripted replies, and a record of what it was sent."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONGEST = 30  # seconds that any wait may take


class Stub:
    """replies: (status, body) to give, in order; the last one for ever. A body is bytes, or goes as JSON."""

    def __init__(self, replies):
        self.replies, self.requests, self.lock = list(replies), [], threading.Lock()

    def next_reply(self, request):
        with self.lock:
            self.requests.append(request)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        status, body = reply(request) if callable(reply) else reply
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()


def sent_headers(handler):
    """The headers of a request, their names in lower case."""
    return {name.lower(): value for name, value in handler.headers.items()}


@contextmanager
def serving(*replies):
    """(stub, base address) of a running service."""
    stub = Stub(replies)

    class Handler(BaseHTTPRequestHandler):
        timeout = LONGEST

        def do_POST(self):
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, body = stub.next_reply({"path": self.path, "headers": sent_headers(self), "body": sent})
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.send_header("retry-after-ms", "1")  # so that clients do not wait before they ask again
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(LONGEST)
