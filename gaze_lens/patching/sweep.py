"""Activation patching by head, layer and region: `gl.patch`.

result = gl.patch(model, clean, corrupted, what="z", where=heads, positions=["panel 4", "last"], metric=metric)
print(result.table())

The corrupted inputs are run with one activation replaced by that of the clean run, once for every layer or head and
every group of positions. Wang et al. 2022, "Interpretability in the Wild"; Zhang and Nanda 2024, "Towards Best
Practices of Activation Patching".
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.alignment import aligned_groups, check_aligned, check_model
from gaze_lens.inputs.position_groups import Group
from gaze_lens.inputs.vlm_inputs import VLMInputs, pixel_keys
from gaze_lens.model_protocol import Model
from gaze_lens.patching.cell_log import CellLog
from gaze_lens.patching.cells import Cell, cells_of
from gaze_lens.patching.donor import Donor
from gaze_lens.patching.from_layer import cache_residuals, cannot_run_from_layer, run_from_layer
from gaze_lens.patching.metrics import BatchMetrics
from gaze_lens.patching.result import PatchResult, result_of
from gaze_lens.patching.sites import Site, site_of
from gaze_lens.runs.digests import digest
from gaze_lens.runs.progress import Bar
from gaze_lens.whole_numbers import is_count

Pairs = Sequence[tuple[Group, Group]]


@runtime_checkable
class Source(Protocol):
    """Where the edits of a sweep come from, such as a `Donor`, whose cells are of the type `Cell`."""

    def capture(self, model: Model, cells: Sequence[Any]) -> Any:
        """A context in which the clean inputs are run once."""

    def patch(self, model: Model, cells: Sequence[Any]) -> Any:
        """A context in which the corrupted inputs are run and edited; the run has a copy of every row for each cell."""

    def first_layer(self, model: Model, cell: Any) -> int | None:
        """The first layer in which the edit of a cell changes anything; None for an edit before all layers."""


@torch.no_grad()
def patch(
    model: Model,
    clean: Any,
    corrupted: Any,
    *,
    what: str,
    where: Any = None,
    positions: Any = "every",
    metric: Any,
    align: bool = False,
    batch_size: int = 16,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> PatchResult:
    """Patch activations of the clean run into a run of the corrupted inputs, one cell at a time.

    A cell is a layer or a head, at a group of positions.
    clean, corrupted: what `model.prepare` or `model.encode` returns, or `gl.counterfactual` makes.
    what: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"; of heads "z", "result", "q", "k", "v" (before
        norm and rotary embedding), "pattern", "scores" (positions are queries); or "image", the image features where
        they are injected into the language model, DeepStack's included.
    where: a HeadSet (or a list of heads), or a list of layers; by default all. Every head, or layer, is patched on its
        own. Keys and values are patched by KV head: those that the given heads read.
    positions: what `groups` takes: "every" (with what="image", every image token), "image", "text", "last", "answer",
        a region's name, a Region, `inputs.span("fourth")`, a list of these, or a mapping of names to them.
    metric: a function of logits `[batch, pos, d_vocab]` that returns `[batch]`, called for one cell at a time; or a
        mapping of names to such functions.
    align: accept inputs of different layouts; a group must then have equally many positions in every row of both, and
        may be given as a pair (in clean, in corrupted). Otherwise the layouts must be equal.
    batch_size: rows of one forward, which runs several cells together. All their logits are in memory.
    resume: a file, "sweep.jsonl", that gets a line for each cell; the same command goes on where it stopped.
    Images are encoded once, and layers below the patched one are not run again where that is exact. Hooks that are
    attached around the call (`with model.hooks(steering):`) act in all its runs, and count as one run.
    Raises InputError, RegionError, HeadError and HookError, which say what does not fit.
    """
    site, metrics = site_of(what), BatchMetrics.of(metric, check_inputs(model, clean, corrupted, batch_size))
    pairs = _pairs(clean, corrupted, site, positions, align=align)
    cells = cells_of(model, site, where, [group for _, group in pairs])
    with _per_head_results(model, site):
        sweep = Sweep.prepare(model, clean, corrupted, Donor(site, pairs), cells, metrics)
        groups = {in_clean.name: [in_clean.rows, in_corrupted.rows] for in_clean, in_corrupted in pairs}
        log = sweep.log(resume, {"what": what, **digests(clean, corrupted), "positions": groups})
        values = sweep.values(cells, log, batch_size, title=f"patching {what}" if progress else None)
    return _result(site, cells, values, sweep)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What every cell of a sweep needs.

    corrupted: with encoded images. streams: layer -> the residual stream before it in the corrupted run, for the layers
        that patched runs begin at; empty where all runs are full runs.
    clean, baseline: the metrics of the unpatched clean and corrupted runs.
    """

    model: Model
    corrupted: VLMInputs
    source: Source
    metrics: BatchMetrics
    streams: Mapping[int, Float[Tensor, "batch pos d_model"]]
    clean: Float[Tensor, "metric batch"]
    baseline: Float[Tensor, "metric batch"]

    @classmethod
    def prepare(
        cls,
        model: Model,
        clean: VLMInputs,
        corrupted: VLMInputs,
        source: Source,
        cells: Sequence[Any],
        metrics: BatchMetrics,
    ) -> "Sweep":
        """Encode the images, run both inputs once, and store what the cells need."""
        clean, corrupted = encoded_pair(model, clean, corrupted)
        with source.capture(model, cells):
            clean_values = metrics(model(clean), "the clean run")
        skips = not cannot_run_from_layer(model)
        layers = {source.first_layer(model, cell) or 0 for cell in cells} - {0} if skips else set()
        with cache_residuals(model, layers) as streams:
            logits = model(corrupted)
        if layers and not _is_exact(model, corrupted, max(layers), streams, logits):
            streams = {}
        baseline = metrics(logits, "the corrupted run")
        return cls(model, corrupted, source, metrics, streams, clean_values, baseline)

    def log(self, path: str | os.PathLike[str] | None, run: Mapping[str, Any], kind: type = Cell) -> CellLog:
        """The file of finished cells; with a path of None nothing is written.

        run: what distinguishes the sweep from others of the same model and metrics. kind: the type of the cells. Other
            cells of the same sweep may be added to a file.
        """
        model = [self.model.cfg.model_name, self.model.fingerprint]
        run = {"model": model, **run, "metrics": list(self.metrics.functions)}
        return CellLog.open(path, run, torch.cat([self.clean, self.baseline]), kind)

    def values(
        self, cells: Sequence[Any], log: CellLog, batch_size: int, *, title: str | None
    ) -> list[Float[Tensor, "metric batch"]]:
        """The values of all cells: those in the log, and the others, which are written into it as they are measured.

        batch_size: rows of one forward. title: of the progress bar; None for no bar.
        """
        values, missing = {**log.done}, [cell for cell in cells if cell not in log.done]
        n_done = len(cells) - len(missing)
        with Bar(total=len(cells), initial=n_done, disable=title is None, desc=title, unit="cell") as bar:
            for batch in self._batches(missing, max(1, batch_size // self.corrupted.n_rows)):
                measured = self.run(batch)
                log.write(measured)
                values |= measured
                bar.update(len(batch))
        return [values[cell] for cell in cells]

    def _batches(self, cells: Sequence[Any], size: int) -> Iterator[list[Any]]:
        """Batches of at most `size` cells; those of a batch have the same first layer."""
        for _, group in groupby(cells, key=partial(self.source.first_layer, self.model)):
            of_layer = list(group)
            yield from (of_layer[start : start + size] for start in range(0, len(of_layer), size))

    def run(self, cells: Sequence[Any]) -> dict[Any, Float[Tensor, "metric batch"]]:
        """Patch cells with the same first layer in one forward, which computes this layer and those after it."""
        layer = self.source.first_layer(self.model, cells[0])
        stream = None if layer is None else self.streams.get(layer)
        with ExitStack() as stack:
            if layer is not None and stream is not None:
                stack.enter_context(run_from_layer(self.model, layer, stream.repeat_interleave(len(cells), dim=0)))
            stack.enter_context(self.source.patch(self.model, cells))
            logits = self.model(self.corrupted, copies=len(cells))
        by_cell = logits.unflatten(0, (-1, len(cells))).unbind(1)  # the copies of a row lie side by side
        return {cell: self.metrics(of_cell, cell) for cell, of_cell in zip(cells, by_cell, strict=True)}

    def result(self, what: str, index: pd.DataFrame, values: Sequence[Float[Tensor, "metric batch"]]) -> PatchResult:
        """The result, from the values of all cells and their names."""
        return result_of(self.model, what, index, values, self.metrics, clean=self.clean, baseline=self.baseline)


def _is_exact(
    model: Model,
    inputs: VLMInputs,
    layer: int,
    streams: Mapping[int, Tensor],
    logits: Float[Tensor, "batch pos d_vocab"],
) -> bool:
    """Whether a run from this layer on has exactly the logits of the full run."""
    with run_from_layer(model, layer, streams[layer]):
        return torch.equal(model(inputs), logits)


def check_inputs(model: Model, clean: Any, corrupted: Any, batch_size: int) -> int:
    """The number of rows. Raises InputError for anything but inputs of this model, and for a batch size below 1."""
    for name, inputs in (("clean", clean), ("corrupted", corrupted)):
        if not isinstance(inputs, VLMInputs):
            raise InputError(f"{name} is {type(inputs).__name__}; give what model.prepare returns.")
    tokenizer = model.processor.tokenizer
    if clean.tokenizer is not tokenizer and clean.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError("The clean inputs were prepared by another model; prepare both with the model to be patched.")
    if not is_count(batch_size):
        raise InputError(f"batch_size={batch_size!r} was given; give the number of rows to run at once, at least 1.")
    return corrupted.n_rows


def _pairs(clean: VLMInputs, corrupted: VLMInputs, site: Site, positions: Any, *, align: bool) -> Pairs:
    """The groups of positions in both inputs; the two of a pair have one name."""
    if align and site.position != 1:
        raise InputError(f"what={site.what!r} has keys as well as queries; it needs equal layouts, not align=True.")
    (check_model if align else check_aligned)(clean, corrupted)
    if site.point is None and isinstance(positions, str) and positions == "every":
        positions = "image"
    return aligned_groups(clean, corrupted, positions)


@contextmanager
def _per_head_results(model: Model, site: Site) -> Iterator[None]:
    """Inside, the model computes what every head adds to the stream, if this is patched."""
    before = model.cfg.use_attn_result
    if site.what != "result" or before:
        yield
        return
    model.set_use_attn_result(True)
    try:
        yield
    finally:
        model.set_use_attn_result(before)


def encoded_pair(model: Model, clean: VLMInputs, corrupted: VLMInputs) -> tuple[VLMInputs, VLMInputs]:
    """Both inputs with their images encoded, if they have any; images that both show are encoded once."""
    encoded = model.encode(clean) if clean.maps else clean
    if not corrupted.maps:
        return encoded, corrupted
    # Features that the clean inputs came with may have been changed, so that the corrupted ones cannot use them.
    return encoded, model.encode(corrupted, reuse=encoded if clean.features is None else None)


def digests(clean: VLMInputs, corrupted: VLMInputs) -> dict[str, str]:
    """A digest of each of the two, equal for inputs with equal tokens and pictures."""
    both = {"clean inputs": clean, "corrupted inputs": corrupted}
    return {name: digest(repr((inputs.input_ids.tolist(), pixel_keys(inputs)))) for name, inputs in both.items()}


def _result(site: Site, cells: Sequence[Cell], values: Sequence[Tensor], sweep: Sweep) -> PatchResult:
    """The result of `patch`: columns without a value are left out, and KV heads are called so."""
    index = pd.DataFrame([cell._asdict() for cell in cells]).dropna(axis="columns", how="all")
    index = index.rename(columns={"head": "kv_head"}) if site.kv else index
    return sweep.result(site.what, index, values)
