"""A watch over a generation: logits that are NaN or infinite are an error, not an empty or a repeated text.

    watch = FiniteLogits(model, rows=inputs.n_rows, start=inputs.layout.length, options=options)
    with watch.attached():
        model.original_model.generate(..., **watch.options)
    watch.steps                       # row -> the step at which its logits were first not finite

What is looked at are the model's own logits: processors write -inf on purpose, where they forbid a token. A row that
has failed ends there, and the others go on. The flags stay on the logits' device until the generation has ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from gaze_lens.model_protocol import Model

Ids = Int[Tensor, "sequence position"]


class FiniteLogits:
    """Watches one call of Hugging Face's `generate`.

    rows: of the batch; each may be several sequences (beams, samples). start: the length of the prompt.
    options: of `generate`, those of the caller; afterwards with what watches.
    """

    def __init__(self, model: Model, *, rows: int, start: int, options: dict[str, Any]) -> None:
        self.model, self.rows, self.start = model, rows, start
        self.ends = ends_of(model, options)
        self.logits: Float[Tensor, "sequence token"] | None = None  # of the present forward, before processors
        self.first: Int[Tensor, " row"] | None = None  # the step at which a row failed, else -1
        processors = LogitsProcessorList([*(options.get("logits_processor") or ()), _Check(self)])
        criteria = StoppingCriteriaList([*(options.get("stopping_criteria") or ()), _Stop(self)])
        self.options = {**options, "logits_processor": processors, "stopping_criteria": criteria}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Read the logits of every forward inside."""
        handle = self.model.original_model.register_forward_hook(self._read)
        try:
            yield
        finally:
            handle.remove()
            self.logits = None

    @property
    def steps(self) -> dict[int, int]:
        """Row -> the step, from 0, at which its logits were not finite."""
        first = [] if self.first is None else self.first.tolist()
        return {row: step for row, step in enumerate(first) if step >= 0}

    def _read(self, _module: Any, _arguments: Any, output: Any) -> None:
        if not self.model.attention_backend.in_branch:
            self.logits = output.logits[:, -1]

    def check(self, input_ids: Ids) -> Bool[Tensor, " sequence"]:
        """Which sequences have failed, by now. What follows the end of a text does not count."""
        if self.first is None:
            self.first = torch.full((self.rows,), -1, device=input_ids.device)
        if self.logits is not None:
            written = input_ids[:, self.start :]
            zero = (self.logits * 0).sum(-1)  # NaN for NaN and infinity; ten times as fast as isfinite().all(-1)
            failed = (zero != 0).to(input_ids.device)
            failed &= ~torch.isin(written, self.ends.to(written.device)).any(-1)
            failed_rows = failed.view(self.rows, -1).any(-1)
            self.first = torch.where(failed_rows & (self.first < 0), written.shape[1], self.first)
            self.logits = None
        return (self.first >= 0).repeat_interleave(len(input_ids) // self.rows)


class _Check(LogitsProcessor):
    """Runs after each forward. A failed sequence gets equal scores, from which a token can be drawn."""

    def __init__(self, watch: FiniteLogits) -> None:
        self.watch = watch

    def __call__(self, input_ids: Ids, scores: Float[Tensor, "sequence token"]) -> Float[Tensor, "sequence token"]:
        failed = self.watch.check(input_ids).to(scores.device)
        if scores.device.type == "cpu" and not failed.any():  # elsewhere that question would wait for the device
            return scores
        return scores.masked_fill(failed[:, None], 0.0)


class _Stop(StoppingCriteria):
    """Ends the rows that have failed."""

    def __init__(self, watch: FiniteLogits) -> None:
        self.watch = watch

    def __call__(self, input_ids: Ids, _scores: Any, **_options: Any) -> Bool[Tensor, " sequence"]:
        return self.watch.check(input_ids)


def ends_of(model: Model, options: dict[str, Any]) -> Int[Tensor, " end"]:
    """The tokens that end a text."""
    config = options.get("generation_config") or model.original_model.generation_config
    ends = options.get("eos_token_id", config.eos_token_id)
    listed = [] if ends is None else ends.flatten().tolist() if isinstance(ends, Tensor) else ends
    return torch.tensor(listed if isinstance(listed, list | tuple) else [listed], dtype=torch.long)
