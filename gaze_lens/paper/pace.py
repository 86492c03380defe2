"""How long a forward takes on this machine, for the estimates that rows print before they begin.

pace = measured(model, strip)
pace.seconds(Cost(prefills=540, steps=2700))
"""

import time
from dataclasses import dataclass

from gaze_lens.comics.questions import OPEN
from gaze_lens.model_protocol import Model
from gaze_lens.paper.row import Cost
from gaze_lens.regions.picture import Picture

ROWS, STEPS = 6, 8


@dataclass(frozen=True)
class Pace:
    """Seconds for the prefill of one prompt, and for one decode step of it, in a batch of six."""

    prefill: float
    step: float

    def seconds(self, cost: Cost) -> float:
        """The estimate: prefills x prefill + steps x step."""
        return cost.prefills * self.prefill + cost.steps * self.step


def measured(model: Model, strip: Picture) -> Pace:
    """Time two short generations about a strip, after one that warms up."""
    inputs = model.encode(model.prepare([strip] * ROWS, [OPEN] * ROWS))
    model.generate(inputs, max_new_tokens=2)
    begun = time.perf_counter()
    model.generate(inputs, max_new_tokens=1)
    prefilled = time.perf_counter()
    steps = model.generate(inputs, max_new_tokens=1 + STEPS).n_steps - 1
    ended = time.perf_counter()
    prefill = prefilled - begun
    return Pace(prefill / ROWS, max(0.0, ended - prefilled - prefill) / ROWS / max(1, steps))


def in_words(seconds: float) -> str:
    """A duration to read.

    >>> in_words(42), in_words(160), in_words(7200)
    ('42 s', '3 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
