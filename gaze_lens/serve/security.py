"""Which requests the server answers, and how large they may be.

A page of any origin can make its visitor's browser send requests to this machine, and a name that its owner points at
127.0.0.1 (DNS rebinding) makes the browser take the two for one origin. So the Host header must name this server, and
a request that changes something must come from the server's own page.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from gaze_lens.serve.limits import Limits, RequestError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SAFE = ("GET", "HEAD")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class SecurityMiddleware:
    """The outermost application: refuses other hosts and origins, and adds security headers to every response.

    Starlette's TrustedHostMiddleware would not do: it checks no Origin, reads only the first of two Host headers, and
    redirects to names that begin with "www.".
    """

    def __init__(self, app: Any, names: Iterable[str]) -> None:
        self.app, self.names = app, {*LOOPBACK, *(name.lower() for name in names)}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Request(scope).headers

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        error = self.error_of(scope["method"], headers.getlist("host"), headers.getlist("origin"))
        app = self.app if error is None else JSONResponse({"error": str(error)}, error.status)
        await app(scope, receive, send_with_headers)

    def error_of(self, method: str, hosts: list[str], origins: list[str]) -> RequestError | None:
        """What is wrong with a request's Host and Origin headers; None where nothing is."""
        host = hosts[0] if len(hosts) == 1 else ""
        if _without_port(host) not in self.names:
            return RequestError(
                f"This server is not called {host[:80]!r}. Open it as localhost, or start it with --name.", 421
            )
        if method not in SAFE and origins not in ([f"http://{host}"], [f"https://{host}"]):
            return RequestError(
                "Only the server's own page may send this; the Origin header names another, or none.", 403
            )
        return None


def _without_port(host: str) -> str:
    """The name in a Host header: "localhost:8765" is "localhost", "[::1]:8765" is "[::1]"."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


async def read_body(request: Request, limit: int, limits: Limits) -> bytes:
    """The body of a request, of at most `limit` bytes.

    RequestError (413) where it is larger: before any of it is read where the request gives its length, else as soon
    as it has become larger. RequestError (408) where it takes too long.
    """
    too_large = RequestError(f"The file or request is larger than {limit / 1e6:g} MB; send a smaller one.", 413)
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_large
    except TimeoutError as error:
        raise RequestError(f"The request did not arrive in {limits.patience:g} seconds; send it again.", 408) from error
    return bytes(body)
