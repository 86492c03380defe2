"""Several processes of one run, as `torchrun` and `accelerate launch` start them.

rank, ranks = launched()           # (0, 1) in a single process
values = gathered(value)           # the value of every rank, by rank
wait()                             # until all ranks are here
"""

import os
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from gaze_lens.errors import InputError
from gaze_lens.runs.shards import Shard, shard_of

TIMEOUT = timedelta(days=30)  # a finished rank waits for the slowest; the launcher reports a rank that died


def launched() -> tuple[int, int]:
    """(rank, number of ranks) of this process; (0, 1) for a single process.

    If a launcher started this process, the first call joins the other ranks.
    """
    if not dist.is_available():
        return 0, 1
    if not dist.is_initialized():
        if not dist.is_torchelastic_launched():
            return 0, 1
        dist.init_process_group("gloo", timeout=TIMEOUT)
    return dist.get_rank(), dist.get_world_size()


def own_device(device: str | None) -> str | None:
    """`"cuda"` as the GPU of this rank: "cuda:2" for the third on its machine."""
    if device != "cuda" or launched()[1] == 1:
        return device
    if not torch.cuda.device_count():
        raise InputError("--device cuda was given, and PyTorch sees no such device on this machine; give --device cpu.")
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def part_of(text: str | None) -> Shard | None:
    """The shard of `--shard i/n`; None for a whole run, in a single process or in the ranks of a launcher."""
    if text is not None and launched()[1] > 1:
        raise InputError("--shard is for jobs of their own; torchrun and accelerate launch share out without it.")
    part = shard_of(text)
    return None if part == (0, 1) else part


def wait() -> None:
    """Return when all ranks have called it."""
    if launched()[1] > 1:
        dist.barrier(world_group(dist.group.WORLD))


def gathered(value: Any) -> list[Any]:
    """The value of each rank, by rank; anything that can be pickled."""
    ranks = launched()[1]
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    dist.all_gather_object(values, value, group=world_group(dist.group.WORLD))
    return values


@cache
def world_group(world: Any) -> Any:  # noqa: ARG001 (one group for each world)
    """A process group of all ranks on the CPU, where the samples are; the ranks may use another one for their GPUs."""
    return dist.new_group(backend="gloo", timeout=TIMEOUT)
