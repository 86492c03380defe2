"""The questions about strips and scenes; indices are 0-based, words count from one."""

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
    if not 0 <= index < len(ORDINALS):
        raise InputError(f"There is no ready question about panel index {index}; expected 0 to {len(ORDINALS) - 1}.")
    return f"What happens in the {ORDINALS[index]} panel from the left?"


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
