"""The web application: a page, pictures, and answers as server-sent events.

    app = build(Desk(model, heads, Limits()))

GET  /                        the page, with its style and scripts
GET  /about                   model, heads, limits, ready questions
POST /samples                 a strip, drawn from {"seed": 7}: key, size, regions, captions
POST /pictures                an upload, the file as the body: key, size
GET  /pictures/KEY            the picture as PNG
POST /answers                 a question (see `asks.py`): a stream of events (see `turns.py`)
POST /answers/KEY/target      {"target": {...}}: steer elsewhere in mid-sentence
POST /answers/KEY/stop        no further token
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gaze_lens import comics
from gaze_lens.errors import GazeLensError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.regions.picture import Picture
from gaze_lens.serve.ask_requests import read_aim, read_ask, read_json
from gaze_lens.serve.limits import Limits, Refused
from gaze_lens.serve.picture_store import Shelf, read_upload, to_png
from gaze_lens.serve.request_queue import LAST, Line, Seat
from gaze_lens.serve.security import Guard, read_body
from gaze_lens.tiny import NAME

PAGE = Path(__file__).parent / "page"
FILES = ("page.css", "page.js", "stage.js", "stream.js", "words.js")
MOST_JSON = 65_536  # bytes
HEARTBEAT = 2.0  # seconds after which silence is broken, so that a client that is gone is noticed
QUESTIONS = (comics.NARRATE_FREELY, comics.OPEN, comics.NARRATE, comics.THIS)
PACE = 0.25  # seconds after each token of the embedded model, which else has spoken before the mouse has moved


def build(desk: "Desk", names: Iterable[str] = ()) -> Guard:
    """The application, an ASGI callable; `names` are the hosts that it answers to, beside localhost."""
    pages = [Route("/", _file("page.html")), *(Route(f"/{name}", _file(name)) for name in FILES)]
    actions = [
        Route("/favicon.ico", _nothing),
        Route("/about", desk.about),
        Route("/samples", desk.sample, methods=["POST"]),
        Route("/pictures", desk.upload, methods=["POST"]),
        Route("/pictures/{key}", desk.picture),
        Route("/answers", desk.answer, methods=["POST"]),
        Route("/answers/{key}/target", desk.target, methods=["POST"]),
        Route("/answers/{key}/stop", desk.stop, methods=["POST"]),
    ]
    handlers = {GazeLensError: _refuse, ClientDisconnect: _gone}
    return Guard(Starlette(routes=pages + actions, exception_handlers=handlers, lifespan=desk.open), names)


def _file(name: str) -> Any:
    async def page(_request: Request) -> Response:
        return FileResponse(PAGE / name)

    return page


async def _nothing(_request: Request) -> Response:
    return Response(status_code=204)


async def _refuse(_request: Request, error: GazeLensError) -> Response:
    status = error.status if isinstance(error, Refused) else 400
    # Where a body was not read to its end, the connection cannot be used again.
    return JSONResponse({"error": str(error)}, status, {"connection": "close"} if status in (408, 413) else None)


async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)


class Desk:
    """What the routes do: one model, the pictures that were given, and the line of questions."""

    def __init__(self, model: Any, heads: HeadSet, limits: Limits) -> None:
        self.model, self.heads, self.limits = model, heads, limits
        self.shelf, self.line = Shelf(limits), Line(model, heads, limits)

    @asynccontextmanager
    async def open(self, _app: Starlette) -> AsyncIterator[None]:
        """The line works as long as the server runs."""
        worker = asyncio.create_task(self.line.work())
        yield
        self.line.close()
        await worker

    async def about(self, _request: Request) -> Response:
        """What the page has to know."""
        name = self.model.cfg.model_name
        return JSONResponse({
            "model": name, "heads": [str(head) for head in self.heads], "questions": QUESTIONS,
            "upload": self.limits.upload, "max_new_tokens": self.limits.new_tokens, "regions": self.limits.regions,
            "pause": PACE if name == NAME else 0.0,
        })  # fmt: skip

    async def sample(self, request: Request) -> Response:
        """A strip from a seed."""
        seed = (await self._json(request)).get("seed")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
            raise Refused("'seed' is to be a whole number from 0.")
        (strip,) = comics.synthetic(1, seed=seed)
        return self._keep(strip)

    async def upload(self, request: Request) -> Response:
        """A picture from the bytes of its file."""
        data = await read_body(request, self.limits.upload, self.limits)
        return self._keep(await asyncio.to_thread(read_upload, data, self.limits))

    def _keep(self, picture: Picture) -> Response:
        width, height = picture.image.size
        boxes = {name: [b.x0, b.y0, b.x1, b.y1] for name, b in picture.regions.items()}
        key = self.shelf.add(picture)
        return JSONResponse(
            {"key": key, "width": width, "height": height, "regions": boxes, "captions": dict(picture.captions)}
        )

    async def picture(self, request: Request) -> Response:
        """A picture as PNG."""
        png = await asyncio.to_thread(to_png, self.shelf.get(request.path_params["key"]))
        return Response(png, media_type="image/png")

    async def answer(self, request: Request) -> Response:
        """A question's place in the line, and what comes of it."""
        ask = read_ask(await self._json(request), self.shelf, self.limits)
        return Answer(self.line, self.line.join(ask))

    async def target(self, request: Request) -> Response:
        """Steer a running or waiting answer elsewhere."""
        aim = read_aim((await self._json(request)).get("target"))
        self.line.find(request.path_params["key"]).turn.aim(aim)
        return Response(status_code=204)

    async def stop(self, request: Request) -> Response:
        """End an answer."""
        self.line.leave(self.line.find(request.path_params["key"]))
        return Response(status_code=204)

    async def _json(self, request: Request) -> dict[str, Any]:
        return read_json(await read_body(request, MOST_JSON, self.limits))


class Answer(StreamingResponse):
    """The events of a seat; whatever ends the response, a client that is gone among it, gives the seat up."""

    def __init__(self, line: Line, seat: Seat) -> None:
        super().__init__(_events(seat), media_type="text/event-stream")
        self.line, self.seat = line, seat

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One response, as ASGI has it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.line.leave(self.seat)


async def _events(seat: Seat) -> AsyncIterator[str]:
    kind = None
    while kind not in LAST:
        try:
            async with asyncio.timeout(HEARTBEAT):
                event = await seat.next()
        except TimeoutError:
            yield ": \n\n"
            continue
        kind = event["kind"]
        yield f"data: {json.dumps(event)}\n\n"
