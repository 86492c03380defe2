"""Several processes that know of one another, over the loopback device: forks, so that models need not be loaded."""

import multiprocessing
import os
from datetime import timedelta

import torch.distributed as dist

FORK = multiprocessing.get_context("fork")
LIMIT = 120  # seconds for all processes of a test


def joined(work, rank, ranks, folder, results):
    """Join the other ranks, work, and tell."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=LIMIT))
    results.put((rank, work(rank)))
    dist.barrier()
    dist.destroy_process_group()


def on_ranks(work, folder, ranks=2):
    """What `work(rank)` returns in each of several processes that know of one another."""
    results = FORK.SimpleQueue()
    processes = [FORK.Process(target=joined, args=(work, rank, ranks, folder, results)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0] * ranks
    return [found for _, found in sorted((results.get() for _ in range(ranks)), key=lambda pair: pair[0])]
