"""Gaze scores over several processes, as `torchrun` and `accelerate launch` start them.

    torchrun --nproc-per-node 8 find.py
    # find.py: scores = across_processes.score_heads(model, strips)

Every rank gets the scores that one process would get, to the last bit: what ranks exchange are the samples of strips.
(The mean map over the image is a sum over ranks, and equal to rounding.)
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from gaze_lens.data.picture_digests import image_digest
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.model_protocol import Model
from gaze_lens.regions.segments import Source
from gaze_lens.runs.processes import gathered, launched, world_group
from gaze_lens.scoring.gaze_score import Sample, indices_of_shard, read_strips, scores_of, stacked, widest
from gaze_lens.scoring.image_readings import ImageReadings


def score_heads(
    model: Model, strips: Sequence[Source], *, at: str = "prompt", batch_size: int = 1, progress: bool = True,
    **options: Any,
) -> HeadScores:  # fmt: skip
    """`gl.score_heads`, with the strips shared out over all ranks; every rank gets the scores of all strips.

    Every rank calls it with the same arguments. In a single process it is `gl.score_heads`.
    """
    shard = launched()
    options |= {"at": at, "batch_size": batch_size, "progress": progress and shard[0] == 0, "shard": shard}
    image, samples = ImageReadings(), dict[int, Sample]()
    indices = indices_of_shard(len(strips), batch_size, shard)
    for index, reading in zip(indices, read_strips(model, strips, **options), strict=True):
        image.add(index, reading.image_mass, reading.mean_map)
        samples[index] = reading.sample
    filled = gather_samples(samples.items(), len(strips), widest(sample.shape for sample in samples.values()))
    images = [image_digest(strip) for strip in strips]
    about = {"model": model.cfg.model_name, "fingerprint": model.fingerprint}
    return scores_of(filled, **about, at=at, images=images, image=image.of_all_ranks())


def gather_samples(
    samples: Iterable[tuple[int, Sample]], n_strips: int, shape: Sequence[int]
) -> Float[Tensor, "strip layer head asked attended"]:
    """The samples of all ranks, in the order of the strips; strips without a sample are left out.

    samples: (index of a strip, its sample), for the strips of this rank. n_strips: strips of all ranks. shape: of the
        widest sample of this rank; strips with fewer panels are filled up with NaN.
    """
    shape = [max(sizes) for sizes in zip(*gathered(list(shape)), strict=True)]
    filled, present = stacked(samples, n_strips, shape)
    if launched()[1] > 1:  # a strip has a sample on one rank, and is zero on the others: the sum is that sample
        present = present.byte()
        dist.all_reduce(filled, group=world_group(dist.group.WORLD))
        dist.all_reduce(present, group=world_group(dist.group.WORLD))
    return filled if bool(present.all()) else filled[present.bool()]
