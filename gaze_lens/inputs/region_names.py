"""The names of regions where a prompt has several pictures: "panel 3 of image 2", and "image 2" for all of one.

Numbers in names count from 1, as those of panels and segments; the argument image= counts from 0. Images and videos are
numbered apart. A region of a picture that shows frames of a video is "cup of frame 3".
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gaze_lens.errors import RegionError
from gaze_lens.regions.segments import Source
from gaze_lens.regions.video import SampledVideo, VideoFrames

OF_IMAGE = re.compile(r"(?:(?P<name>.+) of )?image (?P<number>[1-9]\d{0,5})", re.DOTALL)
Named = Source | SampledVideo


def names_of(sources: Sequence[Named]) -> dict[str, tuple[int, str]]:
    """Name -> (index of the source, the region's name in it) of all regions of a prompt's sources.

    A name that several of them have is followed by its picture: "panel 3 of image 2".
    """
    counts = Counter(name for source in sources for name in source.regions)
    labels = labels_of(sources)
    return {
        (f"{name} of {labels[index]}" if counts[name] > 1 else name): (index, name)
        for index, source in enumerate(sources)
        for name in source.regions
    }


def labels_of(sources: Sequence[Named]) -> list[str]:
    """What each of a prompt's sources is called: "image 2", "video 1", and of frames "frames 3 and 4"."""
    labels, counts = [], Counter[str]()
    for source in sources:
        if isinstance(source, VideoFrames):
            labels.append(source.moment.name)
            continue
        kind = "video" if isinstance(source, SampledVideo) else "image"
        counts[kind] += 1
        labels.append(f"{kind} {counts[kind]}")
    return labels


def captions_of(sources: Sequence[Named]) -> dict[str, str]:
    """Name -> caption, for the names of `names_of` whose regions have one."""
    named = names_of(sources).items()
    return {name: sources[index].captions[own] for name, (index, own) in named if own in sources[index].captions}


def in_image(where: Any, pictures: Sequence[Any], image: int | None) -> tuple[Any, int | None]:
    """What a name means: the region's name in its picture, or None for all of it, and the picture's index.

    Anything else than such a name, and a name that one of the pictures itself has, comes back with `image` as it is.
    Raises RegionError for a picture that is not there, and for another one than `image`.
    """
    match = OF_IMAGE.fullmatch(where) if isinstance(where, str) else None
    if match is None or any(where in picture.regions for picture in pictures):
        return where, image
    stills = [index for index, picture in enumerate(pictures) if not isinstance(picture, VideoFrames)]
    number = int(match["number"]) - 1
    index = stills[number] if number < len(stills) else None
    if index is None or image not in (None, index):
        given = f" and image={image}" if image is not None else ""
        raise RegionError(
            f'{where!r}{given} was given for a prompt of {len(stills)} images; names count from 1 ("image 1"), and '
            "image= from 0."
        )
    return match["name"], index
