"""Refusing video: gaze_lens knows where image tokens lie, not frames; nothing may pass for an image silently."""

from collections.abc import Iterable, Mapping
from typing import Any

from gaze_lens.errors import InputError

KINDS = ("image", "text")
WAY = (
    "gaze_lens does not take video (images only). Give single frames as images: prepare([[frame, frame]], prompt) for "
    "two in one prompt."
)


def refuse_other_parts(parts: Iterable[Mapping[str, Any]]) -> None:
    """InputError where chat messages hold anything but images and text."""
    for part in parts:
        kind = part.get("type")
        if "video" in str(kind) or "video" in part:
            raise InputError(f"A chat message has a part of type {kind!r}, and {WAY}")
        if kind not in KINDS:
            raise InputError(
                f"A chat message has a part of type {kind!r}; expected {{'type': 'image', 'image': ...}} or "
                "{'type': 'text', 'text': ...}."
            )


def refuse_video(arguments: Mapping[str, Any]) -> None:
    """InputError where arguments of a model's forward or `generate` carry video."""
    encoded = arguments.get("mm_encoder_outputs") or {}
    given = [name for name in arguments if "video" in name and arguments[name] is not None]
    given += [f"mm_encoder_outputs[{name!r}]" for name in encoded if "video" in name]
    if given:
        raise InputError(f"{', '.join(given)} was given, and {WAY}")
