"""Does long use leave anything behind? Rounds of prepare, steer, cache, patch, track and generate on one model.

    python benchmarks/soak.py                       # 300 rounds, some minutes on one core
    python benchmarks/soak.py --rounds 100 --out soak.csv

Resident memory after the last round is compared with that after round 50, when all that is kept on purpose is made;
hooks are counted in every round. Exits with 1 where memory grew by more than 2 %, or a hook was left behind.
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import psutil
import torch
from tqdm import tqdm

import gaze_lens as gl

WARM_UP = 50  # rounds
GROWTH = 0.02  # of the memory after the warm-up
STEPS = 6


@dataclass(frozen=True)
class Round:
    """What was there after a round. megabytes: resident memory. hooks: on all modules of the model."""

    index: int
    megabytes: float
    hooks: int


def main(rounds: int = 300, seed: int = 0) -> Iterator[Round]:
    """All rounds, each when it is done. Every round has a strip of its own."""
    model = gl.load_tiny()
    process = psutil.Process(os.getpid())
    for index, strip in enumerate(gl.comics.synthetic(rounds, seed=seed, panels=3)):
        use(model, strip, index)
        gc.collect()
        yield Round(index, process.memory_info().rss / 2**20, n_hooks(model))


def use(model: gl.HookedVLM, strip: gl.Picture, index: int) -> None:
    """What people do with a model, once, on one strip."""
    heads = gl.HeadSet(["L1H6", "L2H2"])
    inputs = model.prepare(strip, gl.comics.ask(index % 3))
    target = inputs.region(f"panel {1 + index % 3}")
    with torch.no_grad():
        model.run_with_hooks(inputs, fwd_hooks=gl.steer(heads, target))
        _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    del cache
    pair = gl.counterfactual(model, strip, gl.comics.ask(0), gl.changes.question(gl.comics.ask(2)))
    metric = gl.metrics.logit_difference(model, "blue", "black")
    gl.patch(
        model, pair.clean, pair.corrupted, what="z", where=heads, positions=["last"], metric=metric, progress=False
    )
    gl.track(model, inputs, heads, max_new_tokens=STEPS)
    model.generate(inputs, fwd_hooks=gl.steer(heads, target), max_new_tokens=STEPS)


def n_hooks(model: torch.nn.Module) -> int:
    """All hooks on all modules, PyTorch's own and TransformerLens'."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def faults(measured: list[Round], warm_up: int = WARM_UP, growth: float = GROWTH) -> list[str]:
    """What was left behind, in words; empty where nothing was."""
    start, last = measured[min(warm_up, len(measured)) - 1], measured[-1]
    found = []
    if last.megabytes > start.megabytes * (1 + growth):
        found.append(
            f"Memory grew from {start.megabytes:.0f} MB after round {start.index} to {last.megabytes:.0f} MB after "
            f"round {last.index}."
        )
    counts = {one.hooks for one in measured}
    if len(counts) > 1:
        found.append(f"The number of hooks changed between rounds: {sorted(counts)}.")
    return found


def run() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a CSV file for all rounds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = list(tqdm(main(options.rounds, options.seed), total=options.rounds, unit="round"))
    table = pd.DataFrame(map(asdict, measured))
    if options.out is not None:
        table.to_csv(options.out, index=False)
    sys.stdout.write(table.iloc[[min(WARM_UP, len(table)) - 1, -1]].to_string(index=False) + "\n")
    if found := faults(measured):
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    run()
