"""All benchmarks in one table: `make bench`, or

    python benchmarks/everything.py --size 0.1B --device cpu --rounds 3 --out bench.json [--only generation patching]
    python benchmarks/everything.py --table bench.json            # the table as Markdown, without running
    python benchmarks/everything.py --table bench.json --judged   # only what has a target

The columns are ours, the alternative, the limit if there is one, and how many times better ours is. On a CPU one thread
is timed, by the processor's clock. The rows are written after each benchmark. After an interruption the same command
continues.
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
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=common.SIZES, default="0.1B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--rounds", type=int, help="how often each run is timed; by default each benchmark's own number"
    )
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="the JSON file to write")
    parser.add_argument("--table", type=Path, help="a JSON file of an earlier run: print its table as Markdown")
    parser.add_argument("--judged", action="store_true", help="with --table: only rows that have a target")
    args = parser.parse_args()
    if args.table:
        print(markdown(json.loads(args.table.read_text()), judged=args.judged))  # noqa: T201
        return
    if args.device == "cpu":
        torch.set_num_threads(1)
    run(args.only, args.out, **common.arguments(args.size, args.device, args.rounds))


def run(subjects: list[str], out: Path, **about: Any) -> None:
    """Run the benchmarks that are not in the file, write the rows after each, and print the table."""
    results = resume(out, subjects, about)
    for subject in subjects:
        if subject not in results["seconds"]:
            start, rows = time.perf_counter(), import_module(subject).main(**about)
            print(common.table(rows), end="\n\n", flush=True)  # noqa: T201
            results["rows"] += [row.to_dict() for row in rows]
            results["seconds"][subject] = round(time.perf_counter() - start, 1)
            out.write_text(json.dumps(results, indent=1) + "\n")
    print(common.table(rows_of(results)))  # noqa: T201
    print(f"\n{common.in_words(results['machine'])}; {sum(results['seconds'].values()):.0f} s; {out}")  # noqa: T201


def resume(out: Path, subjects: list[str], about: dict[str, Any]) -> dict[str, Any]:
    """The results of an unfinished run of the same command on this machine; else those of a new run, still empty."""
    new = {"machine": common.machine(), **about, "seconds": {}, "rows": []}
    results = json.loads(out.read_text()) if out.exists() else new
    same = _settings(results) == _settings(new)
    return results if same and set(subjects) - set(results["seconds"]) else new


def _settings(results: dict[str, Any]) -> dict[str, Any]:
    """What two runs must have in common: the machine and the arguments."""
    return {**results, "seconds": None, "rows": None, "machine": {**results["machine"], "when": None}}


def rows_of(results: dict[str, Any]) -> list[Row]:
    """The rows of a file's content."""
    return [Row(**{name: row[name] for name in Row.__dataclass_fields__}) for row in results["rows"]]


def markdown(results: dict[str, Any], *, judged: bool = False) -> str:
    """The table of a file's content, with the command and the machine. judged: only rows that have a target."""
    rows = [
        [row.subject, row.case, *(_figure(value, row.unit) for value in (row.ours, row.alternative, row.limit)),
         _figure(row.ratio), _figure(row.target), row.verdict]
        for row in rows_of(results) if row.target or not judged
    ]  # fmt: skip
    head = ["", "", "ours", "alternative", "limit", "ratio", "target", ""]
    arguments = " ".join(f"--{name} {results[name]}" for name in ("size", "device", "rounds") if name in results)
    machine = f"{common.in_words(results['machine'])}, {results['machine']['when'][:10]}"
    return f"{common.markdown(head, rows)}\n`python benchmarks/everything.py {arguments}` on {machine}."


def _figure(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    return (f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}").strip()


if __name__ == "__main__":
    main()
