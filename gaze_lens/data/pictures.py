"""A lazy sequence of pictures: it has their names, reads a picture on access, and lists what was left out.

pictures = gl.data.read_strips("comics")
len(pictures), pictures[0], pictures["batman"], pictures[:10], pictures.names
print(pictures)                       # 498 pictures from comics; left out: an image cannot be read (2)
pictures = pictures.check()           # reads every picture once, and leaves out those that cannot be read
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import overload

from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.regions.picture import Fit, Picture, check_fit
from gaze_lens.runs.progress import Bar
from gaze_lens.utf8 import printable
from gaze_lens.whole_numbers import is_count

Reader = Callable[[], Picture]


class Pictures(Sequence):  # not Sequence[Picture]: a runtime type checker would read a picture to check it
    """Pictures that are read on access: by index, by slice (again lazy), or by name.

    readers: name -> a function that reads the picture. source: where they come from, for messages.
    left_out: reason -> the names of what was left out for it. fit: of every picture, if it is not None.
    No picture stays in memory. Access raises ImageError or RegionError, with the picture's name, where a file is
    damaged or does not have the panels; `check` leaves such pictures out.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        *,
        source: str = "",
        left_out: Mapping[str, Sequence[str]] | None = None,
        fit: Fit | None = None,
    ) -> None:
        check_fit(fit)
        self.fit = fit
        self.source = printable(source)
        self.left_out = {reason: tuple(names) for reason, names in (left_out or {}).items()}
        self._readers = dict(readers)
        self.names = tuple(self._readers)

    @property
    def skipped(self) -> dict[str, int]:
        """Reason -> the number of entries left out for it; their names are in `left_out`."""
        return {reason: len(names) for reason, names in self.left_out.items()}

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int | str) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            readers = {name: self._readers[name] for name in self.names[index]}
            return type(self)(readers, source=self.source, left_out=self.left_out, fit=self.fit)
        if isinstance(index, str) and index not in self._readers:
            raise InputError(f"There is no picture '{index}' in {self}; `names` holds the names of all.")
        name = index if isinstance(index, str) else self.names[index]
        try:
            picture = self._readers[name]()
            return picture if self.fit is None else replace(picture, fit=self.fit)
        except (ImageError, RegionError) as error:
            raise type(error)(f"Picture '{name}' of {self.source} cannot be used: {error}") from error

    def items(self) -> Iterator[tuple[str, Picture]]:
        """(name, picture) in order; each picture is read when the iterator reaches it."""
        return ((name, self[name]) for name in self.names)

    def fitted(self, fit: Fit | None) -> "Pictures":
        """The same pictures, each with that `Picture.fit`."""
        return type(self)(self._readers, source=self.source, left_out=self.left_out, fit=fit)

    def check(self, *, progress: bool = False) -> "Pictures":
        """Read every picture once; return those that can be read, with the others in `left_out`.

        Raises InputError where none is left.
        """
        left_out = defaultdict(list, {reason: list(names) for reason, names in self.left_out.items()})
        readers = {}
        for name in Bar(self.names, desc="checking pictures", disable=not progress):
            try:
                self[name]
            except ImageError:
                left_out["an image cannot be read"].append(name)
            except RegionError:
                left_out["panels or regions do not fit the image"].append(name)
            else:
                readers[name] = self._readers[name]
        kept = collected(readers, left_out, source=self.source, expected="pictures that can be read")
        return type(self)(readers, source=self.source, left_out=kept.left_out, fit=self.fit)

    def __repr__(self) -> str:
        return f"{len(self)} pictures from {self.source}" + _reasons(self.skipped)


def collected(
    readers: Mapping[str, Reader], left_out: Mapping[str, Sequence[str]], *, source: str, expected: str
) -> Pictures:
    """The pictures of the readers. Raises InputError, with what was expected and left out, where there are none."""
    if not readers:
        reasons = _reasons({reason: len(names) for reason, names in left_out.items()})
        raise InputError(f"There are no pictures in {source}: expected {expected}{reasons}.")
    return Pictures(readers, source=source, left_out=left_out)


def check_limit(limit: int | None) -> None:
    """Raises InputError unless the limit is None or a positive number of pictures."""
    if limit is not None and not is_count(limit):
        raise InputError(f"limit={limit!r} was given; give the number of pictures to read, 1 or more, or None for all.")


def _reasons(skipped: Mapping[str, int]) -> str:
    """ "; left out: an image is missing (2), ..."; empty where nothing was left out."""
    if not skipped:
        return ""
    return "; left out: " + ", ".join(f"{reason} ({count})" for reason, count in skipped.items())
