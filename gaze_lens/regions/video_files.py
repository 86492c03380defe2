"""Frames of video files, read by PyAV, which `pip install 'gaze-lens[video]'` installs.

file = VideoFile.open("clip.mp4"); len(file), file.fps, file.size; file.read((0, 12, 24))
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gaze_lens.errors import ImageError, InputError


def is_path(source: Any) -> bool:
    """Whether the frames of a video are given as a file."""
    return isinstance(source, str | Path)


@dataclass(frozen=True)
class VideoFile:
    """path: of the file. n_frames: counted by decoding it. fps: on average. size: (width, height) in pixels."""

    path: Path
    n_frames: int
    fps: float
    size: tuple[int, int]

    @classmethod
    def open(cls, path: str | Path) -> "VideoFile":
        """`VideoFile.open("clip.mp4")`; ImageError for a file that holds no video, InputError without PyAV."""
        if str(path).startswith(("http:", "https:", "data:")):
            raise ImageError(f"{str(path)[:80]} is a web address; download the video and give the path of the file.")
        if not Path(path).is_file():
            raise ImageError(f"There is no video file {path}; give the path of a file, such as clip.mp4.")
        seen = [(frame.width, frame.height, rate) for frame, rate in _decoded(Path(path))]
        sizes, rate = [one[:2] for one in seen], seen[0][2] if seen else None
        if not rate:
            raise ImageError(f"The file {path} holds no frames, or no rate of them; give a video.")
        if len(set(sizes)) > 1:
            raise InputError(f"The frames of {path} have several sizes: {sorted(set(sizes))[:4]}; resize them to one.")
        return cls(Path(path), len(sizes), float(rate), sizes[0])

    def __len__(self) -> int:
        return self.n_frames

    def read(self, indices: tuple[int, ...]) -> UInt8[np.ndarray, "frame height width 3"]:
        """Some of the frames, in this order; only these are in memory."""
        wanted, frames = set(indices), {}
        for index, (frame, _) in enumerate(_decoded(self.path)):
            if index in wanted:
                frames[index] = frame.to_ndarray(format="rgb24")
        return np.stack([frames[index] for index in indices])


def _decoded(path: Path) -> Any:
    """(frame, frames per second) for every frame of a file, one after the other."""
    try:
        av = import_module("av")
    except ModuleNotFoundError as error:
        raise InputError(
            "Reading a video file needs PyAV, which is not installed: pip install 'gaze-lens[video]'. Or give the "
            "frames: gl.Video(frames, fps=8)."
        ) from error
    try:
        with av.open(str(path)) as container:
            for stream in container.streams.video[:1]:
                for frame in container.decode(stream):
                    yield frame, stream.average_rate
    except (av.error.FFmpegError, OSError) as error:
        raise ImageError(
            f"The video file {path} cannot be read ({error}); save it again, as MP4 for example."
        ) from error
