"""The errors that gaze_lens raises: one base class and a kind for each part of the library.

Every message says what was given, what was expected and what to do.
"""


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


class InputError(GazeLensError):
    """Prompts, images or arguments do not fit together."""


class HookError(GazeLensError):
    """A hook did not, or could not, do what it was attached for."""


class MemoryLimitError(GazeLensError):
    """What was asked for would take more memory than the limit allows."""


class JudgeError(GazeLensError):
    """A judge cannot say what a text describes."""
