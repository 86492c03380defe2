"""How time and memory grow with image tokens, heads and strips, and the slopes of log time on log size.

    python benchmarks/growth.py                            # small model, some minutes on one core
    python benchmarks/growth.py --largest --out growth.json --page docs/howto/growth.md
    python benchmarks/growth.py --read growth.json --page docs/howto/growth.md     # the page again, nothing run
    python benchmarks/growth.py --along heads strips       # some of it

A slope of 1 is "twice as much, twice as long". The fastest of the rounds counts.
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
STEERED = 10  # heads, where image tokens grow
KEPT = 768  # image tokens, where heads grow
ASKED = "What is going on?"
ALONG = ("image tokens", "heads", "strips")
STRAIGHT = 0.3  # slopes that differ by less are one slope


@dataclass(frozen=True)
class Point:
    """What one size of one subject took. megabytes: at the peak, beyond what was there; None where it is not known."""

    along: str
    subject: str
    size: int
    seconds: float
    megabytes: float | None = None


def main(
    size: str = "small", device: str = "cpu", rounds: int = 2, largest: bool = False, along: Sequence[str] = ALONG
) -> Iterator[Point]:
    """All points, as they are measured; the largest sizes only where they are asked for."""
    model = gl.HookedVLM.wrap(*common.build(size, device=device))
    list(_image_tokens(model, TOKENS[0], rounds=1))  # what only a first time takes
    if "image tokens" in along:
        for n in TOKENS + MANY_TOKENS * largest:
            yield from _image_tokens(model, n, rounds if n in TOKENS else 1)
    if "heads" in along:
        inputs, every = model.encode(model.prepare(common.strip(KEPT), ASKED)), model.cfg.n_layers * model.cfg.n_heads
        for n in sorted({*(n for n in HEADS if n < every), every}):
            yield from _generations(model, inputs, n, rounds, along="heads", size=n)
    if "strips" in along:
        for n in STRIPS + MANY_STRIPS * largest:
            yield _point("strips", "discovery", n, rounds=1, work=partial(_discover, model, _Strips(n)))
        for n in RUNS + MANY_RUNS * largest:
            yield from (Point("strips", *found) for found in bookkeeping.measured(model, n))


def _discover(model: gl.HookedVLM, strips: Sequence[gl.Picture]) -> None:
    gl.score_heads(model, strips, progress=False)


class _Strips(Sequence):
    """Strips that are made when they are asked for, as those of a folder are read."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: Any) -> Any:
        chosen = range(self.number)[index]
        return common.strip(96, seed=chosen) if isinstance(chosen, int) else [self[k] for k in chosen]


def _image_tokens(model: gl.HookedVLM, n: int, rounds: int) -> Iterator[Point]:
    along, strip = "image tokens", common.strip(n)
    prepared = model.prepare(strip, ASKED)
    yield _point(along, "preparing", n, rounds, lambda: model.prepare(strip, ASKED))
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
    """Generation with heads steered, and with the same heads tracked as well."""
    heads = gl.HeadSet(spread(model, n_heads))
    steered = gl.steer(heads, inputs.region("panel 4"))
    generate = partial(model.generate, fwd_hooks=steered)
    yield from _generation(generate, inputs, rounds, along, "steered", size)
    track = partial(gl.track, model, heads=heads, fwd_hooks=steered)
    yield from _generation(track, inputs, rounds, along, "tracked", size)


def _generation(
    generate: Callable[..., Any], inputs: gl.VLMInputs, rounds: int, along: str, name: str, size: int
) -> Iterator[Point]:
    """A point for its prefill, with the memory of all of it, and one for a decode step."""
    found: list[tuple[float, float]] = []
    work = partial(generate, inputs=inputs)
    megabytes = peak(lambda: found.append(phases(work)))
    found += [phases(work) for _ in range(rounds - 1)]
    prefill, decode = map(min, zip(*found, strict=True))
    yield Point(along, f"{name} prefill", size, prefill, megabytes)
    yield Point(along, f"{name} decode step", size, decode / STEPS)


def spread(model: gl.HookedVLM, n: int) -> list[tuple[int, int]]:
    """So many heads, in as many layers as can be."""
    cfg = model.cfg
    return [(layer, head) for head in range(cfg.n_heads) for layer in range(cfg.n_layers)][:n]


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Of the straight line through log seconds on log size that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def bend(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float] | None:
    """(size, slope below, slope above) of the two joined lines that fit best; None where one is as good."""
    x, y = np.log(sizes), np.log(seconds)
    fits = []
    for k in range(1, len(x) - 1):
        columns = np.stack([np.ones_like(x), x, np.maximum(x - x[k], 0)], axis=1)
        found = np.linalg.lstsq(columns, y, rcond=None)[0]
        fits.append((float(((columns @ found - y) ** 2).sum()), k, found))
    if not fits:
        return None
    _, k, (_, below, more) = min(fits, key=lambda fit: fit[0])
    return None if abs(more) < STRAIGHT else (sizes[k], float(below), float(below + more))


