"""Activation patching by head, layer and region: `gl.patch`.

result = gl.patch(model, clean, corrupted, what="z", where=heads, positions=["panel 4", "last"], metric=metric)
print(result.table())

The corrupted inputs are run with one activation replaced by that of the clean run, once for every layer or head and
every group of positions. Wang et al. 2023 (interpretability in the wild), Zhang and Nanda 2024 (best practices).
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
from tqdm.auto import tqdm

from gaze_lens.errors import InputError
from gaze_lens.inputs.alignment import aligned_groups, check_aligned, check_model
from gaze_lens.inputs.position_groups import Group
from gaze_lens.inputs.vlm_inputs import VLMInputs, pixel_keys
from gaze_lens.patching.cell_log import CellLog
from gaze_lens.patching.cells import Cell, cells_of
from gaze_lens.patching.donor import Donor
from gaze_lens.patching.from_layer import cannot_resume, keeping, resuming
from gaze_lens.patching.measuring import Measure
from gaze_lens.patching.result import PatchResult, result_of
from gaze_lens.patching.sites import Site, site_of
from gaze_lens.runs.digests import digest

Pairs = Sequence[tuple[Group, Group]]


@runtime_checkable
class Source(Protocol):
    """Where the edits of a sweep come from: a `Donor`, for one, whose cells are of the type `Cell`."""

    def taking(self, model: Any, cells: Sequence[Any]) -> Any:
        """A context in which the clean inputs are run once."""

    def giving(self, model: Any, cells: Sequence[Any]) -> Any:
        """A context in which the corrupted inputs are run, with a copy of every row for each cell, and are edited."""

    def starts(self, model: Any, cell: Any) -> int | None:
        """The first layer that a cell's edit changes anything in; None where it is before all layers."""


