"""Attribution patching: what patching would do, estimated for all heads at once from a gradient.

    estimate = gl.attribute(model, clean, corrupted, what="z", positions=["image", "last"], metric=metric)
    patched = gl.patch(model, clean, corrupted, what="z", where=estimate.top(20, positions="last"), ...)
    agreement(estimate, patched)                        # Spearman's rank correlation of the two, over their cells
    gl.attribute_edges(model, clean, corrupted, None, gaze_heads, into="q", positions="last", metric=metric)

The metric of the corrupted run, plus its gradient there times how far the clean activation is away: exact where the
metric depends on the activation in a straight line, an estimate elsewhere. Nanda 2023, "Attribution Patching";
Syed et al. 2023, "Attribution Patching Outperforms Automated Circuit Discovery" (edges).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
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
from gaze_lens.patching.cells import Cell, cells_of
from gaze_lens.patching.donor import flat
from gaze_lens.patching.gradients import Keep, Key, activations, attached, gradients
from gaze_lens.patching.measuring import Measure
from gaze_lens.patching.paths import LOGITS, Paths, Reader, paths_between
from gaze_lens.patching.result import PatchResult, result_of
from gaze_lens.patching.sites import Site, site_of
from gaze_lens.patching.sweep import check_inputs, encoded


def attribute(
    model: Any,
    clean: Any,
    corrupted: Any,
    *,
    what: str = "z",
    where: Any = None,
    positions: Any = "every",
    metric: Any,
) -> PatchResult:
    """The estimate of `gl.patch` with the same arguments, for all cells from two forwards and one backward (for each
    metric): gradient times difference, summed over a group's positions and a head's dimensions.

    The result's values are the corrupted metric plus the estimated effect, and its `what` says that it is an estimate.
    metric: differentiable, on the logits of the whole batch. The parameters' gradients are left as they were.
    Raises InputError for a metric without a gradient; otherwise as `gl.patch`.
    """
    measure, ours, theirs = _prepared(model, clean, corrupted, metric)
    # What a head adds to the stream is linear in z: the two have one attribution.
    site = site_of("z" if what == "result" else what)
    where_to = groups(corrupted, "image" if site.point is None and positions == "every" else positions)
    cells = cells_of(model, site, where, where_to)
    attach = partial(attached, model, site, list(dict.fromkeys(cell.layer for cell in cells)))
    logits, kept = activations(model, ours, attach)
    slopes = gradients(model, theirs, attach, measure, "the corrupted run")
    away = {key: kept[key] - tensor for key, tensor in slopes.activations.items()}
    effects = torch.stack(
        [
            _by_cell(model, site, cells, where_to, {key: away[key] * tensor for key, tensor in slope.items()})
            for slope in slopes.gradients
        ]
    )
    index = pd.DataFrame(cells).dropna(axis="columns", how="all")
    index = index.rename(columns={"head": "kv_head"}) if site.kv else index
    return _estimate(model, what, index, effects, measure, measure(logits, "the clean run"), slopes.measured)


def attribute_edges(
    model: Any,
    clean: Any,
    corrupted: Any,
    senders: HeadSet | Sequence[Any] | None,
    receivers: HeadSet | Sequence[Any] | str,
    *,
    into: str | Sequence[str] = "q",
    positions: Any = "every",
    metric: Any,
) -> PatchResult:
    """The estimate of `gl.path_patch` for every pair of a sender and a receiver, from three forwards and one backward:
    what the sender adds to the stream, times the gradient at the receiver's own input.

    Arguments and errors as for `path_patch`; the metric must be differentiable. The result's layer and head are the
    sender's, "receiver" and "into" say where the edge ends: KV heads, for keys and values. Pairs without a path are
    left out. Summed over receivers, edges estimate the path into all of them.
    """
    measure, ours, theirs = _prepared(model, clean, corrupted, metric)
    where = groups(corrupted, positions)
    senders, paths = paths_between(model, ours, theirs, senders, receivers, into)

    slopes = gradients(model, theirs, partial(_attached_to, model, paths.readers), measure, "the corrupted run")
    ends = [_ends(paths, slope) for slope in slopes.gradients]
    found = list(_edges(paths, senders, ends, where))
    with torch.no_grad():
        restored = measure(model(ours), "the clean run")
    effects = torch.stack([effect for _, effect in found], dim=1)
    index = pd.DataFrame([row for row, _ in found])
    return _estimate(model, str(paths), index, effects, measure, restored, slopes.measured)


def agreement(estimate: PatchResult, patched: PatchResult) -> float:
    """Spearman's rank correlation between estimated and true effects (means over rows), over the cells of both.

    Edges are summed over the columns that the patched result does not have: over receivers, for `gl.path_patch`.
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
    return float(both.rank().corr().iloc[0, 1])


