"""Attribution patching: an estimate of what patching would do, for all heads at once, from a gradient.

    estimate = gl.attribute(model, clean, corrupted, what="z", positions=["image", "last"], metric=metric)
    patched = gl.patch(model, clean, corrupted, what="z", where=estimate.top(20, positions="last"), ...)
    agreement(estimate, patched)                        # Spearman's rank correlation over the cells of both
    gl.attribute_edges(model, clean, corrupted, None, gaze_heads, into="q", positions="last", metric=metric)

The estimate is the metric of the corrupted run plus its gradient there times the difference between the clean and the
corrupted activation. It is exact where the metric is linear in the activation. Nanda 2023, "Attribution Patching"; Syed
et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery" (edges).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.alignment import check_aligned
from gaze_lens.inputs.position_groups import Group, groups
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.patching.cells import Cell, cells_of
from gaze_lens.patching.donor import indices_of
from gaze_lens.patching.gradients import Key, Store, activations, attached, gradients_of
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.patching.paths import LOGITS, Paths, Reader, paths_between
from gaze_lens.patching.result import PatchResult, result_of
from gaze_lens.patching.sites import Site, site_of
from gaze_lens.patching.sweep import check_inputs, encoded_pair


def attribute(
    model: Model,
    clean: Any,
    corrupted: Any,
    *,
    what: str = "z",
    where: Any = None,
    positions: Any = "every",
    metric: Any,
) -> PatchResult:
    """Estimate what `gl.patch` with the same arguments would find, for all cells at once.

    It takes two forwards, and one backward for each metric. The effect of a cell is the gradient times the difference
    of the activations, summed over the positions of the group and the dimensions of the head.
    The result's values are the corrupted metric plus the estimated effect, and its `what` says that it is an estimate.
    metric: differentiable, on the logits of the whole batch. The gradients of the parameters stay as they were.
    Raises InputError for a metric without a gradient; otherwise as `gl.patch`.
    """
    metrics, clean, corrupted = _prepared(model, clean, corrupted, metric)
    # "result" is linear in z, so that both have the same attribution.
    site = site_of("z" if what == "result" else what)
    where_to = groups(corrupted, "image" if site.point is None and positions == "every" else positions)
    cells = cells_of(model, site, where, where_to)
    attach = partial(attached, model, site, list(dict.fromkeys(cell.layer for cell in cells)))
    logits, clean_activations = activations(model, clean, attach)
    run = gradients_of(model, corrupted, attach, metrics, "the corrupted run")
    differences = {key: clean_activations[key] - tensor for key, tensor in run.activations.items()}
    products = [{key: differences[key] * tensor for key, tensor in gradient.items()} for gradient in run.gradients]
    effects = torch.stack([_by_cell(model, site, cells, where_to, of_metric) for of_metric in products])
    index = pd.DataFrame(cells).dropna(axis="columns", how="all")
    index = index.rename(columns={"head": "kv_head"}) if site.kv else index
    return _estimate(model, what, index, effects, metrics, metrics(logits, "the clean run"), run.values)


def attribute_edges(
    model: Model,
    clean: Any,
    corrupted: Any,
    senders: HeadSet | Sequence[Any] | None,
    receivers: HeadSet | Sequence[Any] | str,
    *,
    into: str | Sequence[str] = "q",
    positions: Any = "every",
    metric: Any,
) -> PatchResult:
    """Estimate what `gl.path_patch` would find for every pair of a sender and a receiver.

    It takes three forwards and one backward. The effect of an edge is what the sender adds to the residual stream times
    the gradient at the receiver's own input. Summed over receivers, edges estimate the path into all of them.
    Arguments and errors as for `path_patch`; the metric must be differentiable. In the result, layer and head are the
    sender's; "receiver" and "into" say where the edge ends, for keys and values at a KV head. Pairs without a path are
    left out.
    """
    metrics, clean, corrupted = _prepared(model, clean, corrupted, metric)
    where = groups(corrupted, positions)
    senders, paths = paths_between(model, clean, corrupted, senders, receivers, into)

    run = gradients_of(model, corrupted, partial(_attached_to, model, paths.readers), metrics, "the corrupted run")
    ends = [_ends(paths, gradient) for gradient in run.gradients]
    edges = list(_edges(paths, senders, ends, where))
    with torch.no_grad():
        clean_values = metrics(model(clean), "the clean run")
    effects = torch.stack([effect for _, effect in edges], dim=1)
    index = pd.DataFrame([row for row, _ in edges])
    return _estimate(model, str(paths), index, effects, metrics, clean_values, run.values)


def agreement(estimate: PatchResult, patched: PatchResult) -> float:
    """Spearman's rank correlation between estimated and true effects, over the cells that both results have.

    The effect of a cell is its mean over rows. Edges are summed over the columns that the patched result does not have:
    over receivers, for `gl.path_patch`.
    Raises InputError where there are fewer than three common cells, or several metrics.
    """
    if estimate.has_metric_axis or patched.has_metric_axis:
        raise InputError("There are several metrics; compare one: agreement(estimate['name'], patched['name']).")
    columns = [name for name in estimate.index_df if name in patched.index_df]
    effects = [
        result.index_df[columns].assign(effect=result.effect().mean(-1).tolist()).groupby(columns)["effect"].sum()
        for result in (estimate, patched)
    ]
    both = pd.concat(effects, axis=1, join="inner")
    if len(both) < 3:
        raise InputError(
            f"The two results have {len(both)} cells in common; expected at least three. Patch with the where= and "
            "positions= of the estimate, or some of its heads."
        )
    return float(both.rank().corr().to_numpy()[0, 1])


def _prepared(model: Model, clean: Any, corrupted: Any, metric: Any) -> tuple[BatchMetrics, VLMInputs, VLMInputs]:
    """The checked metric, and both inputs, encoded."""
    metrics = BatchMetrics.of(metric, check_inputs(model, clean, corrupted, batch_size=1))
    check_aligned(clean, corrupted)
    return metrics, *encoded_pair(model, clean, corrupted)


def _estimate(
    model: Model,
    what: str,
    index: pd.DataFrame,
    effects: Float[Tensor, "metric cell row"],
    metrics: BatchMetrics,
    clean: Float[Tensor, "metric row"],
    baseline: Float[Tensor, "metric row"],
) -> PatchResult:
    values = (baseline[:, None] + effects.float().cpu()).unbind(1)
    return result_of(model, f"{what} (estimated)", index, values, metrics, clean=clean, baseline=baseline)


def _by_cell(
    model: Model, site: Site, cells: Sequence[Cell], where: Sequence[Group], products: Mapping[Key, Tensor]
) -> Float[Tensor, "cell row"]:
    """The sum over the positions of each cell and over its head's part of the activation."""
    by_name = {group.name: group for group in where}
    sums: dict[Cell, Tensor] = {}
    for cell in cells:
        if cell._replace(head=None) in sums:
            continue
        n_heads = site.heads_in(model, cell.layer) if site.heads else 1
        parts = (product.movedim(site.position, 1) for (layer, _), product in products.items() if layer == cell.layer)
        if site.heads:  # without the gate of a query, where it has one: patching leaves it alone, too
            parts = (part.unflatten(2, (n_heads, -1))[:, :, :, 0] for part in parts)
        by_position = (part.flatten(2).unflatten(-1, (n_heads, -1)).sum(-1) for part in parts)
        summed = (_summed(by_name[cell.positions], part) for part in by_position)
        sums[cell._replace(head=None)] = reduce(torch.add, summed)
    return torch.stack([sums[cell._replace(head=None)][:, cell.head or 0] for cell in cells])


