"""The errors that gaze_lens raises: one base class and a kind for each part of the library.

Every message says what was given, what was expected and what to do.
"""

from collections.abc import Mapping
from typing import Any


class GazeLensError(Exception):
    """Base class of every error that gaze_lens raises on purpose."""


class ImageError(GazeLensError):
    """An image cannot be read, or has a size that cannot be used."""


class RegionError(GazeLensError):
    """A region is empty, lies outside its image, is unknown by name, or belongs to another prompt."""


class HeadError(GazeLensError):
    """A head is not written as heads are, lies outside the model, or belongs to another model."""


class ModelError(GazeLensError):
    """A model cannot be wrapped or loaded, or its weights cannot be used."""


class NotFiniteError(ModelError):
    """The logits of a generation are NaN or infinite, so that its next token means nothing.

    steps: row of the batch -> the step, from 0, at which that was so. reasons: the same in words.
    generation: the record; the texts of the other rows are what they would be alone.
    """

    def __init__(self, steps: Mapping[int, int], generation: Any) -> None:
        self.steps, self.generation = dict(steps), generation
        self.reasons = {row: f"the logits are NaN or infinite at step {step}" for row, step in self.steps.items()}
        rows = ", ".join(f"row {row} (step {step})" for row, step in self.steps.items())
        super().__init__(
            f"The model's logits are NaN or infinite in {rows}: expected numbers to choose a token by. Look for such "
            "values in weights and hooks, or load the model in float32 or bfloat16; to forbid a token, give "
            "suppress_tokens=."
        )


class InputError(GazeLensError):
    """Prompts, images or arguments do not fit together."""


class HookError(GazeLensError):
    """A hook did not, or could not, do what it was attached for."""


class UnknownHookError(HookError, KeyError):
    """A hook name that the model does not have; a KeyError, as in TransformerLens."""

    __str__ = Exception.__str__  # KeyError would put the message in quotes


class MemoryLimitError(GazeLensError):
    """What was asked for would take more memory than the limit allows."""


class JudgeError(GazeLensError):
    """A judge cannot say what a text describes."""
