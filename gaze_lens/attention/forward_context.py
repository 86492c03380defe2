"""A method of a module that runs inside a context of ours, which ends whatever happens.

    run_in_context(text_model, backend.forward)     # forward(kwargs) is a context manager

PyTorch's own hooks that are always called are not called when Ctrl-C comes in between.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import update_wrapper
from typing import Any

import torch
from torch import nn

Context = Callable[[dict[str, Any]], AbstractContextManager]


class InContext:
    """A method inside a context; an object, so that it is copied along with its module."""

    def __init__(self, method: Callable, context: Context) -> None:
        update_wrapper(self, method)
        self.method, self.context = method, context

    @torch.compiler.disable(recursive=False)  # what runs inside may be compiled
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.context(kwargs):
            return self.method(*args, **kwargs)


def run_in_context(module: nn.Module, context: Context, method: str = "forward") -> None:
    """From now on a method runs inside `context(its keyword arguments)`, which may add some."""
    setattr(module, method, InContext(getattr(module, method), context))
