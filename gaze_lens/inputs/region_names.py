"""The names of regions where a prompt has several pictures: "panel 3 of image 2", and "image 2" for all of one.

Numbers in names count from 1, as those of panels and segments; the argument image= counts from 0.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gaze_lens.errors import RegionError
from gaze_lens.regions.segments import Source

OF_IMAGE = re.compile(r"(?:(?P<name>.+) of )?image (?P<number>[1-9]\d{0,5})", re.DOTALL)


def names_of(sources: Sequence[Source]) -> dict[str, tuple[int, str]]:
    """Name -> (index of the source, the region's name in it) of all regions of a prompt's pictures and passages.

    A name that several of them have is followed by its picture: "panel 3 of image 2".
    """
    counts = Counter(name for source in sources for name in source.regions)
    return {
        (f"{name} of image {index + 1}" if counts[name] > 1 else name): (index, name)
        for index, source in enumerate(sources)
        for name in source.regions
    }


def captions_of(sources: Sequence[Source]) -> dict[str, str]:
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
    index = int(match["number"]) - 1
    if index >= len(pictures) or image not in (None, index):
        given = f" and image={image}" if image is not None else ""
        raise RegionError(
            f'{where!r}{given} was given for a prompt of {len(pictures)} images; names count from 1 ("image 1"), and '
            "image= from 0."
        )
    return match["name"], index
