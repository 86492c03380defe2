"""Which reading orders does a model follow: asked for in words, and as a direction in a band of layers?

orders = sample_orders(6, limit=40, seed=0)                                  # the reverse is always among them
table = order_rates(model, discovery, strips, orders, band=range(20, 29))
table[["order", "in_words", "as_direction"]]

Gandikota and Bau 2026, B.2: asked in words, all 720 orders of six panels are followed; as a direction only "reverse".
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.comics.labels import letter, letter_in_order
from gaze_lens.errors import InputError
from gaze_lens.heads.rank_correlation import rank_correlation
from gaze_lens.inputs.position_groups import group
from gaze_lens.interventions.direction import Direction
from gaze_lens.model_protocol import Model
from gaze_lens.patching.band_sweep import on_copy
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.patching.sweep import Sweep
from gaze_lens.patching.two_orders import Ask, OrderPrompts, mean_states, order_prompts, tokens_of, top_tokens
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.progress import Bar
from gaze_lens.whole_numbers import is_count

if TYPE_CHECKING:
    from pandas import DataFrame

Order = tuple[int, ...]
AskInOrder = Callable[[int, Sequence[int]], str]
Answers = Int[np.ndarray, "order strip place"]  # token ids


def sample_orders(n_panels: int, *, limit: int | None = None, seed: int = 0) -> list[Order]:
    """`sample_orders(6, limit=40)`: reading orders of 0-based panels other than the natural one, the reverse first.

    limit: how many; by default all, 719 for six panels. The others are a random sample, seeded, without repeats.
    """
    n_orders = factorial(n_panels) - 1 if is_count(n_panels, least=2) else 0
    if n_orders < 1 or not (limit is None or is_count(limit)):
        raise InputError(
            f"n_panels={n_panels!r}, limit={limit!r} was given; give 2 panels or more, and 1 order or more."
        )
    natural = tuple(range(n_panels))
    reverse = natural[::-1]
    if limit is None or limit >= n_orders:
        return [reverse, *(order for order in permutations(natural) if order not in (natural, reverse))]
    rng, drawn = np.random.default_rng(seed), {reverse: None}
    while len(drawn) < limit:
        order = tuple(rng.permutation(n_panels).tolist())
        if order != natural:
            drawn[order] = None
    return list(drawn)


@torch.no_grad()
def order_rates(
    model: Model,
    discovery: Sequence[Picture],
    strips: Sequence[Picture],
    orders: Sequence[Sequence[int]],
    *,
    band: range,
    natural: Ask = letter,
    in_order: AskInOrder = letter_in_order,
    scale: float = 1.0,
    batch_size: int = 16,
    progress: bool = True,
) -> "DataFrame":
    """`order_rates(model, discovery, strips, orders, band=range(20, 29))`: how far the model follows each order.

    Every panel is asked for in turn. The answer expected at place k is the caption of the order's k-th panel.
    discovery: strips whose prompts the directions are made of: those of the order less those of the natural order, at
        the last prompt token, the mean over strips and places. strips: others, on which both are measured.
    orders: 0-based panels, each once. band: layers in which the direction is added, at the last prompt token.
    natural, in_order: the questions, by place, and by place and order.
    Returns a row for each order. Columns: order; moved, the places whose panel is not their own; in_words and
    as_direction, the share of answers that are as expected, asked for the order in words, or in the natural order
    under the direction; in_words_moved and as_direction_moved, the same over the places that moved; in_words_rho and
    as_direction_rho, Spearman's rho of the panels answered and those expected (NaN where fewer than two answers are of
    any panel); n, answers.
    Cost in forwards: (strips + discovery) x panels x orders, and as many short ones from the band on.
    Raises InputError for an empty band, no orders, and as `order_prompts`.
    """
    listed: list[Order] = [tuple(order) for order in orders]
    if not len(band) or not listed:
        raise InputError(f"band={band!r} and {len(listed)} orders were given; give at least one layer, and one order.")
    options: dict[str, Any] = {"places": None, "batch_size": batch_size}
    source = order_prompts(discovery, natural, natural, **options)
    plain = order_prompts(strips, natural, natural, **options)
    base = mean_states(model, source.batches(model, "natural"), band)
    words, directions = [], []
    for order in Bar(listed, "asking for orders", disable=not progress, unit="order"):
        ask = _asking(in_order, order)
        found, measured = (order_prompts(some, natural, ask, order=order, **options) for some in (discovery, strips))
        vectors = mean_states(model, found.batches(model, "other"), band) - base
        directions.append(Direction(vectors, tuple(band), model.fingerprint))
        words.append([token for inputs in measured.batches(model, "other") for token in top_tokens(model, inputs)])
    steered = _steered(model, plain, directions, scale, progress=progress)
    labels = np.array(tokens_of(model, [one.before for one in plain.questions])).reshape(len(strips), -1)
    return _table(listed, labels, np.array(words).reshape(len(listed), *labels.shape), steered)


def _asking(in_order: AskInOrder, order: Order) -> Ask:
    """The question by place, for one order."""
    return lambda place: in_order(place, order)


class _Cell(NamedTuple):
    order: int


@dataclass(frozen=True, eq=False)
class _OrderEdits:
    """The `Source` of a sweep over directions, all in one band."""

    directions: Sequence[Direction]
    scale: float
    where: Any

    def capture(self, _model: Any, _cells: Sequence[_Cell]) -> AbstractContextManager:
        return nullcontext()

    def patch(self, model: Model, cells: Sequence[_Cell]) -> AbstractContextManager:
        return model.hooks(
            [
                (name, partial(on_copy, add=add, copy=copy, n_copies=len(cells)))
                for copy, cell in enumerate(cells)
                for name, add in self.directions[cell.order].hooks(scale=self.scale, positions=self.where)
            ]
        )

    def first_layer(self, _model: Any, _cell: _Cell) -> int:
        return min(self.directions[0].layers)


def _steered(
    model: Model, prompts: OrderPrompts, directions: Sequence[Direction], scale: float, *, progress: bool
) -> Answers:
    """The answers in the natural order under each direction."""
    cells, parts = [_Cell(index) for index in range(len(directions))], []
    for inputs in Bar(prompts.batches(model, "natural"), "adding directions", disable=not progress, unit="batch"):
        edits = _OrderEdits(directions, scale, group(inputs, "last"))
        metrics = BatchMetrics.of(_top, inputs.n_rows)
        sweep = Sweep.prepare(model, inputs, inputs, edits, cells, metrics)
        values = sweep.values(cells, sweep.log(None, {}, _Cell), prompts.batch_size, title=None)
        parts.append(torch.stack(values)[:, 0])  # [order, row]
    return torch.cat(parts, 1).long().numpy().reshape(len(directions), len(prompts.strips), -1)


def _top(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
    """Each row's most probable next token; float32 holds the id of any vocabulary exactly."""
    return logits[:, -1].argmax(-1).float()


