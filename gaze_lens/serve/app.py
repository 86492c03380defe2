"""The web application: a page, pictures, and answers as server-sent events.

    app = build(AppState(model, heads, Limits()))

GET  /                        the page, with its style and scripts
GET  /about                   model, heads, limits, ready questions
POST /samples                 a strip, drawn from {"seed": 7}: key, size, regions, captions
POST /pictures                an upload, the file as the body: key, size
GET  /pictures/KEY            the picture as PNG
GET  /pictures/KEY/token      width and height of what one token shows, in pixels of the picture; null where busy
POST /answers                 a question (see `request_bodies.py`): a stream of events (see `generation_session.py`)
POST /answers/KEY/target      {"target": {...}}: another target from the next token on
POST /answers/KEY/stop        no further token
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from gaze_lens import comics
from gaze_lens.errors import GazeLensError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture
from gaze_lens.serve.generation_session import token_size
from gaze_lens.serve.image_store import ImageStore, read_upload, to_png
from gaze_lens.serve.limits import Limits, RequestError
from gaze_lens.serve.request_bodies import SampleBody, TargetChange, read_answer_request, read_json
from gaze_lens.serve.request_queue import LAST, QueueEntry, RequestQueue
from gaze_lens.serve.security import SecurityMiddleware, read_body
from gaze_lens.tiny import NAME

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("page", "answers", "controls", "history", "spotlight", "stage", "stream", "words")
FILES = ("page.css", *(f"{name}.js" for name in SCRIPTS))
JSON_LIMIT = 65_536  # bytes
HEARTBEAT = 2.0  # seconds between pings, by which a client that is gone is noticed
SHUTDOWN_GRACE = 5  # seconds that an answer has for its last token when the server stops
QUESTIONS = (comics.NARRATE_FREELY, comics.OPEN, comics.NARRATE, comics.THIS)
PAUSE = 0.25  # seconds after each token of the embedded model, which is faster than the mouse


def build(state: "AppState", names: Iterable[str] = ()) -> SecurityMiddleware:
    """The application, an ASGI callable; `names` are the hosts that it answers to, beside localhost."""
    pages = [Route("/", _file("page.html")), *(Route(f"/{name}", _file(name)) for name in FILES)]
    actions = [
        Route("/favicon.ico", _no_content),
        Route("/about", state.about),
        Route("/samples", state.sample, methods=["POST"]),
        Route("/pictures", state.upload, methods=["POST"]),
        Route("/pictures/{key}", state.picture),
        Route("/pictures/{key}/token", state.token),
        Route("/answers", state.answer, methods=["POST"]),
        Route("/answers/{key}/target", state.target, methods=["POST"]),
        Route("/answers/{key}/stop", state.stop, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {GazeLensError: _error, ClientDisconnect: _disconnected}
    app = Starlette(routes=pages + actions, exception_handlers=handlers, lifespan=state.lifespan)
    return SecurityMiddleware(app, names)


def _file(name: str) -> Any:
    async def page(_request: Request) -> Response:
        return FileResponse(PAGE / name)

    return page


async def _no_content(_request: Request) -> Response:
    return Response(status_code=204)


async def _error(_request: Request, error: GazeLensError) -> Response:
    status = error.status if isinstance(error, RequestError) else 400
    # Where a body was not read to its end, the connection cannot be used again.
    return JSONResponse({"error": str(error)}, status, {"connection": "close"} if status in (408, 413) else None)


async def _disconnected(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)


class AppState:
    """What the routes work on: one model, the stored pictures, and the queue of requests."""

    def __init__(self, model: Model, heads: HeadSet, limits: Limits) -> None:
        self.model, self.heads, self.limits = model, heads, limits
        self.images, self.queue = ImageStore(limits), RequestQueue(model, heads, limits)

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """The queue works as long as the server runs."""
        AppStatus.should_exit = False  # Ctrl-C on an earlier server of this process would cut all answers short
        worker = asyncio.create_task(self.queue.work())
        yield
        self.queue.close()
        await worker

    async def about(self, _request: Request) -> Response:
        """What the page has to know."""
        name = self.model.cfg.model_name
        return JSONResponse({
            "model": name, "heads": [str(head) for head in self.heads], "questions": QUESTIONS,
            "upload": self.limits.upload, "max_new_tokens": self.limits.new_tokens, "regions": self.limits.regions,
            "pause": PAUSE if name == NAME else 0.0,
        })  # fmt: skip

    async def sample(self, request: Request) -> Response:
        """A strip from a seed."""
        seed = read_json(SampleBody, await self._body(request)).seed
        (strip,) = comics.synthetic(1, seed=seed)
        return self._stored(strip)

    async def upload(self, request: Request) -> Response:
        """A picture from the bytes of its file."""
        data = await read_body(request, self.limits.upload, self.limits)
        return self._stored(await asyncio.to_thread(read_upload, data, self.limits))

    def _stored(self, picture: Picture) -> Response:
        width, height = picture.image.size
        bounds = {name: shape.bounds for name, shape in picture.regions.items()}
        boxes = {name: [box.x0, box.y0, box.x1, box.y1] for name, box in bounds.items()}
        key = self.images.add(picture)
        return JSONResponse(
            {"key": key, "width": width, "height": height, "regions": boxes, "captions": dict(picture.captions)}
        )

    async def picture(self, request: Request) -> Response:
        """A picture as PNG."""
        png = await asyncio.to_thread(to_png, self.images.get(request.path_params["key"]))
        return Response(png, media_type="image/png")

    async def token(self, request: Request) -> Response:
        """The size of a token; null while an answer is written, as nobody is to wait for it: its events say it, too."""
        picture = self.images.get(request.path_params["key"])
        if not self.queue.is_idle:
            return JSONResponse(None)
        return JSONResponse(await self.queue.in_model_thread(partial(_token_size, self.model, picture)))

    async def answer(self, request: Request) -> Response:
        """Put a question into the queue, and stream what comes of it."""
        return AnswerStream(
            self.queue, self.queue.add(read_answer_request(await self._body(request), self.images, self.limits))
        )

    async def target(self, request: Request) -> Response:
        """Steer a running or waiting answer elsewhere."""
        body = read_json(TargetChange, await self._body(request)).target
        target = body.to_target() if body else None
        self.queue.find(request.path_params["key"]).session.set_target(target)
        return Response(status_code=204)

    async def stop(self, request: Request) -> Response:
        """End an answer."""
        self.queue.remove(self.queue.find(request.path_params["key"]))
        return Response(status_code=204)

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, JSON_LIMIT, self.limits)


def _token_size(model: Model, picture: Picture) -> dict[str, float]:
    return token_size(model.prepare(picture, comics.OPEN).image_tokens[0])


class AnswerStream(EventSourceResponse):
    """The events of an entry. However the response ends, also by a client that is gone, the entry leaves the queue."""

    def __init__(self, queue: RequestQueue, entry: QueueEntry) -> None:
        # The page's reader splits at "\n\n". The queue ends its answers itself when the server stops; the grace
        # keeps sse-starlette from cutting them off before their last event.
        super().__init__(_events(entry), ping=HEARTBEAT, ping_message_factory=_ping, sep="\n",
                         shutdown_grace_period=SHUTDOWN_GRACE)  # fmt: skip
        self.queue, self.entry = queue, entry

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One response, as ASGI has it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.queue.remove(self.entry)


async def _events(entry: QueueEntry) -> AsyncIterator[dict[str, str]]:
    kind = None
    while kind not in LAST:
        event = await entry.next_event()
        kind = event["kind"]
        yield {"data": json.dumps(event)}


def _ping() -> ServerSentEvent:
    return ServerSentEvent(comment="", sep="\n")
