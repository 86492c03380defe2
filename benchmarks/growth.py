"""How time and memory grow with image tokens, heads and strips, and the slopes of log time on log size.

    python benchmarks/growth.py                            # small model, some minutes on one core
    python benchmarks/growth.py --largest --out growth.json --page docs/howto/growth.md
    python benchmarks/growth.py --read growth.json --page docs/howto/growth.md     # only the page, without running
    python benchmarks/growth.py --along heads strips       # parts of it

A slope of 1 means twice the time for twice the size. The time is that of the fastest round.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bookkeeping
import common
import numpy as np
import torch
from generation import STEPS, phases
from memory import peak

import gaze_lens as gl

TOKENS, MANY_TOKENS = (96, 192, 384, 768, 1536), (3072, 8064)
STRIPS, MANY_STRIPS = (1, 10, 100), (1000,)
RUNS, MANY_RUNS = (10, 100, 1000), (10_000,)
HEADS = (1, 10, 100)
STEERED = 10  # heads, in the table along image tokens
IMAGE_TOKENS = 768  # in the table along heads
QUESTION = "What is going on?"
ALONG = ("image tokens", "heads", "strips")
STRAIGHT = 0.3  # two slopes that differ by less are shown as one


@dataclass(frozen=True)
class Point:
    """Time and memory of one subject at one size. megabytes: the peak above what was held before; None if not known."""

    along: str
    subject: str
    size: int
    seconds: float
    megabytes: float | None = None


def main(
    size: str = "small", device: str = "cpu", rounds: int = 2, largest: bool = False, along: Sequence[str] = ALONG
) -> Iterator[Point]:
    """All points, each when it is measured. largest: also the largest sizes."""
    model = gl.HookedVLM.wrap(*common.build(size, device=device))
    list(_image_tokens(model, TOKENS[0], rounds=1))  # warm-up
    if "image tokens" in along:
        for n in TOKENS + MANY_TOKENS * largest:
            yield from _image_tokens(model, n, rounds if n in TOKENS else 1)
    if "heads" in along:
        inputs, every = (
            model.encode(model.prepare(common.strip(IMAGE_TOKENS), QUESTION)),
            model.cfg.n_layers * model.cfg.n_heads,
        )
        for n in sorted({*(n for n in HEADS if n < every), every}):
            yield from _generations(model, inputs, n, rounds, along="heads", size=n)
    if "strips" in along:
        for n in STRIPS + MANY_STRIPS * largest:
            yield _point("strips", "discovery", n, rounds=1, work=partial(_discover, model, _Strips(n)))
        for n in RUNS + MANY_RUNS * largest:
            yield from (Point("strips", *measurement) for measurement in bookkeeping.measure(model, n))


def _discover(model: gl.HookedVLM, strips: Sequence[gl.Picture]) -> None:
    gl.score_heads(model, strips, progress=False)


class _Strips(Sequence):
    """Strips that are made when they are indexed, as those of a folder are read then."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: Any) -> Any:
        indices = range(self.number)[index]
        return common.strip(96, seed=indices) if isinstance(indices, int) else [self[k] for k in indices]


def _image_tokens(model: gl.HookedVLM, n: int, rounds: int) -> Iterator[Point]:
    along, strip = "image tokens", common.strip(n)
    prepared = model.prepare(strip, QUESTION)
    yield _point(along, "preparing", n, rounds, lambda: model.prepare(strip, QUESTION))
    yield _point(along, "vision tower", n, rounds, lambda: model.encode(prepared))
    yield _point(along, "discovery", n, rounds, lambda: _discover(model, [strip]))
    inputs = model.encode(prepared)
    yield from _generation(model.generate, inputs, rounds, along, "plain", n)
    yield from _generations(model, inputs, STEERED, rounds, along=along, size=n)


def _point(along: str, subject: str, size: int, rounds: int, work: Callable[[], Any]) -> Point:
    seconds: list[float] = []
    megabytes = peak(lambda: seconds.append(common.seconds_of(work)))
    seconds += [common.seconds_of(work) for _ in range(rounds - 1)]
    return Point(along, subject, size, min(seconds), megabytes)


def _generations(
    model: gl.HookedVLM, inputs: gl.VLMInputs, n_heads: int, rounds: int, *, along: str, size: int
) -> Iterator[Point]:
    """Generation with steered heads, and with the same heads also tracked."""
    heads = gl.HeadSet(spread(model, n_heads))
    steered = gl.steer(heads, inputs.region("panel 4"))
    generate = partial(model.generate, fwd_hooks=steered)
    yield from _generation(generate, inputs, rounds, along, "steered", size)
    track = partial(gl.track, model, heads=heads, fwd_hooks=steered)
    yield from _generation(track, inputs, rounds, along, "tracked", size)


def _generation(
    generate: Callable[..., Any], inputs: gl.VLMInputs, rounds: int, along: str, name: str, size: int
) -> Iterator[Point]:
    """A point for the prefill, with the peak memory of the whole generation, and one for a decode step."""
    seconds: list[tuple[float, float]] = []
    work = partial(generate, inputs=inputs)
    megabytes = peak(lambda: seconds.append(phases(work)))
    seconds += [phases(work) for _ in range(rounds - 1)]
    prefill, decode = map(min, zip(*seconds, strict=True))
    yield Point(along, f"{name} prefill", size, prefill, megabytes)
    yield Point(along, f"{name} decode step", size, decode / STEPS)