def _prepared(model: Any, clean: Any, corrupted: Any, metric: Any) -> tuple[Measure, VLMInputs, VLMInputs]:
    """The checked metric, and both inputs, encoded."""
    measure = Measure.of(metric, check_inputs(model, clean, corrupted, batch_size=1))
    check_aligned(clean, corrupted)
    ours = encoded(model, clean)
    return measure, ours, encoded(model, corrupted, reuse=ours if clean.features is None else None)


def _estimate(
    model: Any,
    what: str,
    index: pd.DataFrame,
    effects: Float[Tensor, "metric cell row"],
    measure: Measure,
    clean: Float[Tensor, "metric row"],
    baseline: Float[Tensor, "metric row"],
) -> PatchResult:
    values = (baseline[:, None] + effects.float().cpu()).unbind(1)
    return result_of(model, f"{what} (estimated)", index, values, measure, clean=clean, baseline=baseline)


def _by_cell(
    model: Any, site: Site, cells: Sequence[Cell], where: Sequence[Group], products: Mapping[Key, Tensor]
) -> Float[Tensor, "cell row"]:
    """Each cell's sum over its positions, and over its head's part of the activation."""
    by_name, sums = {one.name: one for one in where}, {}
    for cell in cells:
        if cell._replace(head=None) in sums:
            continue
        n_heads = site.heads_in(model, cell.layer) if site.heads else 1
        parts = (product.movedim(site.position, 1) for (layer, _), product in products.items() if layer == cell.layer)
        if site.heads:  # a query's gate, where it has one, is not patched either
            parts = (part.unflatten(2, (n_heads, -1))[:, :, :, 0] for part in parts)
        by_position = (part.flatten(2).unflatten(-1, (n_heads, -1)).sum(-1) for part in parts)
        sums[cell._replace(head=None)] = sum(_summed(by_name[cell.positions], part) for part in by_position)
    return torch.stack([sums[cell._replace(head=None)][:, cell.head or 0] for cell in cells])


def _summed(where: Group, by_position: Float[Tensor, " row pos *head"]) -> Float[Tensor, " row *head"]:
    """Each row's sum over its positions in a group."""
    rows, positions = (index.to(by_position.device) for index in flat(where))
    total = by_position.new_zeros(by_position[:, 0].shape)
    return total.index_add(0, rows, by_position[rows, positions])


class End(NamedTuple):
    """Where an edge ends: one head (a KV head for keys and values) of a reader, or the logits."""

    layer: int
    into: str
    receiver: str


@contextmanager
def _attached_to(model: Any, readers: Sequence[Reader], keep: Keep) -> Iterator[None]:
    with model.hooks([(reader.hook_name, partial(keep, reader)) for reader in readers]):
        yield


def _ends(paths: Paths, slopes: Mapping[Key, Tensor]) -> dict[End, Float[Tensor, "row pos d_model"]]:
    """The metric's gradient at every receiver's own input: the residual stream, as this receiver reads it."""
    found = {}
    for (reader, _), slope in slopes.items():
        if not reader.letter:
            found[End(reader.layer, "", LOGITS)] = slope
            continue
        with torch.enable_grad():
            stream = paths.streams[reader.layer].detach().requires_grad_()
            values = reader.read(paths.model, stream).unbind(2)
        for value, outer, head in zip(values, reader.of(slope).unbind(2), reader.heads, strict=True):
            receiver = f"L{reader.layer}{'H' if reader.letter == 'q' else 'KV'}{head}"
            (pulled,) = torch.autograd.grad(value, stream, outer, retain_graph=True)
            found[End(reader.layer, reader.letter, receiver)] = pulled
    return found


@torch.no_grad()
def _edges(
    paths: Paths, senders: HeadSet, ends: Sequence[Mapping[End, Tensor]], where: Sequence[Group]
) -> Iterator[tuple[dict[str, Any], Float[Tensor, "metric row"]]]:
    """Every sender with every end behind it, at every group of positions: its names, and its effect by each metric."""
    everywhere = Group("all columns", (tuple(range(where[0].layout.length)),) * where[0].layout.n_rows, where[0].layout)
    for sender in senders:
        added = paths.added(sender.layer, [sender.head], everywhere)
        for end in (end for end in ends[0] if end.layer > sender.layer):
            by_position = [(added * of_metric[end]).sum(-1) for of_metric in ends]
            for one in where:
                row = {**sender._asdict(), "receiver": end.receiver, "into": end.into, "positions": one.name}
                yield row, torch.stack([_summed(one, part) for part in by_position])
