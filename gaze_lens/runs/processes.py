"""Several processes, as `torchrun` and `accelerate launch` start them: each takes a share, and all get the whole.

    torchrun --nproc-per-node 8 find.py
    # find.py: scores = distributed.score_heads(model, strips); the same on every rank, and as in one process

What is shared out are strips, and what is merged are the samples of each, in their order: the sums are exact.
"""

import os
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from gaze_lens.errors import InputError
from gaze_lens.runs.shards import Shard, shard_of

PATIENCE = timedelta(days=30)  # a rank that is done waits for the slowest; one that dies is the launcher's to report


def launched() -> tuple[int, int]:
    """(rank, number of ranks) of this process; (0, 1) where it is the only one.

    Joins the other ranks where a launcher started this process and it has not joined them yet.
    """
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if not dist.is_torchelastic_launched():
            return 0, 1
        dist.init_process_group("gloo", timeout=PATIENCE)
    return dist.get_rank(), dist.get_world_size()


def own_device(device: str | None) -> str | None:
    """`"cuda"` as the GPU of this rank: "cuda:2" for the third on its machine."""
    if device != "cuda" or launched()[1] == 1:
        return device
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def part_of(text: str | None) -> Shard | None:
    """The shard i/n of a job; None for a run that does all, in one process or in several that know of one another."""
    if text is not None and launched()[1] > 1:
        raise InputError("--shard is for jobs of their own; torchrun and accelerate launch share out without it.")
    part = shard_of(text)
    return None if part == (0, 1) else part


def wait() -> None:
    """Return when all ranks have come here."""
    if launched()[1] > 1:
        dist.barrier(world_group(dist.group.WORLD))


def gathered(value: Any) -> list[Any]:
    """What each rank has, by rank; anything that can be pickled."""
    ranks = launched()[1]
    if ranks == 1:
        return [value]
    found: list[Any] = [None] * ranks
    dist.all_gather_object(found, value, group=world_group(dist.group.WORLD))
    return found


@cache
def world_group(world: Any) -> Any:  # noqa: ARG001 (one group for each world)
    """All ranks, on the CPU, where samples are, whatever the ranks use among their GPUs."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
