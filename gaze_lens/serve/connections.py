"""Connections without a request take no place from others.

uvicorn waits for ever for the rest of a request's headers, and counts such a connection among those that it allows.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientProtocol(H11Protocol):
    """HTTP/1.1 on one connection, which is closed where a request's headers do not arrive in time.

    patience: seconds from the connection, or from the first byte of a later request. Where there are as many
    connections as uvicorn's limit_concurrency, a new one closes the oldest that has no request.
    """

    def __init__(self, *args: Any, patience: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.patience, self.opened = patience, self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """As asyncio has it."""
        super().connection_made(transport)
        self._watch()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        if not self.is_idle:
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.patience, self.transport.close)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        idle: list[Any] = [one for one in self.connections if one is not self and getattr(one, "is_idle", False)]
        excess = 0 if self.limit_concurrency is None else len(self.connections) - self.limit_concurrency + 1
        for oldest in sorted(idle, key=lambda one: one.opened)[: max(excess, 0)]:
            self.connections.discard(oldest)
            oldest.transport.close()
