"""Statistics of a head's (asked, attended) matrix of attention, as pure functions on tensors.

    STATISTICS["contrast"](matrix)                               # [..., asked, attended] -> [...]
    resampled(samples, contrast, resamples=1000, seed=0)         # [resample, layer, head]
    chance(samples, contrast, permutations=1000, seed=0)         # p-values [layer, head]

Matrices and samples hold attention mass, 0 to 1, and NaN where a strip has no such panel. NaN is left out everywhere.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

Matrix = Float[Tensor, "*heads asked attended"]
Statistic = Callable[[Tensor], Tensor]
ROUNDING = 1e-6  # relative; smaller differences are rounding errors of float32
CELLS = 2**23  # numbers held at once in one step of a bootstrap or a permutation test (32 MB in float32)


def score(matrix: Matrix) -> Float[Tensor, "*heads"]:
    """Mean of the diagonal, not renormalised: Gandikota and Bau 2026, gaze score."""
    return matrix.diagonal(dim1=-2, dim2=-1).nanmean(-1)


def contrast(matrix: Matrix) -> Float[Tensor, "*heads"]:
    """Mean of the diagonal minus the mean of all other entries; 0 for a head that looks at all panels equally."""
    return score(matrix) - matrix.masked_fill(_identity(matrix), torch.nan).flatten(-2).nanmean(-1)


def correlation(matrix: Matrix) -> Float[Tensor, "*heads"]:
    """Pearson correlation of the matrix with the identity matrix, without NaN entries; 0 for a constant matrix."""
    valid = matrix.isfinite().flatten(-2)
    x = matrix.flatten(-2).nan_to_num(0)
    y = _identity(matrix).flatten().to(x).expand_as(x)
    n = valid.sum(-1, keepdim=True)
    x = torch.where(valid, x - x.sum(-1, keepdim=True) / n, 0)
    y = torch.where(valid, y - (y * valid).sum(-1, keepdim=True) / n, 0)
    spread = x.norm(dim=-1) * y.norm(dim=-1)
    scale = matrix.nan_to_num(0).flatten(-2).norm(dim=-1) * y.norm(dim=-1)
    return torch.where(spread > ROUNDING * scale, (x * y).sum(-1) / spread, 0.0)


STATISTICS: dict[str, Statistic] = {"score": score, "contrast": contrast, "correlation": correlation}


def draws(n_strips: int, *, resamples: int, seed: int) -> Int[Tensor, "resample strip"]:
    """The strips of each bootstrap resample: as many as there are, drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(n_strips, (resamples, n_strips), generator=generator)


def resampled(
    samples: Float[Tensor, "strip layer head asked attended"], statistic: Statistic, *, resamples: int, seed: int
) -> Float[Tensor, "resample layer head"]:
    """The statistic of the mean matrix of each bootstrap resample of the strips."""
    n_strips, *shape = samples.shape
    values, valid = samples.nan_to_num(0).flatten(1), samples.isfinite()[:, 0, 0].flatten(1).to(samples)
    strips = draws(n_strips, resamples=resamples, seed=seed)
    results = []
    for part in strips.split(max(1, CELLS // values.shape[1])):
        counts = torch.zeros(len(part), n_strips, dtype=samples.dtype)
        counts.scatter_add_(1, part, torch.ones(part.shape, dtype=samples.dtype))
        matrix = (counts @ values).unflatten(1, shape) / (counts @ valid).unflatten(1, shape[2:])[:, None, None]
        results.append(statistic(matrix))
    return torch.cat(results)


def chance(
    samples: Float[Tensor, "strip layer head asked attended"], statistic: Statistic, *, permutations: int, seed: int
) -> Float[Tensor, "layer head"]:
    """p-values from permuting the asked panels within each strip: (1 + #>=) / (1 + n).

    #>= is the number of permutations whose statistic is at least as large as the observed one.
    """
    n_strips, n_layers, n_heads, n_panels, _ = samples.shape
    # [strip x asked, attended x layer x head]: the matrix under a permutation is then a sum of some of the rows.
    rows = samples.permute(0, 3, 4, 1, 2).reshape(n_strips * n_panels, -1)
    values, valid = rows.nan_to_num(0), samples.isfinite()[:, 0, 0].flatten(0, 1).to(samples)
    observed = statistic(samples.nanmean(0))
    tolerance = ROUNDING * samples.nan_to_num(0).amax((0, 3, 4))
    count = torch.ones(n_layers, n_heads)
    batch = max(1, CELLS // max(values.shape[1] * n_panels, len(rows) * n_panels))
    present = samples[:, 0, 0].isfinite().any(-1)
    for order in _orders(present, permutations=permutations, batch=batch, seed=seed):
        # [permutation, asked, strip x asked]: 1 where a question of a strip takes the place of the asked one.
        select = torch.nn.functional.one_hot(order, n_panels).permute(0, 2, 1, 3).flatten(2).to(samples)
        matrix = (select @ values).unflatten(2, (n_panels, n_layers, n_heads)) / (select @ valid)[..., None, None]
        count += (statistic(matrix.permute(0, 3, 4, 1, 2)) >= observed - tolerance).sum(0)
    return count / (1 + permutations)


def _orders(
    present: Tensor, *, permutations: int, batch: int, seed: int
) -> Iterator[Int[Tensor, "permutation strip asked"]]:
    """Random orders of the panels of each strip (present: bool, [strip, asked]); missing panels stay in place."""
    generator = torch.Generator().manual_seed(seed)
    slots = torch.argsort((~present).int(), dim=1, stable=True)  # the present panels, then the missing ones
    for start in range(0, permutations, batch):
        keys = torch.rand(min(batch, permutations - start), *present.shape, generator=generator)
        fixed = 1 + torch.arange(present.shape[1])
        order = torch.where(present, keys, fixed).argsort(-1)
        yield torch.empty_like(order).scatter_(-1, slots.expand_as(order), order)


def _identity(matrix: Tensor) -> Tensor:
    return torch.eye(*matrix.shape[-2:], dtype=torch.bool, device=matrix.device)
