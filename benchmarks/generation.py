"""Tokens per second of generation, steered and unsteered, compared with Hugging Face's own without hooks.

    python benchmarks/generation.py --size 0.1B

Prefill and decode are timed separately, for batches of 1 and 8, with half of the heads steered (at most 100), at full
strength, at a small one, and to a share of attention. The plain generation runs twice in each round: the difference of
the two is noise. Both sides get an encoded image, so that only the language model is timed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from common import Row, Timing
from transformers import StoppingCriteriaList

import gaze_lens as gl

STEPS = 16
BATCHES = (1, 8)
STEERING = {
    "boost_and_suppress": {"mode": gl.boost_and_suppress()},
    "soft": {"mode": gl.boost_and_suppress(3.0)},
    "mass": {"mass": 0.8},
}
TARGETS = {"plain, again": None, "nothing attached": 0.99}


@torch.no_grad()
def main(size: str = "0.1B", device: str = "cpu", tokens: int = 384, rounds: int = 7) -> list[Row]:
    """Rows of prefill and decode, in tokens per second, for each batch and mode."""
    plain, processor = common.build(size, device=device)
    model = gl.HookedVLM.wrap(common.build(size, device=device)[0], processor)
    rows = []
    for batch in BATCHES:
        inputs = model.encode(model.prepare([common.strip(tokens)] * batch, ["What is going on?"] * batch))
        turns = rounds if batch > 1 else 3 * rounds  # small batches take less time, and their ratios vary more
        rows += _rows(model, plain, inputs, f"{tokens} image tokens, batch {batch}", turns)
    return rows


def heads_of(model: gl.HookedVLM) -> list[tuple[int, int]]:
    """Every second head, 100 at most."""
    cfg = model.cfg
    heads = [(layer, head) for layer in range(cfg.n_layers) for head in range(layer % 2, cfg.n_heads, 2)]
    return heads[:: -(-len(heads) // 100)]


def _rows(model: gl.HookedVLM, plain: Any, inputs: gl.VLMInputs, case: str, rounds: int) -> list[Row]:
    heads = heads_of(model)
    hooks = {name: gl.steer(heads, inputs.region("panel 4"), **how) for name, how in STEERING.items()}
    hooks["nothing attached"] = []
    arguments = {"input_ids": inputs.input_ids, **inputs.arguments(), "do_sample": False}
    runs = {"plain": partial(plain.generate, **arguments), "plain, again": partial(plain.generate, **arguments)}
    runs |= {name: partial(model.generate, inputs, fwd_hooks=attached) for name, attached in hooks.items()}
    seconds = common.in_turns(runs, phases, rounds)
    times = {name: [Timing(column) for column in zip(*several, strict=True)] for name, several in seconds.items()}
    tokens = inputs.n_rows * inputs.layout.length, inputs.n_rows * STEPS
    return [
        Row(f"generation, {name}", f"{phase}, {case}", "tokens/s", n / ours.seconds, n / theirs.seconds,
            ratio=ours.speed_over(theirs), target=TARGETS.get(name, 0.95), note=ours.against(theirs))
        for name, several in times.items() if name != "plain"
        for phase, n, ours, theirs in zip(("prefill", "decode"), tokens, several, times["plain"], strict=True)
    ]  # fmt: skip


def phases(generate: Callable[..., Any]) -> tuple[float, float]:
    """Seconds of a generation's prefill, until the first token, and of its decode steps, from there to the end."""
    marks = [common.now()]

    def mark(ids: torch.Tensor, _scores: Any, **_options: Any) -> torch.Tensor:
        marks.append(common.now())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    generate(stopping_criteria=StoppingCriteriaList([mark]), max_new_tokens=1 + STEPS)
    return marks[1] - marks[0], common.now() - marks[1]


if __name__ == "__main__":
    common.run(main)
