"""A few query rows of the scores under edits, one edit after the other, for an `EditReader` beside the fast kernel."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.call import Call, Rows
from gaze_lens.attention.edit_reader import EditMark, EditReader, softmax
from gaze_lens.attention.forward_state import ForwardState
from gaze_lens.attention.mass_edit import MassEdit
from gaze_lens.attention.score_edit import column

Scores = Float[Tensor, "batch head query key"]


def read_edits(attached: Sequence[Any], call: Call, layer: int, state: ForwardState) -> None:
    """Hand each reader among what is attached to a layer's scores its rows without and with the edits between its
    hooks."""
    readers = dict.fromkeys(mark.reader for mark in attached if isinstance(mark, EditMark))
    for reader in readers:
        _read(reader, attached, call, layer, state)


def _read(reader: EditReader, attached: Sequence[Any], call: Call, layer: int, state: ForwardState) -> None:
    queries = reader.queries.within(call.positions.queries)
    if not queries:
        return
    rows = call.positions.rows_at(queries)
    scores = call.scores_of_rows(rows)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    scores = wide.masked_fill(~call.visible(rows), torch.finfo(wide.dtype).min)
    without = None
    for edit in attached:
        if not isinstance(edit, EditMark):
            scores = _edited(edit, scores, call, layer, state, rows)
        elif edit.reader is reader and not edit.after:
            without = softmax(scores, call.sinks)
        elif edit.reader is reader and without is not None:
            reader.read(without, softmax(scores, call.sinks), queries, call.positions, layer, state)


def _edited(
    edit: AttentionBias | MassEdit, scores: Scores, call: Call, layer: int, state: ForwardState, rows: Rows
) -> Scores:
    """Some rows of the scores, in float32 and masked, under one more edit."""
    heads, weights, shared = edit.heads_in(layer), edit.weights_in(layer), state.mask_of(call)
    if not heads:
        return scores
    selected = torch.tensor(heads, device=scores.device)
    if isinstance(edit, MassEdit):
        share = shared.share(edit, call, rows)
        if share is None:
            return scores
        sinks = None if call.sinks is None else call.sinks[selected]
        return scores.index_copy(1, selected, share.set(scores[:, selected], sinks, weights)[0])
    matrix = shared.bias_matrix(edit, call)
    if matrix is None:
        return scores
    added = matrix[:, :, rows].to(scores.dtype)
    added = added if weights is None else added * column(weights, added)
    return scores.index_copy(1, selected, scores[:, selected] + added)
