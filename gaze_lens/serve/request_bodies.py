"""The JSON that a browser sends, checked by pydantic, and the request for an answer that is made of it.

request = read_answer_request(data, images, limits)     # data: the bytes of the body
target = read_json(TargetChange, data).target
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box, Polygon
from gaze_lens.serve.image_store import ImageStore
from gaze_lens.serve.limits import Limits, RequestError

Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=60)]
Sides = tuple[Number, Number, Number, Number]  # x0, y0, x1, y1 in pixels of the picture
Disc = tuple[Number, Number, Annotated[float, Field(gt=0, le=1e6)]]  # x, y, radius in pixels of the picture
Body = TypeVar("Body", bound=BaseModel)
CORNERS = 64  # of the polygon that stands for a disc: its area is 0.2 % smaller


@dataclass(frozen=True)
class Target:
    """Where the heads are steered to, and how.

    shape: in pixels of the picture. strength: in logits. mass: instead of a strength, the share of each head's
    attention, 0-1. n_heads: only the first heads of the set; None: all.
    """

    name: str
    shape: Box | Polygon
    strength: float | None = None
    mass: float | None = None
    n_heads: int | None = None


@dataclass(frozen=True)
class AnswerRequest:
    """One question about a picture, whose regions the words are tinted by.

    target: where the heads are steered to from the beginning; None leaves them alone. pause: seconds to wait after
    every token. baseline: whether the unsteered answer is written beside it. contrast: the strength with which the
    steered model is contrasted with the unsteered one; 0 for none.
    """

    picture: Picture
    prompt: str
    target: Target | None
    max_new_tokens: int
    pause: float
    baseline: bool = False
    contrast: float = 0.0


class TargetBody(BaseModel):
    """A target as JSON: a box or a disc, steered to by a strength or a mass."""

    name: Name
    box: Sides | None = None
    disc: Disc | None = None
    strength: Annotated[float, Field(ge=0.01, le=1e5)] | None = None
    mass: Annotated[float, Field(gt=0, lt=1)] | None = None
    n_heads: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> "TargetBody":
        if (self.box is None) == (self.disc is None) or (self.strength is None) == (self.mass is None):
            raise ValueError("give a box or a disc, and a strength or a mass; not both, and not neither")
        return self

    def to_target(self) -> Target:
        """The target; RegionError for a box that is empty."""
        shape = Box(*self.box) if self.box is not None else _polygon(*(self.disc or ()))
        return Target(self.name, shape, self.strength, self.mass, self.n_heads)


class TargetChange(BaseModel):
    """Another target for a running answer; null leaves the heads alone."""

    target: TargetBody | None = None


class SampleBody(BaseModel):
    """The seed of a sample strip."""

    seed: int = Field(ge=0, lt=2**31)


class AnswerBody(BaseModel):
    """A question as JSON. picture: its key; what is no key at all is as unknown as a key that was forgotten."""

    picture: Any = None
    prompt: str
    regions: dict[Name, Sides] = {}
    target: TargetBody | None = None
    max_new_tokens: Number
    pause: Number
    baseline: bool = False
    contrast: float = Field(default=0.0, ge=0, le=10)


def read_json(model: type[Body], data: bytes) -> Body:
    """A JSON body as such a model; RequestError says what is wrong with it."""
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        value = "" if problem["type"] in ("missing", "json_invalid") else f"; {str(problem['input'])[:80]} was given"
        raise RequestError(f"{where or 'The request'}: {problem['msg']}{value}.") from error


def read_answer_request(data: bytes, images: ImageStore, limits: Limits) -> AnswerRequest:
    """The question in a request; RequestError, or RegionError for regions outside the picture, says what is wrong."""
    body = read_json(AnswerBody, data)
    if not body.prompt.strip():
        raise RequestError("There is no question; write one.")
    if len(body.prompt) > limits.prompt:
        raise RequestError(
            f"The question has {len(body.prompt)} characters; at most {limits.prompt} are taken. Shorten it."
        )
    if len(body.regions) > limits.regions:
        raise RequestError(f"{len(body.regions)} regions were given; at most {limits.regions} are taken.")
    _check_range("max_new_tokens", body.max_new_tokens, 1, limits.new_tokens)
    _check_range("pause", body.pause, 0, limits.pause)
    return AnswerRequest(
        Picture(images.get(body.picture).image, {name: Box(*sides) for name, sides in body.regions.items()}),
        body.prompt,
        body.target.to_target() if body.target else None,
        int(body.max_new_tokens),
        body.pause,
        body.baseline,
        body.contrast,
    )


def _polygon(x: float, y: float, radius: float) -> Polygon:
    """A disc."""
    angles = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
    return Polygon([(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles])


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise RequestError(f"{name} is to be a number from {low:g} to {high:g}; {value:g} was given.")
