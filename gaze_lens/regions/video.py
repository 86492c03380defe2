"""Videos for `model.prepare`: their frames and rate, and named regions that may move or last for some time only.

video = gl.Video(frames, fps=8, regions={"cup": {"frame 1": Box(0, 0, 40, 40), "frame 9": Box(40, 0, 80, 40)}})
inputs = model.prepare(video, "What happens?")
inputs.videos[0][0].sampled                # the frames that the model sees, from 0
inputs.image_tokens[2].moment.seconds      # the time of the frames that these tokens stand for
inputs.region("frame 9"); inputs.region("cup"); inputs.region((0, 0, 40, 40), seconds=(2.0, 3.5))

Names of frames count from 1, as those of panels do: "frame 1" is the first of the video that was given. Where a model
merges frames, tokens of several frames are the same, and the region of each frame is that of all of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gaze_lens.errors import InputError, RegionError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box, Shape, Union, as_shape, misses
from gaze_lens.regions.video_files import VideoFile, is_path
from gaze_lens.utf8 import is_utf8

Frames = UInt8[np.ndarray, "frame height width 3"]
FRAME = re.compile(r"frame ([1-9]\d{0,8})")


@dataclass(frozen=True)
class Seconds:
    """`Seconds(2.0, 3.5)`: a stretch of a video's time, `start <= time < end`; with `where`, a region in that time.

    start, end: from the first frame on. where: a shape or a box in original pixels; None for the whole frame.
    Raises RegionError for ends that are no numbers, or not in this order.
    """

    start: float
    end: float
    where: Any = None

    def __post_init__(self) -> None:
        ends = (self.start, self.end)
        if not all(isinstance(end, Real) for end in ends) or not 0 <= self.start < self.end:
            raise RegionError(f"The seconds {self.start!r} to {self.end!r} were given; give 0 <= start < end.")
        if self.where is not None:
            object.__setattr__(self, "where", as_shape(self.where))


@dataclass(frozen=True)
class Moment:
    """Frames of a video that the same tokens stand for.

    frames: their indices in the video that was given, from 0. fps: of that video. video: index of the video in its
    prompt.
    """

    frames: tuple[int, ...]
    fps: float
    video: int = 0

    @property
    def seconds(self) -> tuple[float, float]:
        """When the first of the frames begins, and when the last ends."""
        return self.frames[0] / self.fps, (self.frames[-1] + 1) / self.fps

    @property
    def name(self) -> str:
        """`"frame 3"`, or `"frames 3 and 4"`, counted from 1."""
        numbers = [str(frame + 1) for frame in self.frames]
        several = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
        return f"frames {several}" if len(numbers) > 1 else f"frame {numbers[0]}"

    def within(self, seconds: Seconds, rule: str) -> bool:
        """Whether the moment is in a stretch of time: by the mean time at which its frames begin ("centre"), or where
        one of its frames is shown for some part of it ("overlap")."""
        if rule == "centre":
            return seconds.start <= sum(self.frames) / len(self.frames) / self.fps < seconds.end
        return any(frame < seconds.end * self.fps and frame + 1 > seconds.start * self.fps for frame in self.frames)

    def __str__(self) -> str:
        start, end = self.seconds
        return f"{self.name}, {start:.2f} to {end:.2f} s"


@dataclass(frozen=True, eq=False, repr=False)
class Video:
    """`Video(frames, fps=8)` or `Video("clip.mp4")`: frames for `model.prepare`, in the place of a picture.

    frames: [frame, height, width, 3], or a list of images of one size, as for `model.prepare`; or the path of a file,
        which PyAV reads (pip install 'gaze-lens[video]').
    fps: frames per second of these frames; of a file it is read.
    regions: name -> a shape or box, in original pixels, that stays where it is; or `{"frame 1": box, "frame 9": box}`
        for one that moves; or `Seconds(start, end)`. captions: name -> text about the region.
    sampling_fps, num_frames: how many frames a second, or in all, the model's processor is to sample; not both. By
        default as its checkpoint says.
    Raises InputError for no frame, frames of several sizes, no fps; RegionError for regions that are none of these.
    """

    frames: Any
    fps: float | None = None
    regions: Mapping[str, Any] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    sampling_fps: float | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        frames = VideoFile.open(self.frames) if is_path(self.frames) else self.frames
        if isinstance(frames, VideoFile):
            self._check_file_rate(frames)
            object.__setattr__(self, "fps", frames.fps)
        else:
            frames = _stacked(frames)
        object.__setattr__(self, "frames", frames)
        for name in ("fps", "sampling_fps"):
            _check_rate(name, getattr(self, name), optional=name != "fps")
        if self.num_frames is not None and (self.sampling_fps is not None or not _is_count(self.num_frames)):
            raise InputError(
                f"num_frames={self.num_frames!r} and sampling_fps={self.sampling_fps!r} were given; give a number of "
                "frames, 1 or more, or frames per second, not both."
            )
        regions = {name: _checked_region(name, where, self) for name, where in self.regions.items()}
        object.__setattr__(self, "regions", regions)
        self._check_captions()

    def _check_file_rate(self, file: VideoFile) -> None:
        if self.fps is not None and self.fps != file.fps:
            raise InputError(
                f"fps={self.fps!r} was given for a file of {file.fps:g} frames per second. Leave it out; how many the "
                "model sees is sampling_fps=."
            )

    def _check_captions(self) -> None:
        unknown = [name for name in self.captions if name not in self.regions]
        if unknown:
            raise RegionError(f"There is a caption for {unknown[0]!r}, but the video has no region of that name.")
        for text in (*self.regions, *self.captions.values()):
            if not isinstance(text, str) or not is_utf8(text):
                raise RegionError(f"{ascii(text)[:80]} was given as a name or caption; expected text.")

    @property
    def n_frames(self) -> int:
        """The frames of the video, not only those that a model sees."""
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of its frames, in pixels."""
        return self.frames.size if isinstance(self.frames, VideoFile) else self.frames.shape[2:0:-1]

    @property
    def rate(self) -> float:
        """`fps`, which is known once the video is made."""
        assert self.fps is not None
        return float(self.fps)

    def read(self, indices: tuple[int, ...]) -> Frames:
        """Some of its frames, in this order."""
        return self.frames.read(indices) if isinstance(self.frames, VideoFile) else self.frames[list(indices)]

    def __repr__(self) -> str:
        width, height = self.size
        names = ", ".join(self.regions) or "none"
        return f"Video of {self.n_frames} frames of {width} x {height} pixels, {self.fps:g} a second, regions: {names}"


