"""Puts the frames of videos among the pictures of a batch, in the order of the prompt.

pictures, videos, maps = with_frames(family, processed, seen, maps)
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families import Family, Processed, TokenMap
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.video import SampledVideo


def with_frames(
    family: Family, processed: Processed, seen: Sequence[Sequence[Picture | SampledVideo]], maps: Sequence[TokenMap]
) -> tuple[list[list[Picture]], list[list[SampledVideo]], list[TokenMap]]:
    """Pictures and videos of each row, and a map of each picture. A video's moments stand where the video does.

    seen: the pictures and videos of each row. maps: of the pictures alone.
    """
    of_videos = iter(family.video_maps(processed) if family.video_maps is not None and processed.videos else ())
    of_pictures, pictures, videos, ordered = iter(maps), [], [], []
    for row in seen:
        pictures.append(list[Picture]())
        videos.append(list[SampledVideo]())
        for source in row:
            if isinstance(source, Picture):
                pictures[-1].append(source)
                ordered.append(next(of_pictures))
                continue
            moments = next(of_videos)
            video, frames = source.pictures([moment.frames for moment in moments])
            pictures[-1] += frames
            videos[-1].append(video)
            ordered += [moment.tokens for moment in moments]
    return pictures, videos, ordered


def check_order(processor: Any, prompt: str, kinds: Sequence[str]) -> None:
    """InputError where the chat template writes pictures and videos in another order than they were given in.

    prompt: the text for the processor. kinds: "image" or "video", in the order of what was given.
    """
    if len(set(kinds)) < 2:
        return
    marks = {processor.image_token: "image", processor.video_token: "video"}
    found = re.findall("|".join(map(re.escape, marks)), prompt)
    if [marks[mark] for mark in found] != list(kinds):
        order = ", ".join(marks[mark] for mark in found)
        raise InputError(
            f"The model's chat template writes them in the order {order}, and they were given as {', '.join(kinds)}; "
            "give pictures and videos in the template's order."
        )


def check_placeholders(
    tensors: Mapping[str, Tensor], config: Any, images: Sequence[Sequence[Any]], videos: Sequence[Sequence[Any]]
) -> None:
    """InputError for images beside videos in a model whose forward cannot tell their tokens apart (GLM-4.1V)."""
    token = getattr(config, "video_token_id", None)
    two_tensors = any(images) and any(videos) and "pixel_values_videos" in tensors
    if two_tensors and (token is None or not bool((tensors["input_ids"] == token).any())):
        raise InputError(
            "Pictures and videos were given together, and this model has one token for both, which Hugging Face's "
            "forward cannot tell apart. Give the pictures as frames, or run the two apart."
        )
