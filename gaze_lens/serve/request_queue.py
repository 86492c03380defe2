"""One answer at a time: turns wait in a line, and whoever leaves it makes room.

    line = Line(model, heads, limits)
    worker = asyncio.create_task(line.work())
    seat = line.join(ask); event = await seat.next(); line.leave(seat)

Everything here happens in the event loop, but for `Turn.run`, which has a thread of its own.
"""

import asyncio
import secrets
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gaze_lens.errors import GazeLensError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.serve.answer_stream import Event, Turn
from gaze_lens.serve.ask_requests import Ask
from gaze_lens.serve.limits import Limits, Refused

LAST = ("done", "error")  # kinds of events after which none comes


class Seat:
    """A turn in the line, under a name that cannot be guessed, and the events that it has told."""

    def __init__(self, model: Any, heads: HeadSet, ask: Ask) -> None:
        self.key = secrets.token_urlsafe(16)
        self.ended = False
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.turn = Turn(model, heads, ask, self._tell)

    def _tell(self, event: Event) -> None:
        """In the model's thread."""
        self._loop.call_soon_threadsafe(self.put, event)

    def put(self, event: Event) -> None:
        """In the event loop. The last event may come before the model's thread is done with the turn."""
        self.ended = self.ended or event["kind"] in LAST
        self._events.put_nowait(event)

    async def next(self) -> Event:
        """The next event."""
        return await self._events.get()


class Line:
    """Seats in order of arrival; one of them has the model."""

    def __init__(self, model: Any, heads: HeadSet, limits: Limits) -> None:
        self.model, self.heads, self.limits = model, heads, limits
        self.waiting: deque[Seat] = deque()
        self.running: Seat | None = None
        self._changed = asyncio.Event()
        self._closed = False

    def join(self, ask: Ask) -> Seat:
        """Take the last place; Refused (503) where the line is full."""
        if len(self.waiting) >= self.limits.waiting or self._closed:
            raise Refused(f"{len(self.waiting)} questions are waiting already; ask again when one is answered.", 503)
        seat = Seat(self.model, self.heads, ask)
        self.waiting.append(seat)
        self._announce()
        return seat

    def find(self, key: str) -> Seat:
        """The seat of that name; Refused (404) where its answer has ended."""
        for seat in (self.running, *self.waiting):
            if seat is not None and seat.key == key and not seat.ended:
                return seat
        raise Refused("This answer has ended, or never began.", 404)

    def leave(self, seat: Seat) -> None:
        """Give the place up; a running turn ends with its next token."""
        seat.turn.cancel()
        if seat in self.waiting:
            self.waiting.remove(seat)
            seat.put({"kind": "done", "reason": "stopped", "tokens": 0})
            self._announce()

    def close(self) -> None:
        """Let nobody in, and send everybody away; `work` ends."""
        self._closed = True
        for seat in (self.running, *self.waiting):
            if seat is not None:
                self.leave(seat)
        self._changed.set()

    async def work(self) -> None:
        """Give the model to one seat after the other, until the line is closed."""
        loop, encoded = asyncio.get_running_loop(), None
        with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
            while not self._closed:
                if not self.waiting:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                self.running = seat = self.waiting.popleft()
                self._announce()
                future = loop.run_in_executor(thread, seat.turn.run, encoded)
                await asyncio.wait([future])
                self.running, error = None, future.exception()
                encoded = encoded if error else future.result()
                self._explain(seat, error)

    def _announce(self) -> None:
        """Tell everybody who waits how many are before them."""
        self._changed.set()
        for index, seat in enumerate(self.waiting):
            seat.put({"kind": "queued", "id": seat.key, "ahead": index + (self.running is not None)})

    def _explain(self, seat: Seat, error: BaseException | None) -> None:
        """Tell what ended a turn before its time. What gaze_lens did not foresee also goes to the log."""
        if error is None:
            return
        message = str(error)
        if not isinstance(error, GazeLensError):
            message = f"The server failed ({type(error).__name__}); its log says more."
            context = {"message": "gaze-lens serve: an answer failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        seat.put({"kind": "error", "message": message})
