"""Regions of videos: frames, stretches of time, shapes that stay or move, and names.

positions_in_videos(inputs, 0, "frame 3")
positions_in_videos(inputs, 0, Box(0, 0, 40, 40), seconds=(2.0, 3.5))
positions_in_videos(inputs, 0, {"frame 1": Box(0, 0, 40, 40), "frame 9": Box(40, 0, 80, 40)})
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gaze_lens.errors import RegionError
from gaze_lens.regions.image_tokens import ImageTokens, is_point
from gaze_lens.regions.video import SampledVideo, Seconds, VideoFrames, frame_index, shape_in

if TYPE_CHECKING:
    from gaze_lens.inputs.vlm_inputs import VLMInputs

OF_VIDEO = re.compile(r"(?:(?P<name>.+) of )?video (?P<number>[1-9]\d{0,5})", re.DOTALL)
WHOLE = "the whole of it"  # of a video, or of its frames: also tokens that cover nothing, such as ends of rows
SHOWN = 40  # frames in a message


def positions_in_videos(
    inputs: "VLMInputs", row: int, where: Any, *, seconds: tuple[float, float] | None = None, rule: str = "centre"
) -> tuple[int, ...] | None:
    """The positions of a region's tokens in a row; None for what is no region of its videos, as a picture's name.

    Where a region is in frames that were sampled and in others, the others are left out. Raises RegionError where none
    of its frames was sampled, for a name that several videos have, and for a shape that may be in several sources.
    """
    videos = inputs.videos[row] if inputs.videos else ()
    within = None if seconds is None else Seconds(*seconds)
    if not videos:
        if within is not None or isinstance(where, Seconds | Mapping):
            raise RegionError(f"Row {row} has no video, so it has no frames and no time; give a shape or a name.")
        return None
    if isinstance(where, str):
        found = _named(where, videos, row)
        if found is None or any(where in picture.regions for picture in _stills(inputs, row)):
            return None
    else:
        found = _only(inputs, row, where), where
    video, region = found
    tokens = [one for one in inputs.image_tokens if one.row == row and one.moment in video.moments]
    return _selected(tokens, video, where, region, within, rule)


def _selected(
    tokens: list[ImageTokens], video: SampledVideo, where: Any, region: Any, within: Seconds | None, rule: str
) -> tuple[int, ...]:
    """The positions of a region in the moments of one video."""
    positions: list[int] = []
    fault = None
    for of_moment in tokens:
        assert of_moment.moment is not None
        if within is not None and not of_moment.moment.within(within, rule):
            continue
        if region is WHOLE:
            positions += of_moment.positions.tolist()
            continue
        shape = region if is_point(region) else shape_in(region, of_moment.moment, of_moment.size, rule)
        try:
            positions += [] if shape is None else of_moment.select(shape, rule=rule).tolist()
        except RegionError as error:  # of a shape that moves: too small for a token in this moment
            fault = error
    if positions:
        return tuple(positions)
    raise fault or RegionError(_not_there(video, where, within))


def _named(where: str, videos: tuple[SampledVideo, ...], row: int) -> tuple[SampledVideo, Any] | None:
    """The video and the region in it that a name means; None where it means none."""
    match = OF_VIDEO.fullmatch(where)
    if match is not None:
        number = int(match["number"])
        if number > len(videos):
            raise RegionError(f"{where!r} was given for a prompt of {len(videos)} videos; names count from 1.")
        videos, name = videos[number - 1 : number], match["name"]
    else:
        name = where
    found = [(video, region) for video in videos if (region := _region(name, video)) is not None]
    if len(found) > 1:
        raise RegionError(f"Row {row} has {len(videos)} videos with {where!r}; say which: '{where} of video 2'.")
    return found[0] if found else None


def _region(name: str | None, video: SampledVideo) -> Any:
    """What a name means in one video: a shape, frames, a stretch of time; None where it means nothing."""
    if name is None:
        return WHOLE
    if name in video.video.regions:
        return video.video.regions[name]
    moment = next((moment for moment in video.moments if moment.name == name), None)
    if moment is not None:
        return {f"frame {frame + 1}": None for frame in moment.frames}
    return {name: None} if frame_index(name) is not None else None


def _only(inputs: "VLMInputs", row: int, where: Any) -> SampledVideo:
    """The one video that a shape or a stretch of time can be in."""
    videos, stills = inputs.videos[row], len(_stills(inputs, row))
    if len(videos) > 1 or (stills and not isinstance(where, Seconds | Mapping)):
        raise RegionError(
            f"Row {row} has {len(videos)} videos and {stills} images, and a shape or time may be in each of them. Name "
            "regions in gl.Video(frames, fps=8, regions={...}) and gl.Picture, and give the name."
        )
    return videos[0]


def _stills(inputs: "VLMInputs", row: int) -> list[Any]:
    return [picture for picture in inputs.pictures[row] if not isinstance(picture, VideoFrames)]


def _not_there(video: SampledVideo, where: Any, within: Seconds | None) -> str:
    frames = ", ".join(str(index + 1) for index in video.sampled[:SHOWN])
    more = ", ..." if len(video.sampled) > SHOWN else ""
    times = f" from {within.start:g} to {within.end:g} s" if within is not None else ""
    last = (video.sampled[-1] + 1) / video.video.rate
    return (
        f"The region {where!r}{times} holds no token of the video: of its {video.video.n_frames} frames the model sees "
        f"{len(video.sampled)}, frames {frames}{more} ({video.sampled[0] / video.video.rate:g} to {last:g} s). Give "
        "one of these frames, a longer time, rule='overlap', or sample more: gl.Video(..., num_frames=)."
    )
