"""The argument under which Hugging Face's modules take the cache: `cache` since transformers 5.24, other names before.

A cache that is not found would be a silent fault: positions after it would count from 0.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformers.cache_utils import Cache

from gaze_lens.errors import ModelError

NAMES = ("past_key_values", "cache", "cache_params")  # the last: linear attention, before 5.24


def cache_in(arguments: Mapping[str, Any]) -> Cache | None:
    """The cache among the arguments of a forward, under any of its names."""
    return next((arguments[name] for name in NAMES if arguments.get(name) is not None), None)


def cache_argument(forward: Callable) -> str:
    """Under which name a forward takes a cache; ModelError where it is none of them, as in a later transformers."""
    parameters = inspect.signature(forward).parameters
    for name in NAMES:
        if name in parameters:
            return name
    raise ModelError(
        f"{getattr(forward, '__qualname__', forward)} takes no argument {' or '.join(map(repr, NAMES))}, so that "
        "gaze_lens cannot know how many tokens came before. Use a version of transformers that pyproject.toml allows."
    )
