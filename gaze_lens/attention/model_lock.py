"""One thread at a time runs a model: hooks are attached to the model itself, so that a run in another thread would be
under them, too.

    with lock.hold(): ...                 # a run: other threads wait until it has ended
    with lock.hold(block=True): ...       # `with model.hooks(...)`: a run in another thread is an error at once

A run ends by itself, so that waiting for it is safe. A block is open for as long as the user likes, and may be waiting
for the very thread that would wait for it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gaze_lens.errors import HookError

PATIENCE = 0.05  # seconds between two looks at whether a block has been opened meanwhile


class ModelLock:
    """A lock that its own thread may take again. A copy of a model gets one of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._block = False

    def __reduce__(self) -> tuple:
        return ModelLock, ()

    @contextmanager
    def hold(self, *, block: bool = False) -> Iterator[None]:
        """Hold the lock; HookError where another thread is inside a `with model.hooks(...)` block.

        Backward passes are let through: autograd may recompute a checkpointed forward in a thread of its own, while
        the thread that holds the lock waits for it.
        """
        if torch._C._current_graph_task_id() >= 0:
            yield
            return
        while not self._lock.acquire(timeout=PATIENCE):
            if self._block:
                raise HookError(
                    "Another thread has hooks on this model (`with model.hooks(...)`), and they would act on this run, "
                    "too. Hand hooks to the run itself (run_with_hooks, generate(fwd_hooks=...)): then runs in other "
                    "threads wait until it has ended. Or use a copy of the model in each thread."
                )
        self._depth += 1
        outermost, self._block = self._depth == 1, self._block or (block and self._depth == 1)
        try:
            yield
        finally:
            self._depth -= 1
            if outermost:
                self._block = False
            self._lock.release()