def spread(model: gl.HookedVLM, n: int) -> list[tuple[int, int]]:
    """n heads in as many layers as possible."""
    cfg = model.cfg
    return [(layer, head) for head in range(cfg.n_heads) for layer in range(cfg.n_layers)][:n]


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the best straight line of log seconds on log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def bend(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float] | None:
    """(size, slope below, slope above) of the two joined lines that fit best; None if their slopes hardly differ."""
    x, y = np.log(sizes), np.log(seconds)
    fits = []
    for k in range(1, len(x) - 1):
        columns = np.stack([np.ones_like(x), x, np.maximum(x - x[k], 0)], axis=1)
        weights = np.linalg.lstsq(columns, y, rcond=None)[0]
        fits.append((float(((columns @ weights - y) ** 2).sum()), k, weights))
    if not fits:
        return None
    _, k, (_, below, more) = min(fits, key=lambda fit: fit[0])
    return None if abs(more) < STRAIGHT else (sizes[k], float(below), float(below + more))


def tables(points: Sequence[Point]) -> str:
    """Markdown: for image tokens, heads and strips a table with a row for each size, and one with the slopes."""
    parts = []
    for along in ALONG:
        by_subject = {}
        for point in points:
            if point.along == along:
                by_subject.setdefault(point.subject, {})[point.size] = point
        if by_subject:
            parts.append(f"## Along {along}\n\n{_sizes(along, by_subject)}\n{_slopes(by_subject)}")
    return "\n".join(parts)


def _sizes(along: str, by_subject: dict[str, dict[int, Point]]) -> str:
    sizes = sorted({size for by_size in by_subject.values() for size in by_size})
    rows = [[f"{size:,}", *(_in_words(by_size.get(size)) for by_size in by_subject.values())] for size in sizes]
    return common.markdown([along, *by_subject], rows)


def _slopes(by_subject: dict[str, dict[int, Point]]) -> str:
    rows = []
    for subject, by_size in by_subject.items():
        if len(by_size) > 1:
            sizes, seconds = zip(*((size, by_size[size].seconds) for size in sorted(by_size)), strict=True)
            corner = bend(sizes, seconds)
            text = "" if corner is None else "{1:.2f} up to {0:,}, {2:.2f} beyond".format(*corner)
            rows.append([subject, f"{slope(sizes, seconds):.2f}", text])
    return common.markdown(["", "slope", "with two lines"], rows)


def _in_words(point: Point | None) -> str:
    if point is None:
        return ""
    time = f"{point.seconds:.3g} s" if point.seconds >= 1 else f"{1000 * point.seconds:.3g} ms"
    return time if point.megabytes is None else f"{time}, {point.megabytes:,.0f} MB"


PAGE = """# How cost grows

Made by `{command}`; do not edit.

{machine}; {clock}. Size "{size}" of `benchmarks/common.py` ({shape}), random weights.
The tables show the time of the fastest of {rounds} rounds, and the peak of memory above what was held before. A slope
is that of log time on log size: 1 means twice the time for twice the size. If two joined lines fit better than one,
their slopes are given, and the size at which they meet.

- *Preparing* is `model.prepare`; *vision tower* is `model.encode`; *discovery* is `gl.score_heads` on a strip of six
  panels, with encoding the image.
- *Prefill* and *decode step* (one token) are parts of `model.generate` on an encoded image: *plain*; *steered* with
  `gl.steer` on {steered} heads, in as many layers as possible; *tracked* with `gl.track` as well.
- *Resuming a run*, *judging* and *figures* are the parts of `gl.evaluate` without the model, with {answers} answers
  for each strip.

{tables}"""


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the documentation's page, from what `--out` wrote."""
    points = [Point(**point) for point in results["points"]]
    size = common.SIZES[results["size"]]
    shape = f"{size.layers} layers of {size.heads} heads, {size.width} wide"
    clock = "the processor's clock" if results["machine"]["threads"] == 1 else "wall clock"
    path.write_text(
        PAGE.format(
            command=results["command"], machine=common.in_words(results["machine"]), clock=clock, size=results["size"],
            shape=shape, rounds=results["rounds"], steered=STEERED, answers=bookkeeping.ANSWERS,
            tables=tables(points),
        )
    )  # fmt: skip


def run() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=common.SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--largest", action="store_true", help="up to 8,064 image tokens and 10,000 strips")
    parser.add_argument("--along", nargs="+", choices=ALONG, default=ALONG)
    parser.add_argument("--out", type=Path, help="a JSON file, written after each point")
    parser.add_argument("--read", type=Path, nargs="+", help="JSON files of earlier runs, instead of a new run")
    parser.add_argument("--page", type=Path, help="a Markdown file to write")
    args = parser.parse_args()
    results = _join([json.loads(path.read_text()) for path in args.read]) if args.read else _measure(args)
    print(tables([Point(**point) for point in results["points"]]))  # noqa: T201
    if args.page:
        write_page(results, args.page)


def _join(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of several runs as one."""
    points = [point for run in runs for point in run["points"]]
    return {**runs[0], "points": points, "command": "` and `".join(run["command"] for run in runs)}


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run, and return what `--out` holds."""
    if args.device == "cpu":
        torch.set_num_threads(1)
    about = {name: getattr(args, name) for name in ("size", "device", "rounds", "largest", "along")}
    results = {"machine": common.machine(), "command": shlex.join(["python", *sys.argv]), **about, "points": []}
    for point in main(**about):
        results["points"].append(asdict(point))
        print(f"{point.along} {point.size:,}: {point.subject}: {_in_words(point)}", flush=True)  # noqa: T201
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    with torch.no_grad():
        run()
