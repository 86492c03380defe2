"""Tokens per second of generation, steered and not, against Hugging Face's own with nothing attached.

    python benchmarks/generation.py --size 0.1B

Prefill and decode apart, batches of 1 and 8, half of the heads steered (at most 100), at full strength and softly.
Both sides get the image ready encoded, which leaves the language model alone to be timed.
"""

from typing import Any

import common
import torch
from common import Row

import gaze_lens as gl

STEPS = 16
BATCHES = (1, 8)
MODES = {"boost_and_suppress": gl.boost_and_suppress(), "soft": gl.boost_and_suppress(3.0)}


@torch.no_grad()
def main(size: str = "0.1B", device: str = "cpu", tokens: int = 384, rounds: int = 4) -> list[Row]:
    """Rows of prefill and decode, in tokens per second, for each batch and mode."""
    plain, processor = common.build(size, device=device)
    model = gl.HookedVLM.wrap(common.build(size, device=device)[0], processor)
    rows = []
    for batch in BATCHES:
        inputs = model.encode(model.prepare([common.strip(tokens)] * batch, ["What is going on?"] * batch))
        rows += _rows(model, plain, inputs, f"{tokens} image tokens, batch {batch}", rounds)
    return rows


def heads_of(model: gl.HookedVLM) -> list[tuple[int, int]]:
    """Every second head, 100 at most."""
    cfg = model.cfg
    heads = [(layer, head) for layer in range(cfg.n_layers) for head in range(layer % 2, cfg.n_heads, 2)]
    return heads[:: -(-len(heads) // 100)]


def plain_generation(plain: Any, inputs: gl.VLMInputs, n_tokens: int) -> Any:
    """Hugging Face's own generation, on a model that was never wrapped."""
    options = {"do_sample": False, "max_new_tokens": n_tokens}
    return plain.generate(input_ids=inputs.input_ids, **inputs.arguments(), **options)


def _rows(model: gl.HookedVLM, plain: Any, inputs: gl.VLMInputs, case: str, rounds: int) -> list[Row]:
    heads = heads_of(model)
    hooks = {name: gl.steer(heads, inputs.region("panel 4"), mode=mode) for name, mode in MODES.items()}
    hooks["nothing attached"] = []
    runs: dict[tuple[str, int], Any] = {}
    for n in (1, 1 + STEPS):
        runs["plain", n] = lambda n=n: plain_generation(plain, inputs, n)
        for name, attached in hooks.items():
            runs[name, n] = lambda n=n, attached=attached: model.generate(inputs, fwd_hooks=attached, max_new_tokens=n)
    best = common.by_turns(runs, rounds=rounds)
    prefill = {name: inputs.n_rows * inputs.layout.length / best[name, 1].seconds for name in ("plain", *hooks)}
    decode = {name: inputs.n_rows * STEPS / (best[name, 1 + STEPS].seconds - best[name, 1].seconds) for name in prefill}
    return [
        Row(f"generation, {name}", f"{phase}, {case}", "tokens/s", rate[name], rate["plain"],
            ratio=rate[name] / rate["plain"], target=0.95 if attached else 0.99)
        for name, attached in hooks.items() for phase, rate in (("prefill", prefill), ("decode", decode))
    ]  # fmt: skip


if __name__ == "__main__":
    common.run(main)
