"""Spearman's rank correlation, for values that may be tied and points that may count several times.

>>> float(rank_correlation(np.array([1, 2, 3, 4]), np.array([10, 20, 40, 30])))
0.8
"""

import numpy as np
from jaxtyping import Float, Shaped


def midranks(
    values: Shaped[np.ndarray, " point"], weights: Float[np.ndarray, "*draws point"]
) -> Float[np.ndarray, "*draws point"]:
    """The rank of every point: the weight of all smaller points, plus half the weight of those equal to it.

    So tied values share their mean rank.
    """
    order = np.argsort(values, kind="stable")
    distinct, index = np.unique(values, return_inverse=True)
    starts = np.searchsorted(values[order], distinct)
    weight = np.add.reduceat(weights[..., order], starts, axis=-1)
    return (weight.cumsum(-1) - weight / 2)[..., index]


def rank_correlation(
    first: Shaped[np.ndarray, " point"],
    second: Shaped[np.ndarray, " point"],
    weights: Float[np.ndarray, "*draws point"] | None = None,
) -> Float[np.ndarray, "*draws"]:
    """Spearman's rho, -1 to 1; 0 where either is constant.

    weights: how often each point counts, for all draws of a bootstrap at once; by default once each.
    """
    weights = np.ones(len(first)) if weights is None else weights
    x, y = (_centred(midranks(values, weights), weights) for values in (first, second))
    spread = np.sqrt((weights * x**2).sum(-1) * (weights * y**2).sum(-1))
    covariance = (weights * x * y).sum(-1)
    return np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 1e-12)


def _centred(
    ranks: Float[np.ndarray, "*draws point"], weights: Float[np.ndarray, "*draws point"]
) -> Float[np.ndarray, "*draws point"]:
    return ranks - (weights * ranks).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