@dataclass(frozen=True, eq=False, repr=False)
class SampledVideo:
    """A video in a prompt. sampled: the frames that the model sees, indices from 0. pixels: of these frames.

    number: index of the video in its prompt. moments: what its tokens stand for, in order.
    """

    video: Video
    sampled: tuple[int, ...]
    pixels: Frames
    number: int = 0
    moments: tuple[Moment, ...] = ()

    @property
    def regions(self) -> Mapping[str, Any]:
        """The video's named regions; where it has none, its moments are its regions."""
        return self.video.regions or {moment.name: None for moment in self.moments}

    @property
    def captions(self) -> Mapping[str, str]:
        """Of the named regions."""
        return self.video.captions

    def pictures(self, merged: list[tuple[int, ...]]) -> tuple["SampledVideo", list["VideoFrames"]]:
        """The video with its moments, and a picture of each. merged: indices among `sampled`, for each moment."""
        frames = [tuple(dict.fromkeys(self.sampled[index] for index in indices)) for indices in merged]
        moments = tuple(Moment(of_moment, self.video.rate, self.number) for of_moment in frames)
        done = replace(self, moments=moments)
        images = [tuple(Image.fromarray(self.pixels[index]) for index in indices) for indices in merged]
        return done, [
            VideoFrames(shown[0], done.shapes_in(moment), moment=moment, images=shown)
            for moment, shown in zip(moments, images, strict=True)
        ]

    def shapes_in(self, moment: Moment) -> dict[str, Shape]:
        """Name -> shape of the regions that a moment shows; the whole of it where the video names none."""
        shapes = {name: shape_in(self.regions[name], moment, self.video.size) for name in self.video.regions}
        shapes = shapes or {moment.name: shape_in(None, moment, self.video.size)}
        return {name: shape for name, shape in shapes.items() if shape is not None}

    def __repr__(self) -> str:
        return f"{self.video}; sampled: {', '.join(str(index + 1) for index in self.sampled)}"


