"""Errors for video and audio that were not given as a `gl.Video`: they must not be treated as images."""

from collections.abc import Iterable, Mapping
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.regions.video import Video

KINDS = ("image", "video", "text")
ADVICE = (
    "gaze_lens takes video as gl.Video alone: prepare(gl.Video(frames, fps=8), prompt), which knows where its tokens "
    "lie; chat messages say {'type': 'video'}, or {'type': 'video', 'video': gl.Video(...)}."
)

SILENT = "gaze_lens does not take audio. Leave the sound out; a prompt is pictures and text."
AUDIO = ("audio", "input_features", "feature_attention_mask")  # in names of arguments


def refuse_other_parts(parts: Iterable[Mapping[str, Any]]) -> None:
    """InputError where chat messages contain anything but images and text."""
    for part in parts:
        kind = part.get("type")
        as_video = kind == "video" and isinstance(part.get("video", None), Video | None) and len(part) <= 2
        if ("video" in str(kind) or "video" in part) and not as_video:
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
    for parts, advice in ((AUDIO, SILENT), (("video",), ADVICE)):
        given = (name for name, value in arguments.items() if value is not None and value is not False)
        names = [name for name in given if _any_in(parts, name)]
        names += [f"mm_encoder_outputs[{name!r}]" for name in outputs if _any_in(parts, name)]
        if names:
            raise InputError(f"{', '.join(names)} was given, and {advice}")


def _any_in(parts: Iterable[str], name: str) -> bool:
    return any(part in name for part in parts)
