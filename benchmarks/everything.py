"""Every benchmark, one table: `make bench`, or

    python benchmarks/everything.py --size 0.1B --device cpu --rounds 3 --out bench.json [--only generation patching]
    python benchmarks/everything.py --table bench.json            # the table as Markdown, nothing run
    python benchmarks/everything.py --table bench.json --judged   # only what has a target

Ours, the alternative, the limit where it is known, and how many times better ours is. On a CPU one thread is timed, by
the processor's clock. Rows are written as each benchmark ends; the same command goes on where it was broken off.
"""

import argparse
import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import common
import torch
from common import Row

SUBJECTS = ("unhooked", "tracking", "patching", "discovery", "generation")


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=common.SIZES, default="0.1B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--rounds", type=int, help="how often each run is timed; every benchmark has a number of its own"
    )
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="the JSON file to write")
    parser.add_argument("--table", type=Path, help="a JSON file of an earlier run: print its table as Markdown")
    parser.add_argument("--judged", action="store_true", help="with --table: only rows that have a target")
    given = parser.parse_args()
    if given.table:
        print(markdown(json.loads(given.table.read_text()), judged=given.judged))  # noqa: T201
        return
    if given.device == "cpu":
        torch.set_num_threads(1)
    run(given.only, given.out, **common.chosen(given.size, given.device, given.rounds))


def run(subjects: list[str], out: Path, **about: Any) -> None:
    """Run what is not in the file yet, write each benchmark's rows as it ends, and print the table."""
    told = begun(out, subjects, about)
    for subject in subjects:
        if subject not in told["seconds"]:
            start, rows = time.perf_counter(), import_module(subject).main(**about)
            print(common.table(rows), end="\n\n", flush=True)  # noqa: T201
            told["rows"] += [row.to_dict() for row in rows]
            told["seconds"][subject] = round(time.perf_counter() - start, 1)
            out.write_text(json.dumps(told, indent=1) + "\n")
    print(common.table(rows_of(told)))  # noqa: T201
    print(f"\n{common.named(told['machine'])}; {sum(told['seconds'].values()):.0f} s; {out}")  # noqa: T201


def begun(out: Path, subjects: list[str], about: dict[str, Any]) -> dict[str, Any]:
    """What an unfinished run of the same command on this machine has written; else the beginning of a new one."""
    new = {"machine": common.machine(), **about, "seconds": {}, "rows": []}
    told = json.loads(out.read_text()) if out.exists() else new
    aside = {"seconds": None, "rows": None, "machine": {**new["machine"], "when": None}}
    same = {**told, **aside, "machine": {**told["machine"], "when": None}} == {**new, **aside}
    return told if same and set(subjects) - set(told["seconds"]) else new


def rows_of(told: dict[str, Any]) -> list[Row]:
    """The rows of a file."""
    return [Row(**{name: row[name] for name in Row.__dataclass_fields__}) for row in told["rows"]]


def markdown(told: dict[str, Any], *, judged: bool = False) -> str:
    """The table of a file, and what it was measured on. judged: only rows that have a target."""
    rows = [
        [row.subject, row.case, *(_figure(value, row.unit) for value in (row.ours, row.alternative, row.limit)),
         _figure(row.ratio), _figure(row.target), row.verdict]
        for row in rows_of(told) if row.target or not judged
    ]  # fmt: skip
    head = ["", "", "ours", "alternative", "limit", "ratio", "target", ""]
    arguments = " ".join(f"--{name} {told[name]}" for name in ("size", "device", "rounds") if name in told)
    machine = f"{common.named(told['machine'])}, {told['machine']['when'][:10]}"
    return f"{common.markdown(head, rows)}\n`python benchmarks/everything.py {arguments}` on {machine}."


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    return (f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}").strip()


if __name__ == "__main__":
    main()
