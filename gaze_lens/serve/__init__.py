"""`gaze-lens serve`: a page on your own machine, to steer a model with the mouse while it writes.

    serve(gl.load_tiny(), heads)                    # http://127.0.0.1:8765, until Ctrl-C
    serve(model, HeadSet.load("heads.json"), port=9000, limits=Limits(new_tokens=400))

`generation_session.py` is one answer, in the model's thread; `request_queue.py` runs one of them at a time; `app.py` is
the web application, and `security.py` keeps other web pages out. `page/` is what the browser shows.
"""

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model_protocol import Model
from gaze_lens.serve.limits import Limits

__all__ = ["Limits", "serve"]


def serve(
    model: Model,
    heads: HeadSet,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    names: tuple[str, ...] = (),
    limits: Limits | None = None,
) -> None:
    """Serve the page until the process is interrupted.

    heads: the heads that are steered, and whose attention tints the words. host: the address to bind to. port: 0 takes
    a free one. names: further names by which browsers may reach the server, as "box.lan"; others are refused. limits:
    see `Limits`.
    Raises HeadError for heads outside the model, and InputError where the port is taken or the extra `serve` is not
    installed.
    """
    require_extra()
    from gaze_lens.serve.server import run

    run(model, HeadSet.of(heads, model), host=host, port=port, names=names, limits=limits or Limits())


def require_extra() -> None:
    """InputError where what the page needs is not installed."""
    try:
        import pydantic  # noqa: F401
        import sse_starlette  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            f"gaze-lens serve needs {error.name}, which is not installed: pip install 'gaze-lens[serve]'."
        ) from error
