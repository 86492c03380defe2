"""Passages of text that stand in a prompt before the question, as pictures do.

texts = gl.passages(["Anna lives in Paris.", "Ben lives in Rome."])
inputs = model.prepare(texts, "Where does the person in segment 2 live?")
inputs.region("segment 2")            # a Region: the passage's tokens; its others are those of the other passages
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gaze_lens.errors import InputError
from gaze_lens.regions.picture import Picture
from gaze_lens.utf8 import is_utf8

LABEL = "Segment {k}:"
OPEN = "What is said in this segment?"
NARRATE = "Retell the segments one by one, in any order."


@dataclass(frozen=True, repr=False)
class Passages:
    """What `gl.passages` returns: passages of text with names, in the order in which they stand in the prompt.

    texts: the passages. labels: what stands before each, with a space after it; "" for nothing. separator: what stands
    after each passage. names: of the passages, as regions of a prompt.
    Raises InputError where there is no passage, one is empty, begins or ends in white space or is given twice, and for
    labels and names that are not one for each.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    separator: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for field in ("texts", "labels", "names"):
            _check_texts(field, getattr(self, field))
        _check_text("separator", self.separator)
        if not self.texts:
            raise InputError("No passage was given; give at least one: gl.passages(['Anna lives in Paris.']).")
        if not len(self.texts) == len(self.labels) == len(self.names):
            raise InputError(
                f"{len(self.texts)} passages, {len(self.labels)} labels and {len(self.names)} names were given; give "
                "one of each for every passage."
            )
        for k, text in enumerate(self.texts, 1):
            if text != text.strip() or not text:
                fault = "begins or ends in white space" if text.strip() else "is empty"
                raise InputError(f"Passage {k}, {text[:40]!r}, {fault}; give text without white space at its ends.")
        _refuse_repeated("passages", self.texts)
        _refuse_repeated("names", self.names)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Passages":
        """From what `dataclasses.asdict` makes of passages, also by way of JSON."""
        return cls(tuple(values["texts"]), tuple(values["labels"]), values["separator"], tuple(values["names"]))

    @property
    def regions(self) -> Mapping[str, str]:
        """Name -> passage, in order, as a picture has name -> shape."""
        return dict(zip(self.names, self.texts, strict=True))

    @property
    def captions(self) -> Mapping[str, str]:
        """Name -> the passage itself, which says what the segment is about."""
        return self.regions

    @property
    def text(self) -> str:
        """What stands before the question: every passage with its label, and the separator after it."""
        return "".join(map(self._line, self.labels, self.texts))

    @property
    def characters(self) -> Mapping[str, range]:
        """Name -> the characters of the passage in `text`."""
        found, start = {}, 0
        for name, label, text in zip(self.names, self.labels, self.texts, strict=True):
            line = self._line(label, text)
            first = start + len(line) - len(self.separator) - len(text)
            found[name] = range(first, first + len(text))
            start += len(line)
        return found

    def _line(self, label: str, text: str) -> str:
        return (f"{label} " if label else "") + text + self.separator

    def __repr__(self) -> str:
        return f"Passages of {len(self.texts)} segments: {', '.join(self.names)}"


Source = Picture | Passages  # what a prompt is about: it has named regions, and captions


def passages(
    texts: Sequence[str],
    *,
    labels: str | Sequence[str] = LABEL,
    separator: str = "\n",
    names: Sequence[str] | None = None,
) -> Passages:
    """`gl.passages(["Anna lives in Paris.", "Ben lives in Rome."])`: text for `model.prepare` in the place of pictures.

    labels: what stands before each passage: a text, in which {k} is its number from 1, or one text for each; "" for
        nothing. separator: what stands after each passage, the last one too.
    names: of the regions; "segment 1", "segment 2", ... unless given.
    Raises InputError for passages that are empty or equal, and other things than texts.
    """
    _check_texts("texts", texts)
    numbers = range(1, len(texts) + 1)
    listed = [labels.replace("{k}", str(k)) for k in numbers] if isinstance(labels, str) else labels
    named = [f"segment {k}" for k in numbers] if names is None else names
    for what, values in (("labels", listed), ("names", named)):
        _check_texts(what, values)
    return Passages(tuple(texts), tuple(listed), separator, tuple(named))


def ask_segment(index: int) -> str:
    """The question about a passage by its 0-based `index`: `ask_segment(0)` is about segment 1."""
    return f"What is said in segment {index + 1}?"


def _check_texts(what: str, values: Any) -> None:
    if not isinstance(values, list | tuple):
        raise InputError(f"{what}={values!r:.60} was given; give a list of texts: gl.passages(['One.', 'Another.']).")
    for value in values:
        _check_text(what, value)


def _check_text(what: str, value: Any) -> None:
    if not isinstance(value, str) or not is_utf8(value):
        raise InputError(f"{ascii(value)[:80]} was given as {what}; expected text that UTF-8 can hold.")


def _refuse_repeated(what: str, values: Sequence[str]) -> None:
    repeated = next((value for value in values if values.count(value) > 1), None)
    if repeated is not None:
        raise InputError(f"Two {what} are {repeated[:60]!r}: one cannot be told from the other. Give each once.")
