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
    """The peak memory of a call in megabytes, above what was held before it: resident memory, or on a GPU allocated
    memory. None without a GPU and without Linux, where it is not known."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not (PROCESS / "clear_refs").exists():
        work()
        return None
    ctypes.CDLL(None).malloc_trim(0)  # else the call could reuse memory that earlier calls freed, uncounted
    (PROCESS / "clear_refs").write_text("5")  # reset the peak of the resident size
    before = _kilobytes("VmRSS")
    work()
    return (_kilobytes("VmHWM") - before) / 2**10


def _kilobytes(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", (PROCESS / "status").read_text())[1])
