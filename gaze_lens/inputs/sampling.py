"""Which frames of a video a model sees: its processor's own sampling, without decoding the others.

sampled_video = sampled(processor, family, gl.Video("clip.mp4"))
sampled_video.sampled                     # indices of frames, from 0
processor(videos=[sampled_video.pixels], video_metadata=metadata_of([sampled_video]), do_sample_frames=False)
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from gaze_lens.errors import InputError
from gaze_lens.families import Family
from gaze_lens.regions.video import SampledVideo, Video

NO_ARGUMENTS = (
    "input_data_format",
    "do_convert_rgb",
    "do_sample_frames",
    "device",
    "video_metadata",
)  # of the sampling


def sampled(processor: Any, family: Family, video: Video, number: int = 0) -> SampledVideo:
    """The frames that the processor samples. number: of the video in its prompt.

    Raises InputError for a family whose video tokens are not known, and for a sampling that the processor refuses or
    does otherwise than the video asks for.
    """
    refuse_family(family)
    indices = _indices(processor.video_processor, _settings(processor), video)
    return SampledVideo(video, indices, video.read(indices), number)


def refuse_family(family: Family) -> None:
    """InputError where a family's video tokens have no known places."""
    if family.video_maps is None:
        raise InputError(
            f"A video was given to a model of the family {family.name}, and gaze_lens does not know where the tokens "
            "of its videos lie (docs/howto/video.md lists the families). Give frames as pictures: "
            "model.prepare([[frame, frame]], prompt), whose names are 'image 1', 'image 2'."
        )


def metadata_of(videos: Sequence[SampledVideo]) -> list[VideoMetadata]:
    """What the processor is told about videos whose frames were sampled before."""
    return [_metadata(one.video, list(one.sampled)) for one in videos]


def _metadata(video: Video, indices: list[int] | None = None) -> VideoMetadata:
    width, height = video.size
    return VideoMetadata(
        total_num_frames=video.n_frames, fps=video.rate, width=width, height=height,
        duration=video.n_frames / video.rate, frames_indices=indices,
    )  # fmt: skip


def _settings(processor: Any) -> dict[str, Any]:
    """The options of the video processor, as a call of the processor uses them."""
    tokenizer, own = processor.tokenizer.init_kwargs, processor.video_processor
    merged = processor._merge_kwargs(processor.valid_processor_kwargs, tokenizer_init_kwargs=tokenizer)["videos_kwargs"]
    names = own.valid_kwargs.__annotations__
    return {name: getattr(own, name, None) for name in names} | merged


def _indices(video_processor: Any, settings: dict[str, Any], video: Video) -> tuple[int, ...]:
    """The frames that the processor's sampling chooses."""
    asked = {"fps": video.sampling_fps, "num_frames": video.num_frames}
    asked = {name: value for name, value in asked.items() if value is not None}
    if not asked and not settings["do_sample_frames"]:
        return tuple(range(video.n_frames))
    options = {name: value for name, value in settings.items() if name not in NO_ARGUMENTS}
    if asked:  # fps and num_frames exclude one another
        options |= {"fps": None, "num_frames": None} | asked
    try:
        indices = np.asarray(video_processor.sample_frames(metadata=_metadata(video), **options)).tolist()
    except (ValueError, ZeroDivisionError, RuntimeError) as error:  # the last: torch, for a step of no length
        raise InputError(
            f"The model's processor cannot sample {video.n_frames} frames at {video.rate:g} a second: {error}. Give "
            "more frames, or other sampling_fps= or num_frames=."
        ) from error
    _check(indices, video, settings)
    return tuple(indices)


def _check(indices: list[int], video: Video, settings: dict[str, Any]) -> None:
    """InputError where another number of frames was sampled than the video asks for; rounding to merged frames counts
    as none."""
    if not indices:
        raise InputError(f"The model's processor samples none of {video.n_frames} frames; give more of them.")
    wanted = video.num_frames
    if video.sampling_fps is not None:
        wanted = round(video.n_frames / video.rate * video.sampling_fps)
    merged = settings.get("temporal_patch_size") or 1
    if wanted is not None and abs(len(indices) - wanted) > merged - (video.num_frames is not None):
        raise InputError(
            f"The model's processor samples {len(indices)} of {video.n_frames} frames where {wanted} were asked for; "
            "it has limits or a sampling of its own. Give other sampling_fps= or num_frames=, or leave them out."
        )
