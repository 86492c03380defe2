"""Questions that have answers, from a file of JSON lines, as benchmarks of vision-language models have them.

{"image": "a.jpg", "question": "Is the ball red?", "answer": "no", "region": [10, 20, 110, 90]}
{"image": "b.jpg", "question": "What is it?", "choices": ["a cat", "a dog"], "answer": "a dog", "region": null}

questions = gl.data.read_questions("set.jsonl")
results = gl.evaluate(model, questions, conditions)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gaze_lens.data.pictures import Pictures, Reader, check_limit
from gaze_lens.errors import InputError
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image
from gaze_lens.regions.shapes import Box

REGION, WRONG = "region", "wrong region"
YES_NO = ("yes", "no")
FIELDS = {"image", "question", "answer", "choices", "region", "wrong_region", "id"}


@dataclass(frozen=True, repr=False)
class Question(Picture):
    """`Question(image, {"region": Box(...)}, prompt="Is it red?", answer="no")`: a picture and a question about it.

    regions: the first is what heads are steered to; without any, it is the whole picture. One of the name
        "wrong region" is what the condition "elsewhere" steers to.
    answer: one of the choices, where there are any. choices: by default, yes and no for an answer that is one of them.
    Raises InputError for no question, no answer, and an answer that is no choice; the rest as for a Picture.
    """

    prompt: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.regions or set(self.regions) == {WRONG}:
            image = self.image if hasattr(self.image, "size") else read_image(self.image)
            object.__setattr__(self, "image", image)
            object.__setattr__(self, "regions", {REGION: Box(0, 0, *image.size), **self.regions})
        for name, text in (("prompt", self.prompt), ("answer", self.answer)):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"A question has {name}={text!r}; give a text.")
        choices = tuple(self.choices or ())
        if not choices and self.answer.strip().lower() in YES_NO:
            choices = YES_NO
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "answer", _among(self.answer, choices))
        super().__post_init__()

    @property
    def target(self) -> str:
        """The name of the region that heads are steered to."""
        return next(name for name in self.regions if name != WRONG)


def lettered(choices: tuple[str, ...]) -> str:
    """The choices as lines that begin with a letter: "A. a cat"."""
    return "\n".join(f"{chr(65 + index)}. {choice}" for index, choice in enumerate(choices))


def _among(answer: str, choices: tuple[str, ...]) -> str:
    """The choice that an answer is, in any case, or by its letter. InputError for none, and for equal choices."""
    if not choices:
        return answer
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise InputError(f"The choices {list(choices)} are not all texts.")
    plain = [choice.strip().lower() for choice in choices]
    if len(set(plain)) < len(plain) or len(plain) < 2:
        raise InputError(f"The choices {list(choices)} were given; give two or more that differ.")
    if answer.strip().lower() in plain:
        return choices[plain.index(answer.strip().lower())]
    letter = ord(answer.strip().upper()) - 65 if len(answer.strip()) == 1 else -1
    if not 0 <= letter < len(choices):
        raise InputError(f"The answer {answer!r} is none of the choices {list(choices)}; give one, or its letter.")
    return choices[letter]


class Questions(Pictures):
    """What `read_questions` returns: `Pictures` that are `Question`s."""


def read_questions(path: str | Path, *, images: str | Path | None = None, limit: int | None = None) -> Questions:
    """`read_questions("set.jsonl")`: the questions of a file of JSON lines, whose images are read on access.

    Each line is an object with image (a path, from the folder `images` or that of the file), question and answer; where
    the answer is one of several, choices; region and wrong_region, boxes [x0, y0, x1, y1] in pixels, or null: then
    heads are steered to the whole picture; id, by default the number of the line. limit: only the first so many.
    Raises InputError, with the number of the line, for anything else.
    """
    check_limit(limit)
    path = Path(path)
    folder = path.parent if images is None else Path(images)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): expected JSON lines with questions.") from error
    readers: dict[str, Reader] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or len(readers) == limit:
            continue
        values = _checked(path, number, line)
        name = str(values.get("id", number))
        if name in readers:
            raise InputError(f"Line {number} of {path} has the id {name!r} of another line; give each its own.")
        readers[name] = partial(_question, folder, values)
    if not readers:
        raise InputError(f"{path} has no lines: expected questions.")
    return Questions(readers, source=str(path))


def _checked(path: Path, number: int, line: str) -> dict[str, Any]:
    """The object of a line."""
    where = f"Line {number} of {path}"
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} is no JSON object.")
    unknown, texts = sorted(set(values) - FIELDS), ("image", "question", "answer")
    if unknown or not all(isinstance(values.get(name), str) and values[name].strip() for name in texts):
        problem = f"the unknown fields {', '.join(unknown)}" if unknown else "no image, question or answer"
        raise InputError(f"{where} has {problem}; give image, question, answer, and choices, region, wrong_region, id.")
    for name in (REGION, "wrong_region"):
        _box(where, name, values.get(name))
    choices = values.get("choices") or ()
    if not isinstance(choices, list | tuple):
        raise InputError(f"{where} has choices {choices!r}; give a list of texts.")
    try:
        _among(values["answer"], tuple(choices))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return values


def _box(where: str, name: str, sides: Any) -> None:
    """InputError unless a region is four numbers, or null."""
    is_box = isinstance(sides, list) and len(sides) == 4
    if sides is not None and not (
        is_box and all(isinstance(s, int | float) and not isinstance(s, bool) for s in sides)
    ):
        raise InputError(f"{where} has {name} {sides!r}; give a box [x0, y0, x1, y1] in pixels, or null.")


def _question(folder: Path, values: Mapping[str, Any]) -> Question:
    named = {REGION: values.get("region"), WRONG: values.get("wrong_region")}
    regions = {name: Box(*sides) for name, sides in named.items() if sides is not None}
    return Question(
        read_image(folder / values["image"]), regions, prompt=values["question"], answer=values["answer"],
        choices=tuple(values.get("choices") or ()),
    )  # fmt: skip