@torch.no_grad()
def patch(
    model: Any,
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
    """Run the corrupted inputs with clean activations patched in, one cell (layer or head, and positions) at a time.

    clean, corrupted: what `model.prepare` or `model.encode` returns, or `gl.counterfactual` makes.
    what: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"; of heads "z", "result", "q", "k", "v" (before
        norm and rotary embedding), "pattern", "scores" (positions are queries); or "image", the image features where
        they enter the language model, DeepStack's included.
    where: a HeadSet (or a list of heads), or a list of layers; all unless given. Every head, or layer, is patched on
        its own. Keys and values are patched by KV head: those that the given heads read.
    positions: what `groups` takes: "every" (with what="image", every image token), "image", "text", "last", "answer",
        a region's name, a Region, `inputs.span("fourth")`, a list of these, or a mapping of names to them.
    metric: a function of logits `[batch, pos, d_vocab]` that returns `[batch]`, called for one cell at a time; or a
        mapping of names to such functions.
    align: take inputs of different layouts, whose groups have equally many positions in every row; a group may be
        given as (clean's, corrupted's). Otherwise the layouts must be equal.
    batch_size: rows run at once, several cells together. All their logits are in memory.
    resume: a file, "sweep.jsonl", that gets a line for each cell; the same command goes on where it stopped.
    Images are encoded once, and layers below the patched one are not run again where that is exact. Hooks that are
    attached around it (`with model.hooks(steering):`) act in all runs, and are taken as one run's.
    Raises InputError, RegionError, HeadError and HookError, which say what does not fit.
    """
    site, measure = site_of(what), Measure.of(metric, check_inputs(model, clean, corrupted, batch_size))
    pairs = _pairs(clean, corrupted, site, positions, align=align)
    cells = cells_of(model, site, where, [theirs for _, theirs in pairs])
    with _per_head_results(model, site):
        sweep = Sweep.prepare(model, clean, corrupted, Donor(site, pairs), cells, measure)
        groups = {ours.name: [ours.rows, theirs.rows] for ours, theirs in pairs}
        log = sweep.log(resume, {"what": what, **digests(clean, corrupted), "positions": groups})
        values = sweep.values(cells, log, batch_size, title=f"patching {what}" if progress else None)
    return _result(site, cells, values, sweep)


@dataclass(frozen=True, eq=False)
class Sweep:
    """What every cell of a sweep needs; inputs are encoded.

    streams: the residual stream of the corrupted run at the layers to be patched; empty where no run resumes there.
    clean, baseline: the metrics of the unpatched clean and corrupted runs.
    """

    model: Any
    corrupted: VLMInputs
    source: Source
    measure: Measure
    streams: Mapping[int, Float[Tensor, "batch pos d_model"]]
    clean: Float[Tensor, "metric batch"]
    baseline: Float[Tensor, "metric batch"]

    @classmethod
    def prepare(
        cls, model: Any, clean: VLMInputs, corrupted: VLMInputs, source: Source, cells: Sequence[Any], measure: Measure
    ) -> "Sweep":
        """Encode the images; run both inputs once, and keep what the cells need."""
        ours = encoded(model, clean)
        theirs = encoded(model, corrupted, reuse=ours if clean.features is None else None)
        with source.taking(model, cells):
            restored = measure(model(ours), "the clean run")
        layers = set() if cannot_resume(model) else {source.starts(model, cell) or 0 for cell in cells} - {0}
        with keeping(model, layers) as streams:
            logits = model(theirs)
        if layers and not _resumes(model, theirs, max(layers), streams, logits):
            streams = {}
        return cls(model, theirs, source, measure, streams, restored, measure(logits, "the corrupted run"))

    def log(self, path: str | os.PathLike[str] | None, run: Mapping[str, Any], kind: type = Cell) -> CellLog:
        """The file that keeps the cells, of a `kind`, that are done; None keeps nothing.

        run: what tells the sweep from others of the same model and metrics. A file may go on with other cells.
        """
        model = [self.model.cfg.model_name, self.model.fingerprint]
        run = {"model": model, **run, "metrics": list(self.measure.metrics)}
        return CellLog.open(path, run, torch.cat([self.clean, self.baseline]), kind)

    def values(
        self, cells: Sequence[Any], log: CellLog, batch_size: int, *, title: str | None
    ) -> list[Float[Tensor, "metric batch"]]:
        """Those of all cells: what the log has, and what it does not have yet, which is written into it at once.

        batch_size: rows run at once. title: of the progress bar; None for no bar.
        """
        done, left = {**log.done}, [cell for cell in cells if cell not in log.done]
        there = len(cells) - len(left)
        with tqdm(total=len(cells), initial=there, disable=title is None, desc=title, unit="cell") as bar:
            for batch in self._batches(left, max(1, batch_size // self.corrupted.n_rows)):
                measured = self.run(batch)
                log.write(measured)
                done |= measured
                bar.update(len(batch))
        return [done[cell] for cell in cells]

    def _batches(self, cells: Sequence[Any], size: int) -> Iterator[list[Any]]:
        """Cells with one start at a time, so many together."""
        for _, alike in groupby(cells, key=partial(self.source.starts, self.model)):
            listed = list(alike)
            yield from (listed[first : first + size] for first in range(0, len(listed), size))

    def run(self, cells: Sequence[Any]) -> dict[Any, Float[Tensor, "metric batch"]]:
        """Patch some cells with one start in one forward, which computes the layers from there on."""
        stream = self.streams.get(layer := self.source.starts(self.model, cells[0]))
        with ExitStack() as stack:
            if stream is not None:
                stack.enter_context(resuming(self.model, layer, stream.repeat_interleave(len(cells), dim=0)))
            stack.enter_context(self.source.giving(self.model, cells))
            logits = self.model(self.corrupted, copies=len(cells))
        by_cell = logits.unflatten(0, (-1, len(cells))).unbind(1)  # copies of a row follow one another
        return {cell: self.measure(one, cell) for cell, one in zip(cells, by_cell, strict=True)}

    def result(self, what: str, index: pd.DataFrame, values: Sequence[Float[Tensor, "metric batch"]]) -> PatchResult:
        """The values of all cells, with names."""
        return result_of(self.model, what, index, values, self.measure, clean=self.clean, baseline=self.baseline)


def _resumes(
    model: Any, inputs: VLMInputs, layer: int, streams: Mapping[int, Tensor], logits: Float[Tensor, "batch pos d_vocab"]
) -> bool:
    """Whether a run from the highest layer on gives the very logits of the full run."""
    with resuming(model, layer, streams[layer]):
        return torch.equal(model(inputs), logits)


def check_inputs(model: Any, clean: Any, corrupted: Any, batch_size: int) -> int:
    """The number of rows; InputError for anything but inputs of this model, or a batch of nothing."""
    for name, inputs in (("clean", clean), ("corrupted", corrupted)):
        if not isinstance(inputs, VLMInputs):
            raise InputError(f"{name} is {type(inputs).__name__}; give what model.prepare returns.")
    ours = model.processor.tokenizer
    if clean.tokenizer is not ours and clean.tokenizer.get_vocab() != ours.get_vocab():
        raise InputError("The clean inputs were prepared by another model; prepare both with the model to be patched.")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} was given; give the number of rows to run at once, at least 1.")
    return corrupted.n_rows


def _pairs(clean: VLMInputs, corrupted: VLMInputs, site: Site, positions: Any, *, align: bool) -> Pairs:
    """The groups on both sides, under one name."""
    if align and site.position != 1:
        raise InputError(f"what={site.what!r} has keys as well as queries; it needs equal layouts, not align=True.")
    (check_model if align else check_aligned)(clean, corrupted)
    if site.point is None and isinstance(positions, str) and positions == "every":
        positions = "image"
    return aligned_groups(clean, corrupted, positions)


@contextmanager
def _per_head_results(model: Any, site: Site) -> Iterator[None]:
    """Have the model compute what every head adds to the stream, where that is patched."""
    before = model.cfg.use_attn_result
    if site.what != "result" or before:
        yield
        return
    model.set_use_attn_result(True)
    try:
        yield
    finally:
        model.set_use_attn_result(before)


def encoded(model: Any, inputs: VLMInputs, *, reuse: VLMInputs | None = None) -> VLMInputs:
    """The inputs with their images encoded, where they have any."""
    return model.encode(inputs, reuse=reuse) if inputs.maps else inputs


def digests(clean: VLMInputs, corrupted: VLMInputs) -> dict[str, str]:
    """For both, something that is the same for inputs of equal tokens and pictures."""
    seen = {"clean inputs": clean, "corrupted inputs": corrupted}
    texts = {name: repr((inputs.input_ids.tolist(), pixel_keys(inputs))) for name, inputs in seen.items()}
    return {name: digest(text) for name, text in texts.items()}


def _result(site: Site, cells: Sequence[Cell], values: Sequence[Tensor], sweep: Sweep) -> PatchResult:
    """The values of all cells, with names."""
    index = pd.DataFrame([cell._asdict() for cell in cells]).dropna(axis="columns", how="all")
    index = index.rename(columns={"head": "kv_head"}) if site.kv else index
    return sweep.result(site.what, index, values)
