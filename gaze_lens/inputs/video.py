"""Errors for video: gaze_lens has no token maps of video frames, and must not treat them as images."""

from collections.abc import Iterable, Mapping
from typing import Any

from gaze_lens.errors import InputError

KINDS = ("image", "text")
ADVICE = (
    "gaze_lens does not take video (images only). Give single frames as images: prepare([[frame, frame]], prompt) for "
    "two in one prompt."
)


def refuse_other_parts(parts: Iterable[Mapping[str, Any]]) -> None:
    """InputError where chat messages contain anything but images and text."""
    for part in parts:
        kind = part.get("type")
        if "video" in str(kind) or "video" in part:
            raise InputError(f"A chat message has a part of type {kind!r}, and {ADVICE}")
        if kind not in KINDS:
            raise InputError(
                f"A chat message has a part of type {kind!r}; expected {{'type': 'image', 'image': ...}} or "
                "{'type': 'text', 'text': ...}."
            )


def refuse_video(arguments: Mapping[str, Any]) -> None:
    """InputError where arguments of a model's forward or `generate` contain video."""
    outputs = arguments.get("mm_encoder_outputs") or {}
    names = [name for name in arguments if "video" in name and arguments[name] is not None]
    names += [f"mm_encoder_outputs[{name!r}]" for name in outputs if "video" in name]
    if names:
        raise InputError(f"{', '.join(names)} was given, and {ADVICE}")
