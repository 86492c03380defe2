"""Metrics: functions of the logits of a batch that return one number for each of its rows, and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.patching.metrics import Metric


@dataclass(frozen=True)
class Measure:
    """One metric, or several by name, on a batch of `n_rows`."""

    metrics: Mapping[str, Metric]
    n_rows: int
    named: bool

    @classmethod
    def of(cls, metric: Any, n_rows: int) -> "Measure":
        """InputError where it is neither a function nor a mapping of names to functions."""
        metrics = metric if isinstance(metric, Mapping) else {"metric": metric}
        if not metrics or not all(callable(function) for function in metrics.values()):
            raise InputError(
                f"metric={metric!r} was given; expected a function of logits [batch, pos, d_vocab] that returns a "
                "number for each row, or a mapping of names to such functions."
            )
        return cls(metrics, n_rows, isinstance(metric, Mapping))

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"], of: Any) -> Float[Tensor, "metric batch"]:
        """The metrics of a run; `of` says which run, for messages. InputError for wrong shapes, NaN and infinity."""
        return torch.stack([self._checked(name, function(logits), of) for name, function in self.metrics.items()])

    def _checked(self, name: str, value: Any, of: Any) -> Float[Tensor, " batch"]:
        if not isinstance(value, Tensor) or value.shape != (self.n_rows,):
            shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"The metric {name!r} returned {shown} for a batch of {self.n_rows} rows; expected one number for "
                f"each row, shape ({self.n_rows},). Leave out .mean() and .item()."
            )
        value = value.detach().float().cpu()
        if not value.isfinite().all():
            raise InputError(
                f"The metric {name!r} returned {value.tolist()} for {of}; expected finite numbers. Take logarithms "
                "with log_softmax, and divide by nothing that can be 0."
            )
        return value
