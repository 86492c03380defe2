"""Gaze scores over several processes, as `torchrun` and `accelerate launch` start them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gaze_lens.errors import InputError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.processes import gathered, launched, world_group
from gaze_lens.scoring.gaze_score import score_strips

Sample = Float[Tensor, "layer head _ _"]


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
        dist.all_reduce(found, group=world_group(dist.group.WORLD))
        dist.all_reduce(here, group=world_group(dist.group.WORLD))
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
    provenance = {"method": "gaze score", "at": at, "strips": len(strips)}
    samples = together(rows, len(strips), shape)
    return HeadScores(samples, model=model.cfg.model_name, fingerprint=model.fingerprint, provenance=provenance)
