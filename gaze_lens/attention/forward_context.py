"""A module whose forward runs within a context of ours, which ends whatever happens.

    run_within(text_model, seam.running)     # running(kwargs) is a context manager

PyTorch's own hooks that are always called are not called when Ctrl-C comes in between.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import update_wrapper
from typing import Any

from torch import nn


class Within:
    """The forward of a module, inside a context; an object, so that it is copied along with its module."""

    def __init__(self, forward: Callable, context: Callable[[dict[str, Any]], AbstractContextManager]) -> None:
        update_wrapper(self, forward)
        self.inner, self.context = forward, context

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.context(kwargs):
            return self.inner(*args, **kwargs)


def run_within(module: nn.Module, context: Callable[[dict[str, Any]], AbstractContextManager]) -> None:
    """From now on the module's forward runs inside `context(keyword arguments of the forward)`."""
    module.forward = Within(module.forward, context)
