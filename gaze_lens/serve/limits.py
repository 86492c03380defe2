"""The bounds of a server, and the error for a request beyond them."""

from dataclasses import dataclass

from gaze_lens.errors import InputError


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; requests beyond them are refused.

    upload: bytes of an image file. source_pixels: pixels of an image before it is scaled down. pixels: what it is
    scaled down to. new_tokens: length of an answer. prompt: characters of a question. regions: named regions of a
    picture. waiting: questions in the queue. pictures: pictures that are stored; the oldest are forgotten. pause:
    longest pause after a token, in seconds. patience: seconds in which a request must have arrived.
    """

    upload: int = 20_000_000
    source_pixels: int = 50_000_000
    pixels: int = 1_500_000
    new_tokens: int = 200
    prompt: int = 4000
    regions: int = 24
    waiting: int = 4
    pictures: int = 16
    pause: float = 1.0
    patience: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise InputError(f"The limit {name}={value} was given; expected a number above 0.")


class RequestError(InputError):
    """A request that is refused. status: the HTTP status of the response."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
