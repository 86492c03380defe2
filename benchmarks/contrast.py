"""Contrast decoding against its branches, each generated alone: processor time, round by round.

    OMP_NUM_THREADS=1 python benchmarks/contrast.py --size 0.1B

The target: 1.05 times the time of the branches together.
"""

import time
from collections.abc import Callable
from typing import Any

import common
import generation
import torch
from common import Row, Timing

import gaze_lens as gl

STEPS = 16


@torch.no_grad()
def main(size: str = "0.1B", device: str = "cpu", tokens: int = 384, rounds: int = 5) -> list[Row]:
    """Rows in seconds of processor time: two branches, and three."""
    model = gl.HookedVLM.wrap(*common.build(size, device=device))
    inputs = model.encode(model.prepare(common.strip(tokens), "What is going on?"))
    hooks = gl.steer(generation.heads_of(model), inputs.region("panel 4"))
    other = gl.steer(generation.heads_of(model), inputs.region("panel 2"))
    decodings = {
        "two branches": gl.contrast_decoding(model, inputs, plus=hooks, minus=other),
        "three branches": gl.contrast_decoding(model, inputs, plus=hooks, minus=other, base=()),
    }
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
    runs: dict[str, Callable[[], Any]] = {
        "plus": lambda: model.generate(inputs, fwd_hooks=hooks, **options),
        "minus": lambda: model.generate(inputs, fwd_hooks=other, **options),
        "base": lambda: model.generate(inputs, **options),
        **{name: lambda one=one: model.generate(inputs, decoding=one, **options) for name, one in decodings.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    branches = {"two branches": ("plus", "minus"), "three branches": ("plus", "minus", "base")}
    rows = []
    for name, parts in branches.items():
        ours = Timing(tuple(seconds[name]))
        alone = Timing(tuple(map(sum, zip(*(seconds[part] for part in parts), strict=True))))
        case = f"{name}, {STEPS} tokens, {tokens} image tokens"
        ratio, note = ours.speed_over(alone), ours.against(alone)
        rows.append(Row("contrast", case, "s", ours.seconds, alone.seconds, ratio=ratio, target=1 / 1.05, note=note))
    return rows


if __name__ == "__main__":
    common.run(main)
