"""Fingerprints of pictures, with which a resumed run checks that its pictures are the same."""

from collections.abc import Sequence
from dataclasses import astuple

from gaze_lens.data.questions import Question
from gaze_lens.errors import InputError
from gaze_lens.regions.segments import Passages, Source
from gaze_lens.regions.video import Video
from gaze_lens.regions.video_files import VideoFile
from gaze_lens.runs.digests import digest


def names_of(pictures: Sequence[Source]) -> list[str]:
    """The names of pictures that have them, as those of `gl.data` do; else "0", "1", ..."""
    return [str(name) for name in getattr(pictures, "names", range(len(pictures)))]


def pictures_digest(pictures: Sequence[Source]) -> str:
    """A fingerprint of the pictures' names; of the pictures themselves where they have no names."""
    contents = () if hasattr(pictures, "names") else (f"{picture_digest(one)} {one.captions}" for one in pictures)
    fit = getattr(pictures, "fit", None)
    return digest(repr(names_of(pictures)), *contents, *([] if fit is None else [str(fit)]))[:16]


def picture_digest(picture: Source | Video) -> str:
    """A fingerprint of a picture: its pixels, its regions, and how it is shown to the model; of passages all texts.

    InputError for a video: what needs such a fingerprint, a run that may be resumed, takes none.
    """
    if isinstance(picture, Video):
        raise InputError(
            "A video was given to an evaluation, which takes pictures and passages; score_heads, steer and track take "
            "videos."
        )
    if isinstance(picture, Passages):
        return digest(repr(astuple(picture)))[:16]
    shown = "" if picture.fit is None else f" {picture.fit}"  # so that digests of earlier versions are the same
    if isinstance(picture, Question):
        shown += f" {picture.prompt!r} {picture.answer!r} {picture.choices}"
    return digest(f"{picture.image.size} {picture.regions}{shown}", picture.image.tobytes())[:16]


def image_digest(picture: Source | Video) -> str:
    """A fingerprint of a picture's pixels alone: equal for one image with other regions or another name. Of passages
    one of their texts alone, equal with other labels; of a video one of its frames or its file."""
    if isinstance(picture, Video):
        of_file = isinstance(picture.frames, VideoFile)
        contents = picture.frames.path.read_bytes() if of_file else picture.frames.tobytes()
        return digest(f"{picture.n_frames} x {picture.size} at {picture.fps}", contents)[:12]
    if isinstance(picture, Passages):
        return digest(repr(picture.texts))[:12]
    return digest(f"{picture.image.size}", picture.image.tobytes())[:12]
