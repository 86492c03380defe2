"""How much memory a call takes: `megabytes = peak(lambda: model(inputs))`."""

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROCESS = Path("/proc/self")


def peak(work: Callable[[], Any]) -> float | None:
    """The most megabytes that a call holds beyond what was held before it: resident ones, or on a GPU allocated ones.

    None where neither can be known (no GPU, no Linux).
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not (PROCESS / "clear_refs").exists():
        work()
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls let go would be taken again, and not be counted
    (PROCESS / "clear_refs").write_text("5")  # the highest resident size counts from here
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) / 2**10


def _kilobytes(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", (PROCESS / "status").read_text())[1])
