"""What all steps of the study share: the model, prompts without a chat template, and one file for each step.

study = Study(gl.load_smollm2(), out=Path("docs/text_heads"), work=Path("text_heads_run"))
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gaze_lens as gl
from gaze_lens.runs.files import write_whole
from studies.text_heads.texts import PassageSet, make_sets

K = 20  # heads that are steered, unless a step says otherwise
N_SCORED, N_TUNED, N_TESTED = 100, 4, 8  # sets of six passages: to find heads, to choose among rankings, to report


@dataclass(frozen=True)
class Study:
    """The model and the folders. out: a JSON file for each step. work: what is needed only to go on."""

    model: gl.HookedVLM
    out: Path
    work: Path

    def result(self, name: str) -> dict[str, Any]:
        """What a finished step found."""
        return dict(json.loads((self.out / f"{name}.json").read_text(encoding="utf-8")))

    def run(self, name: str, step: Callable[["Study"], dict[str, Any]]) -> None:
        """Do a step unless its file is there."""
        path = self.out / f"{name}.json"
        if path.exists():
            return
        began = time.process_time()
        found = step(self)
        print(f"{name}: {time.process_time() - began:.0f} s of processor", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(rounded(found), indent=1) + "\n").encode())

    def every_head(self) -> gl.HeadSet:
        """All heads of the model."""
        return gl.HeadSet(
            [(layer, head) for layer in range(self.model.cfg.n_layers) for head in range(self.model.cfg.n_heads)]
        )


def rounded(value: Any) -> Any:
    """Numbers of four decimals, at any depth; None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def scored_sets() -> list[PassageSet]:
    """On which heads are found."""
    return make_sets(N_SCORED, seed=0)


def tuned_sets() -> list[PassageSet]:
    """Held-out sets, on which the ranking, the number of heads and the strength are compared."""
    return make_sets(N_TUNED, seed=1, held_out=True)


def tested_sets() -> list[PassageSet]:
    """Held-out sets, on which nothing was chosen."""
    return make_sets(N_TESTED, seed=2, held_out=True)


@contextmanager
def plain_prompts(model: gl.HookedVLM) -> Iterator[None]:
    """Inside the block the prompt is the bare text, so that it ends where the question ends."""
    template = model.processor.chat_template
    model.processor.chat_template = None
    try:
        yield
    finally:
        model.processor.chat_template = template
