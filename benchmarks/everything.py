"""Every benchmark, one table: `make bench`, or

    python benchmarks/everything.py --size 0.1B --device cpu --out benchmarks/results.json [--only generation patching]

Ours, the alternative, the limit where it is known, and how many times better ours is. On a CPU one thread is timed, by
the processor's clock.
"""

import argparse
from importlib import import_module
from pathlib import Path

import common
import torch

SUBJECTS = ("unhooked", "generation", "tracking", "discovery", "patching")


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=common.SIZES, default="0.1B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results.json"))
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    rows: list[common.Row] = []
    for subject in given.only:
        rows += import_module(subject).main(size=given.size, device=given.device)
        common.write_json(rows, given.out, size=given.size, device=given.device)
    print(common.table(rows))  # noqa: T201


if __name__ == "__main__":
    main()
