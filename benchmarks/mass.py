"""Generation under edits of scores, against the same generation under a bias: prefill and decode, round by round.

    OMP_NUM_THREADS=1 python benchmarks/mass.py --size 0.1B

The bias is today's `gl.steer(heads, region)`, with as many heads. On one thread the time is that of the processor.
"""

from functools import partial

import common
import generation
import torch
from common import Row, Timing

import gaze_lens as gl


@torch.no_grad()
def main(size: str = "0.1B", device: str = "cpu", tokens: int = 384, rounds: int = 9) -> list[Row]:
    """Rows of prefill, decode and both, in seconds, for each edit; the target is that of a mass."""
    model = gl.HookedVLM.wrap(*common.build(size, device=device))
    inputs = model.encode(model.prepare(common.strip(tokens), "What is going on?"))
    heads, panel = generation.heads_of(model), inputs.region("panel 4")
    box = inputs.pictures[0][0].region("panel 4")
    centre = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    soft = inputs.region(gl.HeatMap.of_points([centre], sigma=(box.x1 - box.x0) / 2))
    weights = {head: 1 / (1 + index) for index, head in enumerate(heads)}
    hooks = {
        "bias": gl.steer(heads, panel), "mass": gl.steer(heads, panel, mass=0.8),
        "mass, keep image": gl.steer(heads, panel, mass=0.8, keep="image"),
        "mass, weights of heads": gl.steer(weights, panel, mass=0.8),
        "heat map": gl.steer(heads, soft), "heat map, mass": gl.steer(heads, soft, mass=0.8),
    }  # fmt: skip
    runs = {name: partial(model.generate, inputs, fwd_hooks=attached) for name, attached in hooks.items()}
    runs["mass, exposure"] = partial(model.generate, inputs, fwd_hooks=hooks["mass"], exposure=True)
    seconds = common.in_turns(runs, generation.phases, rounds)
    times = {name: _timings(several) for name, several in seconds.items()}
    return [
        Row(f"generation, {name}", f"{phase}, {tokens} image tokens, {len(heads)} heads", "s", ours.seconds,
            bias.seconds, ratio=ours.speed_over(bias), target=0.95 if name in ("mass", "heat map") else None,
            note=ours.against(bias))
        for name, several in times.items() if name != "bias"
        for phase, ours, bias in zip(("prefill", "decode", "both"), several, times["bias"], strict=True)
    ]  # fmt: skip


def _timings(rounds: list[tuple[float, float]]) -> list[Timing]:
    """Those of prefill, decode, and both together."""
    return [Timing(column) for column in zip(*((a, b, a + b) for a, b in rounds), strict=True)]


if __name__ == "__main__":
    common.run(main)