def _summed(where: Group, by_position: Float[Tensor, " row pos *head"]) -> Float[Tensor, " row *head"]:
    """The sum of each row over its positions in a group."""
    rows, positions = (index.to(by_position.device) for index in indices_of(where))
    total = by_position.new_zeros(by_position[:, 0].shape)
    return total.index_add(0, rows, by_position[rows, positions])


class End(NamedTuple):
    """Where an edge ends: one head (a KV head for keys and values) of a reader, or the logits."""

    layer: int
    into: str
    receiver: str


@contextmanager
def _attached_to(model: Model, readers: Sequence[Reader], store: Store) -> Iterator[None]:
    with model.hooks([(reader.hook_name, partial(store, reader)) for reader in readers]):
        yield


def _ends(paths: Paths, gradients: Mapping[Key, Tensor]) -> dict[End, Float[Tensor, "row pos d_model"]]:
    """The gradient of the metric at the input of each receiver: the residual stream that this receiver alone reads."""
    ends = {}
    for (reader, _), gradient in gradients.items():
        if not reader.letter:
            ends[End(reader.layer, "", LOGITS)] = gradient
            continue
        with torch.enable_grad():
            stream = paths.streams[reader.layer].detach().requires_grad_()
            values = reader.read(paths.model, stream).unbind(2)
        for value, of_value, head in zip(values, reader.of(gradient).unbind(2), reader.heads, strict=True):
            receiver = f"L{reader.layer}{'H' if reader.letter == 'q' else 'KV'}{head}"
            (of_stream,) = torch.autograd.grad(value, stream, of_value, retain_graph=True)
            ends[End(reader.layer, reader.letter, receiver)] = of_stream
    return ends


@torch.no_grad()
def _edges(
    paths: Paths, senders: HeadSet, ends: Sequence[Mapping[End, Tensor]], where: Sequence[Group]
) -> Iterator[tuple[dict[str, Any], Float[Tensor, "metric row"]]]:
    """Every sender with every end after it, at every group of positions: its row of the index, and its effect."""
    everywhere = Group("all columns", (tuple(range(where[0].layout.length)),) * where[0].layout.n_rows, where[0].layout)
    for sender in senders:
        added = paths.added(sender.layer, [sender.head], everywhere)
        for end in (end for end in ends[0] if end.layer > sender.layer):
            by_position = [(added * of_metric[end]).sum(-1) for of_metric in ends]
            for group in where:
                row = {**sender._asdict(), "receiver": end.receiver, "into": end.into, "positions": group.name}
                yield row, torch.stack([_summed(group, part) for part in by_position])