def _table(
    orders: Sequence[Order], labels: Int[np.ndarray, "strip place"], words: Answers, steered: Answers
) -> "DataFrame":
    """See `order_rates`. labels: the token of each panel's caption."""
    import pandas

    rows = []
    for order, *answers in zip(orders, words, steered, strict=True):
        moved = np.array(order) != np.arange(len(order))
        row: dict[str, Any] = {"order": order, "moved": int(moved.sum())}
        for name, given in zip(("in_words", "as_direction"), answers, strict=True):
            right = given == labels[:, list(order)]
            row |= {
                name: right.mean(),
                f"{name}_moved": right[:, moved].mean(),
                f"{name}_rho": _rho(given, labels, order),
            }
        rows.append(row | {"n": labels.size})
    return pandas.DataFrame(rows)


def _rho(given: Int[np.ndarray, "strip place"], labels: Int[np.ndarray, "strip place"], order: Order) -> float:
    """Spearman's rho of the panels that answers name and those expected, over answers that name one panel."""
    names = given[..., None] == labels[:, None]  # [strip, place, panel]
    one = names.sum(-1) == 1
    expected = np.broadcast_to(np.array(order), given.shape)
    return float(rank_correlation(names.argmax(-1)[one], expected[one])) if one.sum() > 1 else float("nan")
