"""In which layers does a direction change the answer from one word to another?

direction = gl.mean_difference(model, reverse, normal)               # at the last prompt token
table = flip_rates(model, normal, direction, first_letters, last_letters)
table[["start", "flipped", "difference"]]

Gandikota and Bau 2026, section 4: "read in reverse" as a direction of one layer; the answer letter flips from that of
the first panel to that of the last.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.direction import Direction
from gaze_lens.model_protocol import Model
from gaze_lens.patching.band_sweep import sweep_bands
from gaze_lens.patching.logits import Metric, first_tokens
from gaze_lens.patching.metrics import logit_difference

if TYPE_CHECKING:
    from pandas import DataFrame


def flip_rates(
    model: Model,
    inputs: VLMInputs | Sequence[VLMInputs],
    direction: Direction,
    before: Sequence[str | int],
    after: Sequence[str | int],
    *,
    bands: int | Sequence[range] = 1,
    scale: float = 1.0,
    positions: Any = "last",
    batch_size: int = 16,
    progress: bool = True,
) -> "DataFrame":
    """`flip_rates(model, normal, direction, before, after)`: the share of answers that a direction flips, by layer.

    inputs: a batch of prompts, or several, whose next token is the answer. before, after: for each row the answer, and
        what it should flip to; texts, which stand for their first tokens (" B" and "B" differ), or token ids.
    bands, scale, positions, batch_size: as for `gl.sweep_bands`; by default one layer at a time, at the last token.
    Returns a row for each band. Columns: start and stop (excluded); flipped, the share of rows whose most probable
    token is `before` without the direction and `after` with it, with low and high (95 %, bootstrap over rows);
    difference, the mean logit of `after` less that of `before`, and unsteered, the same without the direction; read,
    the share of rows whose most probable token is `before` without the direction; n, rows.
    Raises InputError for other numbers of answers than rows, and where before and after begin with the same token.
    """
    batches = [inputs] if isinstance(inputs, VLMInputs) else list(inputs)
    n = sum(batch.n_rows for batch in batches)
    if not batches or not len(before) == len(after) == n:
        raise InputError(
            f"{len(before)} and {len(after)} answers were given for {n} rows; give one each for every row."
        )
    options = {"bands": bands, "scale": scale, "positions": positions, "batch_size": batch_size, "progress": progress}
    parts, start = [], 0
    for batch in batches:
        own = slice(start, start + batch.n_rows)
        metric = {
            "before": _is_top(model, before[own]), "after": _is_top(model, after[own]),
            "difference": logit_difference(model, list(after[own]), list(before[own])),
        }  # fmt: skip
        parts.append(sweep_bands(model, batch, direction, metric=metric, **options))
        start = own.stop
    values = torch.cat([part.values for part in parts], -1)
    unsteered = torch.cat([_baseline(part.baseline) for part in parts], -1)
    flipped = replace(parts[0]["after"], values=values[1] * unsteered[0], baseline=unsteered[1], clean=unsteered[1])
    table = flipped.table().rename(columns={"mean": "flipped"})[["start", "stop", "flipped", "low", "high"]]
    figures = {"unsteered": unsteered[2].mean().item(), "read": unsteered[0].mean().item(), "n": n}
    return table.assign(difference=values[2].mean(-1).tolist(), **figures)


def _is_top(model: Model, answers: Sequence[str | int]) -> Metric:
    """1 for each row whose most probable next token is its answer, else 0."""
    ids = first_tokens(model.processor.tokenizer, list(answers))
    return lambda logits: (logits[:, -1].argmax(-1).cpu() == torch.tensor(ids)).float()


def _baseline(values: Tensor | None) -> Tensor:
    if values is None:
        raise InputError("The sweep has no baseline; use gl.sweep_bands, which measures one.")
    return values
