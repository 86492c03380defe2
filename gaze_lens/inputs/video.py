"""Errors for video and audio: gaze_lens has no token maps of frames or sound, and must not treat them as images."""

from collections.abc import Iterable, Mapping
from typing import Any

from gaze_lens.errors import InputError

KINDS = ("image", "text")
ADVICE = (
    "gaze_lens does not take video (images only). Give single frames as images: prepare([[frame, frame]], prompt) for "
    "two in one prompt."
)

SILENT = "gaze_lens does not take audio (images only). Leave the sound out; a prompt is pictures and text."
AUDIO = ("audio", "input_features", "feature_attention_mask")  # in names of arguments


def refuse_other_parts(parts: Iterable[Mapping[str, Any]]) -> None:
    """InputError where chat messages contain anything but images and text."""
    for part in parts:
        kind = part.get("type")
        if "video" in str(kind) or "video" in part:
            raise InputError(f"A chat message has a part of type {kind!r}, and {ADVICE}")
        if "audio" in str(kind) or "audio" in part:
            raise InputError(f"A chat message has a part of type {kind!r}, and {SILENT}")
        if kind not in KINDS:
            raise InputError(
                f"A chat message has a part of type {kind!r}; expected {{'type': 'image', 'image': ...}} or "
                "{'type': 'text', 'text': ...}."
            )


def refuse_video(arguments: Mapping[str, Any]) -> None:
    """InputError where arguments of a model's forward or `generate` contain video or audio."""
    outputs = arguments.get("mm_encoder_outputs") or {}
    for parts, advice in ((("video",), ADVICE), (AUDIO, SILENT)):
        given = (name for name, value in arguments.items() if value is not None and value is not False)
        names = [name for name in given if _any_in(parts, name)]
        names += [f"mm_encoder_outputs[{name!r}]" for name in outputs if _any_in(parts, name)]
        if names:
            raise InputError(f"{', '.join(names)} was given, and {advice}")


def _any_in(parts: Iterable[str], name: str) -> bool:
    return any(part in name for part in parts)
