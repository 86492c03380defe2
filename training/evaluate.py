"""Measure what the documentation claims about the embedded model: `python -m training.evaluate --out evaluation.json`.

Strips and scenes come from seeds that training never uses. Every share has a bootstrap interval over pictures.
Without `--folder`, the shipped checkpoint is measured. 200 strips take about half an hour on one CPU core, 24 a few
minutes. The file is written after each part; the same command continues with the missing parts.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, Protocol, asking, question, random_order, switch_at_panel_ends
from gaze_lens.evaluation.judges import CaptionMatch, Description, ExactDescription
from gaze_lens.evaluation.statistics import Estimate, mean
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.interventions.steering import Mode, boost_and_suppress, max_suppress_all, suppress_all, suppress_image
from gaze_lens.model.hooked_vlm import HookedVLM
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.files import write_whole
from gaze_lens.scoring.gaze_score import score_heads
from gaze_lens.tiny import FOLDER, HEADS

SEED = 1_000_000  # training draws its pictures from [seed, step], far from [SEED, picture]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What the figures are measured on: a model, unseen strips of six panels and scenes, and the gaze heads found."""

    model: HookedVLM
    strips: list[Picture]
    scenes: list[Picture]
    scores: HeadScores
    draws: int = 20
    batch_size: int = 120

    @classmethod
    def of(cls, model: HookedVLM, strips: int, draws: int = 20, *, seed: int = SEED) -> "Bench":
        """`strips` unseen strips, and half as many scenes."""
        pictures = comics.synthetic(strips, seed=seed)
        scores = score_heads(model, pictures, batch_size=8)
        return cls(model, pictures, comics.scenes(max(1, strips // 2), seed=seed), scores, draws)

    @property
    def few(self) -> list[Picture]:
        """Some of the strips, for what is slow and not judged."""
        return self.strips[: max(1, len(self.strips) // 10)]

    @property
    def heads(self) -> HeadSet:
        """The few heads that the demo steers with."""
        return self.scores.top(HEADS)

    @property
    def counts(self) -> list[int]:
        """Numbers of heads to steer with."""
        return [k for k in (1, 2, 3, 4, 5, 6, 8, 12) if k <= self.scores.score.numel()]

    def steered(
        self,
        heads: HeadSet | None,
        *,
        pictures: Sequence[Picture] | None = None,
        mode: Mode | None = None,
        protocol: Protocol | None = None,
    ) -> Figures:
        """One question, the open one by default, steered to each region of each picture."""
        condition = Condition("steered" if heads else "none", heads, mode or boost_and_suppress())
        return self.evaluated(self.strips if pictures is None else pictures, condition, protocol or question())

    def evaluated(self, pictures: Sequence[Picture], condition: Condition, protocol: Protocol) -> Figures:
        """Forced choice and exact match of the answers in one condition, each with its interval."""
        options = {"protocol": protocol, "batch_size": self.batch_size, "progress": False}
        results = gl.evaluate(self.model, pictures, [condition], **options)
        exact = gl.rejudge(results.generations, ExactDescription(), progress=False)
        name = condition.name
        return {"forced choice": share(results.accuracy(name)), "exact": share(exact.accuracy(name))}


def share(estimate: Estimate) -> Figures:
    """A share with its interval, for JSON."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def both(texts: Sequence[Description], strips: Sequence[int]) -> Figures:
    """Forced choice and exact match of texts, each with its interval. strips: the index of each text's strip."""
    judges = {"forced choice": CaptionMatch(), "exact": ExactDescription()}
    judgements = {kind: judge.judge_all(texts, progress=False) for kind, judge in judges.items()}
    return {kind: share(mean([one.correct for one in found], strips)) for kind, found in judgements.items()}


def answering(bench: Bench) -> Figures:
    """Unsteered: questions about the k-th panel, a narration in order, and the open question."""
    return {
        "k-th panel": bench.evaluated(bench.strips, Condition("none"), asking()),
        "narration in order": narrate(bench),
        "open question, unsteered, every panel as target": bench.steered(None),
    }


def narrate(bench: Bench) -> Figures:
    """Each panel's sentence of the narration in order against its caption; markers ("Panel 2:") are cut off."""
    texts, strips = [], []
    for start in range(0, len(bench.strips), bench.batch_size):
        group = bench.strips[start : start + bench.batch_size]
        inputs = bench.model.encode(bench.model.prepare(group, comics.NARRATE))
        narrations = bench.model.generate(inputs, max_new_tokens=100).texts
        for index, (picture, text) in enumerate(zip(group, narrations, strict=True), start):
            pieces = [without_marker(piece) + "." for piece in text.split(".") if piece.strip()]
            texts += described(picture, list(picture.regions), pieces)
            strips += [index] * len(picture.regions)
    return both(texts, strips)


def described(picture: Picture, order: Sequence[str], pieces: Sequence[str]) -> list[Description]:
    """The pieces of a narration, each with the region that it should describe; a missing piece is an empty text."""
    padded = [*pieces, *[""] * len(order)]
    return [Description(piece, name, picture) for name, piece in zip(order, padded, strict=False)]


def without_marker(piece: str) -> str:
    """ "Panel 2: red ring above blue bar." without its first two words."""
    return piece.split(":")[-1].strip()


def looking(bench: Bench) -> Figures:
    """The best heads, and how many look at all."""
    scores = bench.scores
    low, high = scores.interval("contrast")
    best = [
        {
            "head": str(head),
            "score": float(scores.score[head.layer, head.head]),
            "contrast": float(scores.contrast[head.layer, head.head]),
            "contrast interval": [float(low[head.layer, head.head]), float(high[head.layer, head.head])],
        }
        for head in scores.ranked()[:12]
    ]
    return {"heads": scores.score.numel(), "above 0.1": int((scores.score > 0.1).sum()), "best": best}


def curve(bench: Bench) -> Figures:
    """Steering against the number of heads, in the paper's mode, on all strips."""
    return {str(k): bench.steered(bench.scores.top(k)) for k in bench.counts}


def other_mode(mode: Mode) -> Callable[[Bench], Figures]:
    """The same in another mode or strength, up to six heads and with all of them, on a few strips."""

    def measure(bench: Bench) -> Figures:
        counts = [k for k in bench.counts if k <= 6] + [bench.scores.score.numel()]
        return {str(k): bench.steered(bench.scores.top(k), mode=mode, pictures=bench.few) for k in counts}

    return measure


def controls(bench: Bench) -> Figures:
    """As many random heads of the lower half, several draws; all heads."""
    count = len(bench.heads)
    drawn = [bench.steered(bench.scores.controls(count, seed=i))["forced choice"] for i in range(bench.draws)]
    shares = [found["value"] for found in drawn]
    everything = bench.steered(bench.scores.top(bench.scores.score.numel()))
    return {"random heads": {"mean": sum(shares) / len(shares), "draws": shares}, "all heads": everything}


def dynamic(prompt: str, *, on_all: bool = False) -> Callable[[Bench], Figures]:
    """The target switched at panel ends, in a random order in which none keeps its place."""

    def measure(bench: Bench) -> Figures:
        texts, strips = [], []
        for index, picture in enumerate(bench.strips if on_all else bench.few):
            order = random_order(picture, seed=index)
            _, _, pieces = switch_at_panel_ends(bench.model, picture, bench.heads, order, end=".", prompt=prompt)
            texts += described(picture, order, [without_marker(piece) for piece in pieces])
            strips += [index] * len(order)
        return both(texts, strips)

    return measure


def objects(bench: Bench) -> Figures:
    """A box around every object of a scene in turn: does the answer name it? With heads found on the strips."""
    options = {"pictures": bench.scenes, "protocol": question(comics.ONE_THING, max_new_tokens=8)}
    return {str(k): bench.steered(bench.scores.top(k), **options)["exact"] for k in bench.counts}


PARTS: dict[str, Callable[[Bench], Figures]] = {
    "answering": answering,
    "looking": looking,
    "steering, boost 10000": curve,
    "controls": controls,
    "objects": objects,
    f"dynamic, {comics.NARRATE_ANY_ORDER}": dynamic(comics.NARRATE_ANY_ORDER, on_all=True),
    f"dynamic, {comics.NARRATE_FREELY}": dynamic(comics.NARRATE_FREELY),
    f"dynamic, {comics.NARRATE}": dynamic(comics.NARRATE),
    "steering, suppress image": other_mode(suppress_image()),
    "steering, suppress all": other_mode(suppress_all()),
    "steering, max suppress all": other_mode(max_suppress_all()),
    "steering, boost 1": other_mode(boost_and_suppress(1)),
    "steering, boost 3": other_mode(boost_and_suppress(3)),
    "steering, boost 10": other_mode(boost_and_suppress(10)),
}


def evaluate(folder: Path, out: Path, *, strips: int = 200, parts: Sequence[str] = tuple(PARTS)) -> Figures:
    """Measure the parts that the JSON file `out` lacks, and write it after each. Slow parts are on fewer strips.

    folder: a checkpoint of the embedded model.
    Raises InputError for an unknown part, and where the file holds figures of other weights or of another number of
    strips.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"There is no part {unknown[0]!r} of the evaluation; there are {', '.join(PARTS)}.")
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    subject = {"weights": weights, "strips": strips, "heads steered": HEADS}
    figures: Figures = json.loads(out.read_text()) if out.exists() else subject
    if {name: figures.get(name) for name in subject} != subject:
        raise InputError(f"{out} holds figures of another evaluation, not of {subject}; move it away.")
    bench = Bench.of(HookedVLM.from_pretrained(str(folder), device="cpu", dtype="float32"), strips)
    for part in tqdm([part for part in parts if part not in figures], unit="part"):
        figures[part] = PARTS[part](bench)
        write_whole(out, json.dumps(figures, indent=1).encode())
    return figures


def main(
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("evaluation.json"),
    folder: Annotated[Path, typer.Option(help="A checkpoint folder; the shipped one unless given.")] = FOLDER,
    strips: Annotated[int, typer.Option(help="Unseen strips to measure on.")] = 200,
    part: Annotated[list[str] | None, typer.Option(help="Measure this part only; may be given several times.")] = None,
) -> None:
    """Measure the embedded model and write the figures as JSON."""
    torch.set_flush_denormal(True)
    evaluate(folder, out, strips=strips, parts=part or tuple(PARTS))
    typer.echo(f"Written: {out}")


if __name__ == "__main__":
    typer.run(main)
