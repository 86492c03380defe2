"""What a linear classifier reads from single image tokens: are the features local, or spread over the picture?

readout(model, processor)["tower"]["own half"]      # accuracy, 0-1; chance is 1/8
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from training.batches import Batch, strip_batch
from training.llava import FRAME, tower_features

PANELS = 6
TARGETS = ("own half", "other half", "next panel")  # of each, colour and shape
DECAY = 1e-3  # weight of the squared norm of the classifier's weights


def targets(strips: Batch) -> Int[Tensor, "token target"]:
    """What each token is asked for: colour and shape of its own half of its panel, of the other half, and of the same
    half of the next panel (the last panel's is the first)."""
    facts = strips.facts[..., :4].view(len(strips.facts), 2, -1, 4)  # row of tokens 0 covers the upper half
    own = torch.cat([facts[:, :1, :, :2], facts[:, 1:, :, 2:]], 1)
    other = torch.cat([facts[:, :1, :, 2:], facts[:, 1:, :, :2]], 1)
    following = own.roll(-(own.shape[2] // PANELS), 2)
    return torch.cat([own, other, following], -1).flatten(0, 2)


def fit(x: Float[Tensor, "token d"], y: Int[Tensor, "token target"]) -> nn.Linear:
    """Multinomial logistic regression of all targets, by L-BFGS."""
    linear = nn.Linear(x.shape[1], 8 * y.shape[1])
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(x).view(-1, 8), y.flatten()) + DECAY * linear.weight.square().sum() / y.shape[1]
        loss.backward()
        return loss

    optimizer.step(closure)
    return linear


def accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracy on the test tokens for each of `TARGETS`, mean of colour and shape. Each pair: features, targets."""
    mean, spread = train[0].mean(0), train[0].std(0) + 1e-6
    with torch.enable_grad():
        linear = fit((train[0] - mean) / spread, train[1])
    named = linear((test[0] - mean) / spread).view(-1, train[1].shape[1], 8).argmax(-1)
    right = (named == test[1]).float().mean(0).view(len(TARGETS), 2).mean(1)
    return dict(zip(TARGETS, right.tolist(), strict=True))


def accuracy_by_row(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """The same with a classifier for the upper tokens and one for the lower ones; mean of both.

    A tower may code "upper" and "lower" rather than "own" and "other"; then which part of a token's features is about
    its own half depends on its row, and one linear classifier for both rows does not find it.
    Each pair: features [strip, token, d], targets [strip, token, target].
    """
    rows = []
    for lower in (False, True):
        parts = [tuple(x.unflatten(1, (2, -1))[:, int(lower)].flatten(0, 1) for x in part) for part in (train, test)]
        rows.append(accuracy(*parts))
    return {name: sum(row[name] for row in rows) / len(rows) for name in TARGETS}


@torch.no_grad()
def readout(model: nn.Module, processor: Any, *, rows: int = 240, seed: int = 2_000_000) -> dict[str, Any]:
    """Accuracy on the tower's output and on the projector's, fitted on `rows` strips and measured on a quarter of that.

    model: a LlavaForConditionalGeneration. "tower, rows apart" and "projector, rows apart" are of `accuracy_by_row`.
    """
    features: dict[str, list[tuple[Tensor, Tensor]]] = {"tower": [], "projector": []}
    for part, n in enumerate((rows, max(1, rows // 4))):
        strips = strip_batch(np.random.default_rng([seed, part]), processor.tokenizer, n, PANELS, ("ask",), FRAME)
        tower = tower_features(model, strips.pixels)
        projected = model.model.multi_modal_projector(tower)
        for name, tokens in zip(features, (tower, projected), strict=True):
            features[name].append((tokens.float(), targets(strips).view(*tokens.shape[:2], -1)))
    together = {
        name: accuracy(*[tuple(x.flatten(0, 1) for x in part) for part in parts]) for name, parts in features.items()
    }
    return together | {f"{name}, rows apart": accuracy_by_row(*parts) for name, parts in features.items()}