def tables(points: Sequence[Point]) -> str:
    """Markdown: for what grows, a table with a row for each size, and two with the slopes."""
    parts = []
    for along in ALONG:
        of_it = {}
        for point in points:
            if point.along == along:
                of_it.setdefault(point.subject, {})[point.size] = point
        if of_it:
            parts.append(f"## Along {along}\n\n{_sizes(along, of_it)}\n{_slopes(of_it)}")
    return "\n".join(parts)


def _sizes(along: str, of_it: dict[str, dict[int, Point]]) -> str:
    sizes = sorted({size for by_size in of_it.values() for size in by_size})
    rows = [[f"{size:,}", *(_shown(by_size.get(size)) for by_size in of_it.values())] for size in sizes]
    return common.markdown([along, *of_it], rows)


def _slopes(of_it: dict[str, dict[int, Point]]) -> str:
    rows = []
    for subject, by_size in of_it.items():
        if len(by_size) > 1:
            sizes, seconds = zip(*((size, by_size[size].seconds) for size in sorted(by_size)), strict=True)
            found = bend(sizes, seconds)
            told = "" if found is None else "{1:.2f} up to {0:,}, {2:.2f} beyond".format(*found)
            rows.append([subject, f"{slope(sizes, seconds):.2f}", told])
    return common.markdown(["", "slope", "where it bends"], rows)


def _shown(point: Point | None) -> str:
    if point is None:
        return ""
    time = f"{point.seconds:.3g} s" if point.seconds >= 1 else f"{1000 * point.seconds:.3g} ms"
    return time if point.megabytes is None else f"{time}, {point.megabytes:,.0f} MB"


PAGE = """# How cost grows

Made by `{command}`; do not edit.

{machine}; {clock}. Size "{size}" of `benchmarks/common.py` ({shape}), random weights.
Of each, the fastest of {rounds} rounds, and the most memory beyond what was held before. A slope of 1 means twice as
long for twice as much; where two joined lines fit better than one, it is said where they meet.

- *Preparing* is `model.prepare`; *vision tower* is `model.encode`; *discovery* is `gl.score_heads` on a strip of six
  panels, image and all.
- *Prefill* and *decode step* (one token) are parts of `model.generate` on an encoded image: plain, with `gl.steer` on
  {steered} heads in as many layers as can be, and with `gl.track` beside it.
- *Going on with a run*, *judging* and *figures* are what `gl.evaluate` does beside the model, with {answers} answers
  for each strip.

{tables}"""


def write_page(told: dict[str, Any], path: Path) -> None:
    """The documentation's page, from what `--out` wrote."""
    points = [Point(**point) for point in told["points"]]
    shape = common.SIZES[told["size"]]
    described = f"{shape.layers} layers of {shape.heads} heads, {shape.width} wide"
    clock = "the processor's clock" if told["machine"]["threads"] == 1 else "wall clock"
    path.write_text(
        PAGE.format(
            command=told["command"], machine=common.named(told["machine"]), clock=clock, size=told["size"],
            shape=described, rounds=told["rounds"], steered=STEERED, answers=bookkeeping.ANSWERS,
            tables=tables(points),
        )
    )  # fmt: skip


def run() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=common.SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--largest", action="store_true", help="up to 8,064 image tokens and 10,000 strips")
    parser.add_argument("--along", nargs="+", choices=ALONG, default=ALONG)
    parser.add_argument("--out", type=Path, help="a JSON file, written as it goes")
    parser.add_argument("--read", type=Path, nargs="+", help="JSON files of earlier runs, in place of a run")
    parser.add_argument("--page", type=Path, help="a Markdown file to write")
    given = parser.parse_args()
    told = _joined([json.loads(path.read_text()) for path in given.read]) if given.read else _told(given)
    print(tables([Point(**point) for point in told["points"]]))  # noqa: T201
    if given.page:
        write_page(told, given.page)


def _joined(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Runs of several parts as one."""
    points = [point for told in several for point in told["points"]]
    return {**several[0], "points": points, "command": "` and `".join(told["command"] for told in several)}


def _told(given: argparse.Namespace) -> dict[str, Any]:
    """Run, and what `--out` holds."""
    if given.device == "cpu":
        torch.set_num_threads(1)
    about = {name: getattr(given, name) for name in ("size", "device", "rounds", "largest", "along")}
    told = {"machine": common.machine(), "command": shlex.join(["python", *sys.argv]), **about, "points": []}
    for point in main(**about):
        told["points"].append(asdict(point))
        print(f"{point.along} {point.size:,}: {point.subject}: {_shown(point)}", flush=True)  # noqa: T201
        if given.out:
            given.out.write_text(json.dumps(told, indent=1) + "\n")
    return told


if __name__ == "__main__":
    with torch.no_grad():
        run()
