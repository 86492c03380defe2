"""Binding the address, and running the application until the process is interrupted."""

import socket
from contextlib import suppress
from functools import partial
from typing import Any

import typer
import uvicorn

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model_protocol import Model
from gaze_lens.serve.app import SHUTDOWN_GRACE, AppState, build
from gaze_lens.serve.connections import PatientProtocol
from gaze_lens.serve.limits import Limits
from gaze_lens.serve.security import LOOPBACK

EVERY_ADDRESS = ("0.0.0.0", "::")
CONNECTIONS = 64  # at the same time; more are refused


def run(model: Model, heads: HeadSet, *, host: str, port: int, names: tuple[str, ...], limits: Limits) -> None:
    """Serve until Ctrl-C; prints the address."""
    listener = bind(host, port)
    name = f"[{host}]" if ":" in host else host
    if name not in LOOPBACK:
        typer.secho("Everybody who can reach this address can use the model; there is no password.", err=True)
    address = "localhost" if host in EVERY_ADDRESS else name
    typer.echo(f"http://{address}:{listener.getsockname()[1]} (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has shut down
        Server(AppState(model, heads, limits), (name, *names)).run(sockets=[listener])


class Server(uvicorn.Server):
    """A uvicorn server of the application, whose answers end when it stops; `.run(sockets=[...])` runs it."""

    def __init__(self, state: AppState, names: tuple[str, ...] = ()) -> None:
        self.state = state
        super().__init__(_config(build(state, names), state.limits))

    async def shutdown(self, sockets: Any = None) -> None:
        """End every answer, then wait for the connections to close."""
        self.state.queue.close()
        await super().shutdown(sockets)


def _config(app: Any, limits: Limits) -> uvicorn.Config:
    protocol: Any = partial(PatientProtocol, patience=limits.patience)
    return uvicorn.Config(
        app, http=protocol, log_level="warning", ws="none", proxy_headers=False, server_header=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=SHUTDOWN_GRACE,
    )  # fmt: skip


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address; InputError where that cannot be."""
    if not 0 <= port < 65536:
        raise InputError(f"--port {port} was given; expected 0 (any free one) to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(f"Cannot listen on {host}, port {port} ({error.strerror}); choose another --port.") from error
    return listener
