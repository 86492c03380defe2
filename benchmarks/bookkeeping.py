"""The time and memory of an evaluation without the model's: resuming a run, judging it, computing its figures.

    for subject, n, seconds, megabytes in measure(model, 10_000): ...

The run is written without running the model: every strip has the answers of two conditions to six targets. All strips
are one picture under different names. Resuming a run on files reads each file once more, which is not in these figures.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from common import seconds_of
from memory import peak

import gaze_lens as gl
from gaze_lens.data import Pictures
from gaze_lens.evaluation import Condition, generate_answers, question
from gaze_lens.evaluation.records import KIND, Record, describe, picture_line
from gaze_lens.runs.journal import write

CONDITIONS = [Condition("gaze", gl.HeadSet(["L1H0", "L2H3"])), Condition("none")]
ANSWERS = 6 * len(CONDITIONS)  # for each strip
FILE = "generations.jsonl"
Measurement = tuple[str, int, float, float | None]  # subject, strips, seconds, megabytes at the peak


def measure(model: Any, n: int) -> Iterator[Measurement]:
    """Time and memory of each part, for a run over n strips."""
    (strip,) = gl.comics.synthetic(1, seed=0)
    pictures = Pictures({f"strip {k}": lambda: strip for k in range(n)})
    with TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        write(path, describe(model, pictures, question(), CONDITIONS, seed=0), list(_lines(strip, n)), kind=KIND)
        options = {"protocol": question(), "path": path, "resume": True, "progress": False}
        results = []
        parts = {
            "resuming a run": lambda: generate_answers(model, pictures, CONDITIONS, **options),
            "judging": lambda: results.append(gl.rejudge(folder, progress=False)),
            "figures": lambda: results[0].to_dict(),
        }
        for subject, work in parts.items():
            seconds: list[float] = []
            megabytes = peak(lambda work=work, seconds=seconds: seconds.append(seconds_of(work)))
            yield subject, n, seconds[0], megabytes


def _lines(strip: gl.Picture, n: int) -> Iterator[dict[str, Any]]:
    """The lines of a run: two in three steered answers are the target's caption, all others are a random one."""
    captions, rng = list(strip.captions.values()), Random(0)
    for k in range(n):
        yield picture_line(f"strip {k}", strip, ANSWERS)
        for condition in CONDITIONS:
            for target, caption in strip.captions.items():
                text = caption if condition.heads and rng.random() < 2 / 3 else rng.choice(captions)
                key = {"condition": condition.name, "draw": 0, "targets": (target,), "prompt": "What is there?"}
                yield Record(f"strip {k}", **key, seed=0, heads=condition.digest, text=text, pieces=(text,)).to_line()
