"""What a browser asks for, read from JSON and checked.

ask = read_ask(data, shelf, limits); aim = read_aim(data["target"])
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box
from gaze_lens.serve.limits import Limits, Refused
from gaze_lens.serve.picture_store import Shelf

LONGEST_NAME = 60  # characters


@dataclass(frozen=True)
class Aim:
    """Where the heads are to look: a box of the picture under a name, and how strongly, in logits."""

    name: str
    box: Box
    strength: float


@dataclass(frozen=True)
class Ask:
    """One question about a picture; its regions are what the words are tinted by.

    target: where to steer from the beginning; None leaves the heads alone. pause: seconds to wait after every token.
    """

    picture: Picture
    prompt: str
    target: Aim | None
    max_new_tokens: int
    pause: float


def read_json(data: bytes) -> dict[str, Any]:
    """A JSON object; Refused for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused("The request holds no JSON; send a JSON object.") from error
    if not isinstance(found, dict):
        raise Refused("The request holds JSON that is no object; send a JSON object.")
    return found


def read_ask(data: Mapping[str, Any], shelf: Shelf, limits: Limits) -> Ask:
    """The question in a request; Refused, or RegionError for regions outside the picture, says what is wrong."""
    prompt = data.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise Refused("There is no question; write one.")
    if len(prompt) > limits.prompt:
        raise Refused(f"The question has {len(prompt)} characters; at most {limits.prompt} are taken. Shorten it.")
    regions = data.get("regions", {})
    if not isinstance(regions, dict) or len(regions) > limits.regions:
        raise Refused(f"'regions' is to be an object of at most {limits.regions} names, each with a box.")
    image = shelf.get(data.get("picture")).image
    return Ask(
        Picture(image, {_name(name): _box(box) for name, box in regions.items()}),
        prompt,
        read_aim(data.get("target")),
        int(_number(data, "max_new_tokens", 1, limits.new_tokens)),
        _number(data, "pause", 0, limits.pause),
    )


def read_aim(data: Any) -> Aim | None:
    """A target, {"name": ..., "box": [x0, y0, x1, y1], "strength": ...} in pixels and logits; None for null."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise Refused("'target' is to be null or an object with name, box and strength.")
    return Aim(_name(data.get("name")), _box(data.get("box")), _number(data, "strength", 0.01, 1e5))


def _name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise Refused(f"A region's name is to be a text of at most {LONGEST_NAME} characters.")
    return name


def _box(box: Any) -> Box:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_finite, box)):
        raise Refused(f"A box is to be four numbers, x0, y0, x1, y1 in pixels; {str(box)[:80]} was given.")
    return Box(*map(float, box))


def _number(data: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = data.get(name)
    if not _finite(value) or not low <= value <= high:
        raise Refused(f"{name} is to be a number from {low:g} to {high:g}; {str(value)[:40]} was given.")
    return float(value)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
