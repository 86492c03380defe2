"""Fingerprints of pictures, by which a run that goes on knows that they are the same."""

import hashlib
from collections.abc import Sequence

from gaze_lens.regions.picture import Picture


def names_of(pictures: Sequence[Picture]) -> list[str]:
    """The pictures' names where they have any, as those of `gl.data` do; else "0", "1", ..."""
    return [str(name) for name in getattr(pictures, "names", range(len(pictures)))]


def pictures_digest(pictures: Sequence[Picture]) -> str:
    """A fingerprint of the names of pictures; of the pictures themselves where they have no names."""
    digest = hashlib.sha256(repr(names_of(pictures)).encode())
    if not hasattr(pictures, "names"):
        for picture in pictures:
            digest.update(f"{picture_digest(picture)} {picture.captions}".encode())
    return digest.hexdigest()[:16]


def picture_digest(picture: Picture) -> str:
    """A fingerprint of a picture: its pixels and its regions."""
    digest = hashlib.sha256(f"{picture.image.size} {picture.regions}".encode())
    digest.update(picture.image.tobytes())
    return digest.hexdigest()[:16]
