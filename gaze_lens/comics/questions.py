"""The questions about strips and scenes; indices are 0-based, words count from one."""

from collections.abc import Callable
from string import Formatter

from gaze_lens.errors import InputError

OPEN = "What is going on in this picture?"


THIS = "What is happening in this panel?"


NARRATE = "Describe this comic panel by panel, from left to right."


NARRATE_ANY_ORDER = "Describe this comic panel by panel, in any order."


NARRATE_FREELY = "Say what each panel shows, in any order, without numbers."


ONE_THING = "What is one thing in this picture?"


MAIN_OBJECT = "What is the main object in this part of the image? Answer in a few words."


LIST_THINGS = "List the things in this picture."


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def ask(index: int) -> str:
    """The question about a panel by its 0-based `index`, up to 7: `ask(0)` is about the first panel from the left."""
    return f"What happens in the {_ordinal(index)} panel from the left?"


def _ordinal(index: int) -> str:
    if not 0 <= index < len(ORDINALS):
        raise InputError(f"There is no ready question about panel index {index}; expected 0 to {len(ORDINALS) - 1}.")
    return ORDINALS[index]


PANEL_WORDS: dict[str, Callable[[int], str]] = {"n": lambda index: str(index + 1), "ordinal": _ordinal}


def question_from(template: str) -> Callable[[int], str]:
    """A question about each panel, by its 0-based index, from a text with {n} (1, 2, ...) or {ordinal} (first, ...).

    `question_from("What is in panel {n}?")(0)` is "What is in panel 1?". {ordinal} goes up to the eighth panel.
    Raises InputError for a text without either, and for other braces; {{ and }} stand for braces themselves.
    """
    try:
        fields = {tuple(field) for _, *field in Formatter().parse(template) if field[0] is not None}
    except ValueError:
        fields = set()
    if not fields or not fields <= {(name, "", None) for name in PANEL_WORDS}:
        raise InputError(
            f"The question {template!r} was given; write {{n}} or {{ordinal}} where it names the panel, as in "
            "'What happens in panel {n}?'."
        )
    named = [str(name) for name, *_ in fields]
    return lambda index: template.format(**{name: PANEL_WORDS[name](index) for name in named})


def ask_place(place: str) -> str:
    """The question about a place in a scene: `ask_place("top left")`."""
    return f"What is at the {place}?"


def place(row: int, column: int, shape: tuple[int, int]) -> str:
    """The place of a cell in a scene of shape (rows, columns), in words: `place(0, 2, (3, 3))` is "top right"."""
    words = []
    for index, count, names in zip(
        (row, column), shape, (("top", "middle", "bottom"), ("left", "middle", "right")), strict=True
    ):
        words.append(names[0] if index == 0 else names[2] if index == count - 1 else names[1])
    return " ".join(words)