@dataclass(frozen=True, repr=False)
class VideoFrames(Picture):
    """The frames of one moment, as the picture of them that figures show: the first; `images` are all of them.

    Only a prompt that was prepared with a Video has such pictures: `model.prepare` does not take them.
    """

    moment: Moment = field(kw_only=True)
    images: tuple[Image.Image, ...] = field(kw_only=True)

    def __repr__(self) -> str:
        return f"VideoFrames: {self.moment}, {self.image.width} x {self.image.height} pixels"


def shape_in(where: Any, moment: Moment, size: tuple[int, int], rule: str = "centre") -> Shape | None:
    """The shape that a region of a video has in one moment; None where it is not there.

    where: a shape, `{"frame 3": shape}`, `Seconds`, or None for all of the video.
    """
    if isinstance(where, Seconds):
        return shape_in(where.where, moment, size) if moment.within(where, rule) else None
    if isinstance(where, Mapping):
        shown = [shape for name, shape in where.items() if frame_index(name) in moment.frames]
        shapes = [Box(0, 0, *size) if shape is None else as_shape(shape) for shape in shown]
        return (shapes[0] if len(shapes) == 1 else Union(shapes)) if shapes else None
    return Box(0, 0, *size) if where is None else as_shape(where)


def frame_index(name: Any) -> int | None:
    """`frame_index("frame 3")` is 2; None for anything else."""
    match = FRAME.fullmatch(name) if isinstance(name, str) else None
    return int(match[1]) - 1 if match else None


def _checked_region(name: Any, where: Any, video: Video) -> Any:
    """A named region, its shapes made and checked."""
    if isinstance(where, Mapping):
        for frame in where:
            index = frame_index(frame)
            if index is None or index >= video.n_frames:
                raise RegionError(
                    f"Region {name!r} is given for {frame!r}; give names of frames, 'frame 1' to "
                    f"'frame {video.n_frames}'."
                )
        if not where:
            raise RegionError(f"Region {name!r} is in no frame; give {{'frame 1': box, ...}}.")
        return {frame: _inside(name, as_shape(shape), video.size) for frame, shape in where.items()}
    if isinstance(where, Seconds):
        if where.start >= video.n_frames / video.rate:
            raise RegionError(
                f"Region {name!r} begins after {where.start:g} s, and the video lasts {video.n_frames / video.rate:g}."
            )
        return where if where.where is None else replace(where, where=_inside(name, where.where, video.size))
    return _inside(name, as_shape(where), video.size)


def _inside(name: Any, shape: Shape, size: tuple[int, int]) -> Shape:
    if misses(shape, *size):
        raise RegionError(f"Region {name!r} ({shape.bounds}) lies outside frames of {size[0]} x {size[1]} pixels.")
    return shape


def _stacked(frames: Any) -> Frames:
    """Frames as one array; InputError where there is none, or they have several sizes."""
    if isinstance(frames, str | bytes) or not hasattr(frames, "__len__"):
        raise InputError(
            f"{type(frames).__name__} was given as the frames of a video; give [frame, height, width, 3], a list of "
            "images, or the path of a file."
        )
    images = [np.asarray(read_image(frame)) for frame in frames]
    if not images:
        raise InputError("A video of no frames was given; give one or more.")
    sizes = list(dict.fromkeys(f"{image.shape[1]} x {image.shape[0]}" for image in images))
    if len(sizes) > 1:
        raise InputError(f"The frames have several sizes ({', '.join(sizes[:4])} pixels); resize them to one.")
    return np.stack(images)


def _check_rate(name: str, value: Any, *, optional: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < float("inf"):
        raise InputError(
            f"{name}={value!r} was given; give frames per second of the video, as in Video(frames, fps=8)."
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
