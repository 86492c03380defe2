"""Several processes, as `torchrun` and `accelerate launch` start them: each takes a share, and all get the whole.

    torchrun --nproc-per-node 8 find.py
    # find.py: scores = distributed.score_heads(model, strips); the same on every rank, and as in one process

What is shared out are strips, and what is merged are the samples of each, in their order: the sums are exact.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gaze_lens.errors import InputError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.shards import Shard, shard_of
from gaze_lens.scoring.gaze_score import score_strips

PATIENCE = timedelta(days=30)  # a rank that is done waits for the slowest; one that dies is the launcher's to report
Sample = Float[Tensor, "layer head _ _"]


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
        dist.barrier(_group(dist.group.WORLD))


def gathered(value: Any) -> list[Any]:
    """What each rank has, by rank; anything that can be pickled."""
    ranks = launched()[1]
    if ranks == 1:
        return [value]
    found: list[Any] = [None] * ranks
    dist.all_gather_object(found, value, group=_group(dist.group.WORLD))
    return found


def together(
    rows: Iterable[tuple[int, Sample]], n_rows: int, shape: Sequence[int]
) -> Float[Tensor, "strip layer head asked attended"]:
    """The samples of all ranks, in order: `[strip, layer, head, asked, attended]`.

    rows: (index of a strip, its sample), of the strips that this rank took. n_rows: strips in all; those that no rank
    has are left out. shape: of the widest sample here; strips with fewer panels are filled with NaN.
    """
    shape = [max(sizes) for sizes in zip(*gathered(list(shape)), strict=True)]
    found, here = torch.zeros(n_rows, *shape), torch.zeros(n_rows, dtype=torch.uint8)
    for index, sample in rows:
        width = sample.shape[-1]
        found[index] = torch.nan
        found[index, ..., :width, :width] = sample
        here[index] = 1
    if launched()[1] > 1:  # each row is one rank's, and zero on the others: its sum is the row itself
        dist.all_reduce(found, group=_group(dist.group.WORLD))
        dist.all_reduce(here, group=_group(dist.group.WORLD))
    return found if bool(here.all()) else found[here.bool()]


def score_heads(
    model: Any, strips: Sequence[Picture], *, at: str = "prompt", batch_size: int = 1, progress: bool = True,
    **options: Any,
) -> HeadScores:  # fmt: skip
    """`gl.score_heads` with the strips shared out over all ranks; every rank gets what one process would have got.

    Every rank calls it with the same arguments. Where no launcher started several, it is `gl.score_heads`.
    """
    if batch_size < 1 or not len(strips):
        raise InputError(f"{len(strips)} strips, batch_size={batch_size}: give at least one of each.")
    rank, ranks = launched()
    rows: list[tuple[int, Sample]] = []
    starts = range(rank * batch_size, len(strips), ranks * batch_size)  # whole batches: padding is as in one process
    for start in tqdm(starts, desc="scoring heads", unit="batch", disable=not progress or rank > 0):
        batch = strips[start : start + batch_size]
        samples = score_strips(model, batch, at=at, batch_size=batch_size, progress=False, **options)
        rows += [(start + k, sample) for k, sample in enumerate(samples)]
    shape = max((sample.shape for _, sample in rows), default=(0, 0, 0, 0), key=lambda shape: shape[-1])
    found = {"method": "gaze score", "at": at, "strips": len(strips)}
    samples = together(rows, len(strips), shape)
    return HeadScores(samples, model=model.cfg.model_name, fingerprint=model.fingerprint, found=found)


@cache
def _group(world: Any) -> Any:  # noqa: ARG001 (one group for each world)
    """All ranks, on the CPU, where samples are, whatever the ranks use among their GPUs."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)
