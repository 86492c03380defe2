"""Binding the address and running the application until the process is interrupted."""

import socket
from contextlib import suppress
from typing import Any

import typer
import uvicorn

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.serve.app import Desk, build
from gaze_lens.serve.limits import Limits
from gaze_lens.serve.security import LOOPBACK

ANY = ("0.0.0.0", "::")
CONNECTIONS = 64  # at the same time; more are turned away
GOODBYE = 5  # seconds that an answer has for its last token when the server stops


def run(model: Any, heads: HeadSet, *, host: str, port: int, names: tuple[str, ...], limits: Limits) -> None:
    """Serve until Ctrl-C; says the address on standard output."""
    listening = bind(host, port)
    called = f"[{host}]" if ":" in host else host
    if called not in LOOPBACK:
        typer.secho("Everybody who can reach this address can use the model; there is no password.", err=True)
    reached = "localhost" if host in ANY else called
    typer.echo(f"http://{reached}:{listening.getsockname()[1]} (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has shut down
        Server(Desk(model, heads, limits), (called, *names)).run(sockets=[listening])


class Server(uvicorn.Server):
    """A uvicorn server of the application, whose answers end when it stops; `.run(sockets=[...])` runs it."""

    def __init__(self, desk: Desk, names: tuple[str, ...] = ()) -> None:
        self.desk = desk
        super().__init__(_config(build(desk, names)))

    async def shutdown(self, sockets: Any = None) -> None:
        """Send everybody away, then wait for their connections to close."""
        self.desk.line.close()
        await super().shutdown(sockets)


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_level="warning", ws="none", proxy_headers=False, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=GOODBYE,
    )  # fmt: skip


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address; InputError where that cannot be."""
    if not 0 <= port < 65536:
        raise InputError(f"--port {port} was given; expected 0 (any free one) to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise InputError(f"Cannot listen on {host}, port {port} ({error.strerror}); choose another --port.") from error
    return listening
