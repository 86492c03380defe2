"""Ways to select heads beside the gaze score. Each is a ranking: `scores.top(100, by="image")`.

    SELECTORS["routing"](samples, image_mass, mean_map)     # [layer, head], larger is better; NaN: not eligible

selectivity, routing: of the panels' masses, question by question. image, localization: of the whole image, whatever the
question is about; they need what `gl.score_heads` reads beside the panels.
Sources: Image Heads, MaskCD (arXiv 2510.02790); Localization Heads, Kang et al. (CVPR 2025); Gandikota and Bau 2026
(arXiv 2606.14703), D.3, compares both with the gaze score.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d

from gaze_lens.errors import HeadError

CELL = 0.001  # attention above the map's mean from which a cell of the grid belongs to a component
EARLY = 2  # layers at the beginning in which no localization head is looked for

Samples = Float[Tensor, "strip layer head asked attended"]
ImageMass = Float[Tensor, "strip layer head asked"]
MeanMap = Float[Tensor, "layer head row column"]
Values = Float[Tensor, "layer head"]


def selectivity(samples: Samples) -> Values:
    """Of the mass on all panels, the share on the one asked about: the mean over questions.

    0 for a question at which a head looks at no panel.
    """
    own = samples.diagonal(dim1=-2, dim2=-1)
    everywhere = samples.nan_to_num(0).sum(-1)
    share = torch.where(everywhere > 0, own / everywhere.where(everywhere > 0, 1), 0 * own)
    return _over_questions(share)


def routing(samples: Samples) -> Values:
    """The share of questions at which the panel asked about gets more mass than any other panel."""
    own = samples.diagonal(dim1=-2, dim2=-1)
    is_own = torch.eye(samples.shape[-1], dtype=torch.bool)
    most = samples.nan_to_num(-torch.inf).masked_fill(is_own, -torch.inf).amax(-1)
    return _over_questions((own > most).to(samples).where(own.isfinite(), torch.nan))


def image_heads(image_mass: ImageMass) -> Values:
    """Mass on all image tokens as a z-score among the heads of the layer, averaged over prompts.

    NaN in layers that never look at the image, such as those without attention.
    """
    centred = image_mass - image_mass.mean(2, keepdim=True)
    spread = centred.square().mean(2, keepdim=True).sqrt()
    z = _over_questions(torch.where(spread > 0, centred / spread.where(spread > 0, 1), 0 * centred))
    looks = (image_mass.nan_to_num(0) > 0).any(3).any(2, keepdim=True).any(0)
    return z.where(looks, torch.nan)


def localization_heads(mass: Values, mean_map: MeanMap) -> Values:
    """Minus the spatial entropy of the heads whose image mass is above the elbow; NaN for all others.

    Layers 0 and 1 are left out, and heads whose whole bottom row belongs to components. Minus infinity for a map
    without a component. (The released code of Kang et al. compares indices of heads with the elbow, this one masses.)
    """
    clipped = (mean_map - mean_map.mean((-2, -1), keepdim=True)).clamp(min=0)
    labels = components(clipped > CELL)
    has_bottom_row = (labels[..., -1, :] > 0).all(-1)
    looking = mass[mass > 0]  # layers that never look at the image, such as those without attention, bend no curve
    if not len(looking):
        return torch.full_like(mass, torch.nan)
    eligible = (mass > elbow(looking)) & ~has_bottom_row
    eligible[:EARLY] = False
    return (-_entropy(clipped, labels)).where(eligible, torch.nan)


def elbow(values: Float[Tensor, " value"]) -> float:
    """The value farthest from the straight line between the smallest and the largest, all sorted."""
    ascending = values.sort().values
    line = torch.linspace(float(ascending[0]), float(ascending[-1]), len(ascending)).to(ascending)
    return float(ascending[(ascending - line).abs().argmax()])


def components(cells: Tensor) -> Int[Tensor, "*maps row column"]:
    """The component of each cell, by a number of its own, of maps `[..., row, column]`; 0 where `cells` is false.

    Cells that touch, by an edge or a corner, are in one component.
    """
    maps = cells.reshape(-1, *cells.shape[-2:])
    labels = maps * torch.arange(1, 1 + maps[0].numel(), dtype=torch.float64).view(maps.shape[1:])
    while True:
        spread = max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * maps
        if torch.equal(spread, labels):
            return labels.long().view(cells.shape)
        labels = spread


def _entropy(
    values: Float[Tensor, "*maps row column"], labels: Int[Tensor, "*maps row column"]
) -> Float[Tensor, "*maps"]:
    """The entropy, in nats, of the components' shares of the sum of all values; infinite without a component."""
    flat, ids = values.flatten(-2).double(), labels.flatten(-2)
    sums = torch.zeros(*flat.shape[:-1], flat.shape[-1] + 1, dtype=flat.dtype).scatter_add_(-1, ids, flat)
    shares = sums[..., 1:] / flat.sum(-1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    entropy = -torch.xlogy(shares, shares).sum(-1)
    return entropy.where((ids > 0).any(-1), torch.inf).to(values)


def _over_questions(values: ImageMass) -> Values:
    """The mean over all questions of all strips; NaN is no question."""
    return values.permute(1, 2, 0, 3).flatten(2).nanmean(-1)


def _image(_samples: Samples, image_mass: ImageMass | None, _mean_map: MeanMap | None) -> Values:
    return image_heads(_given(image_mass))


def _localization(_samples: Samples, image_mass: ImageMass | None, mean_map: MeanMap | None) -> Values:
    mass = _over_questions(_given(image_mass))
    if mean_map is None:
        raise HeadError(
            "These scores hold no maps over the image: expected strips whose tokens lie on one grid. A model that sees "
            "a picture in several tiles has none, and neither has a text; use another ranking, such as by='score'."
        )
    return localization_heads(mass, mean_map)


def _given(image_mass: ImageMass | None) -> ImageMass:
    if image_mass is None:
        raise HeadError(
            "These scores hold no attention on the whole image: expected what gl.score_heads and gaze-lens discover "
            "write since version 0.2. Score the heads again."
        )
    return image_mass


SELECTORS: dict[str, Callable[[Samples, ImageMass | None, MeanMap | None], Values]] = {
    "selectivity": lambda samples, _mass, _map: selectivity(samples),
    "routing": lambda samples, _mass, _map: routing(samples),
    "image": _image,
    "localization": _localization,
}
