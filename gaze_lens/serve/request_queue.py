"""One answer at a time: sessions wait in a queue, and one after the other has the model.

    queue = RequestQueue(model, heads, limits)
    worker = asyncio.create_task(queue.work())
    entry = queue.add(request); event = await entry.next_event(); queue.remove(entry)

Everything here runs in the event loop, except `GenerationSession.run`, which has a thread of its own.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gaze_lens.errors import GazeLensError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model_protocol import Model
from gaze_lens.serve.generation_session import Event, GenerationSession
from gaze_lens.serve.limits import Limits, RequestError
from gaze_lens.serve.request_bodies import AnswerRequest

Result = TypeVar("Result")
LAST = ("done", "error")  # kinds of events after which none comes


class QueueEntry:
    """A session in the queue, its key, which cannot be guessed, and the events that it has emitted."""

    def __init__(self, model: Model, heads: HeadSet, request: AnswerRequest) -> None:
        self.key = secrets.token_urlsafe(16)
        self.ended = False
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.session = GenerationSession(model, heads, request, self._emit)

    def _emit(self, event: Event) -> None:
        """In the model's thread."""
        self._loop.call_soon_threadsafe(self.put, event)

    def put(self, event: Event) -> None:
        """In the event loop. The last event may come before the model's thread is done with the session."""
        self.ended = self.ended or event["kind"] in LAST
        self._events.put_nowait(event)

    async def next_event(self) -> Event:
        """The next event, once there is one."""
        return await self._events.get()


class RequestQueue:
    """Entries in order of arrival; one of them has the model."""

    def __init__(self, model: Model, heads: HeadSet, limits: Limits) -> None:
        self.model, self.heads, self.limits = model, heads, limits
        self.waiting: deque[QueueEntry] = deque()
        self.running: QueueEntry | None = None
        self._changed = asyncio.Event()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    def add(self, request: AnswerRequest) -> QueueEntry:
        """A new last entry; RequestError (503) where the queue is full."""
        if len(self.waiting) >= self.limits.waiting or self._closed:
            raise RequestError(
                f"{len(self.waiting)} questions are waiting already; ask again when one is answered.", 503
            )
        entry = QueueEntry(self.model, self.heads, request)
        self.waiting.append(entry)
        self._announce()
        return entry

    def find(self, key: str) -> QueueEntry:
        """The entry with that key; RequestError (404) where its answer has ended."""
        for entry in (self.running, *self.waiting):
            if entry is not None and entry.key == key and not entry.ended:
                return entry
        raise RequestError("This answer has ended, or never began.", 404)

    def remove(self, entry: QueueEntry) -> None:
        """Take an entry out; a running answer ends with its next token."""
        entry.session.cancel()
        if entry in self.waiting:
            self.waiting.remove(entry)
            entry.put({"kind": "done", "reason": "stopped", "tokens": 0})
            self._announce()

    @property
    def is_idle(self) -> bool:
        """Whether no answer is being written, and none waits."""
        return self.running is None and not self.waiting

    async def in_model_thread(self, function: Callable[[], Result]) -> Result:
        """What a function returns; it waits for an answer that is being written."""
        if self._closed:
            raise RequestError("The server stops.", 503)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Take no further request, and remove every entry; `work` ends."""
        self._closed = True
        for entry in (self.running, *self.waiting):
            if entry is not None:
                self.remove(entry)
        self._changed.set()

    async def work(self) -> None:
        """Run one entry after the other, until the queue is closed."""
        loop, encoded = asyncio.get_running_loop(), None
        with self._thread:
            while not self._closed:
                if not self.waiting:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                self.running = entry = self.waiting.popleft()
                self._announce()
                future = loop.run_in_executor(self._thread, entry.session.run, encoded)
                await asyncio.wait([future])
                self.running, error = None, future.exception()
                encoded = encoded if error else future.result()
                self._report(entry, error)

    def _announce(self) -> None:
        """Say to every waiting entry how many are before it."""
        self._changed.set()
        for index, entry in enumerate(self.waiting):
            entry.put({"kind": "queued", "id": entry.key, "ahead": index + (self.running is not None)})

    def _report(self, entry: QueueEntry, error: BaseException | None) -> None:
        """Say why a session failed. An error that gaze_lens did not raise itself also goes to the log."""
        if error is None:
            return
        message = str(error)
        if not isinstance(error, GazeLensError):
            message = f"The server failed ({type(error).__name__}); its log says more."
            context = {"message": "gaze-lens serve: an answer failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        entry.put({"kind": "error", "message": message})
