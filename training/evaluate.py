"""Measure the documentation's figures on the embedded model: `python -m training.evaluate --out evaluation.json`.

Strips and scenes are made from seeds that training never uses; heads are scored on other strips than those steered.
Every share has a bootstrap interval over pictures. Without `--folder`, the checkpoint in the package is measured. 200
strips take about half an hour on one CPU core, 24 a few minutes. The file is written after each part; the same command
continues with the missing parts.
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

SEED = 1_000_000  # pictures are drawn from [SEED, picture]; those of training from [its seed, step]
Figures = dict[str, Any]


@dataclass(frozen=True)
class EvaluationSetup:
    """What is measured: a model, strips of six panels and scenes that are new to it, and scores of its heads."""

    model: HookedVLM
    strips: list[Picture]
    scenes: list[Picture]
    scores: HeadScores
    draws: int = 20
    batch_size: int = 120

    @classmethod
    def of(
        cls, model: HookedVLM, strips: int, draws: int = 20, *, seed: int = SEED, scored: int | None = None
    ) -> "EvaluationSetup":
        """`strips` new strips and half as many scenes. scored: the seed of the strips that heads are scored on."""
        pictures = comics.synthetic(strips, seed=seed)
        others = pictures if scored is None else comics.synthetic(strips, seed=scored)
        scores = score_heads(model, others, batch_size=8)
        return cls(model, pictures, comics.scenes(max(1, strips // 2), seed=seed), scores, draws)

    @property
    def first_strips(self) -> list[Picture]:
        """A tenth of the strips, for parts that are slow."""
        return self.strips[: max(1, len(self.strips) // 10)]

    @property
    def heads(self) -> HeadSet:
        """The heads that the demo steers."""
        return self.scores.top(HEADS)

    @property
    def counts(self) -> list[int]:
        """How many heads to steer."""
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
    """A share and its interval, for JSON."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def judge(texts: Sequence[Description], strips: Sequence[int]) -> Figures:
    """Forced choice and exact match of texts, each with its interval. strips: the strip's index of each text."""
    judges = {"forced choice": CaptionMatch(), "exact": ExactDescription()}
    judgements = {kind: each.judge_all(texts, progress=False) for kind, each in judges.items()}
    return {kind: share(mean([each.correct for each in several], strips)) for kind, several in judgements.items()}


def answering(setup: EvaluationSetup) -> Figures:
    """Unsteered: questions about the k-th panel, a narration in order, and the open question."""
    return {
        "k-th panel": setup.evaluated(setup.strips, Condition("none"), asking()),
        "narration in order": narrate(setup),
        "open question, unsteered, every panel as target": setup.steered(None),
    }


def narrate(setup: EvaluationSetup) -> Figures:
    """The sentences of a narration in order, each judged by its panel's caption, without markers ("Panel 2:")."""
    texts, strips = [], []
    for start in range(0, len(setup.strips), setup.batch_size):
        group = setup.strips[start : start + setup.batch_size]
        inputs = setup.model.encode(setup.model.prepare(group, comics.NARRATE))
        narrations = setup.model.generate(inputs, max_new_tokens=100).texts
        for index, (picture, text) in enumerate(zip(group, narrations, strict=True), start):
            pieces = [without_marker(piece) + "." for piece in text.split(".") if piece.strip()]
            texts += descriptions(picture, list(picture.regions), pieces)
            strips += [index] * len(picture.regions)
    return judge(texts, strips)


def descriptions(picture: Picture, order: Sequence[str], pieces: Sequence[str]) -> list[Description]:
    """The pieces of a narration, each with the region that it should describe; a missing piece is an empty text."""
    padded = [*pieces, *[""] * len(order)]
    return [Description(piece, name, picture) for name, piece in zip(order, padded, strict=False)]


def without_marker(piece: str) -> str:
    """ "Panel 2: red ring above blue bar." without its first two words."""
    return piece.split(":")[-1].strip()


def best_heads(setup: EvaluationSetup) -> Figures:
    """The best heads, and how many have a score above 0.1."""
    scores = setup.scores
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


def curve(setup: EvaluationSetup) -> Figures:
    """Steering 1, 2, 3 ... heads in the paper's mode, on all strips."""
    return {str(k): setup.steered(setup.scores.top(k)) for k in setup.counts}


def other_mode(mode: Mode) -> Callable[[EvaluationSetup], Figures]:
    """The same in another mode or strength, with up to six heads and with all heads, on a tenth of the strips."""

    def measure(setup: EvaluationSetup) -> Figures:
        counts = [k for k in setup.counts if k <= 6] + [setup.scores.score.numel()]
        return {str(k): setup.steered(setup.scores.top(k), mode=mode, pictures=setup.first_strips) for k in counts}

    return measure


def controls(setup: EvaluationSetup) -> Figures:
    """Steering the same number of random heads of the lower half, in several draws, and all heads."""
    count = len(setup.heads)
    draws = [setup.steered(setup.scores.controls(count, seed=i))["forced choice"] for i in range(setup.draws)]
    shares = [draw["value"] for draw in draws]
    everything = setup.steered(setup.scores.top(setup.scores.score.numel()))
    return {"random heads": {"mean": sum(shares) / len(shares), "draws": shares}, "all heads": everything}


def dynamic(prompt: str, *, on_all: bool = False) -> Callable[[EvaluationSetup], Figures]:
    """Narrations whose target changes after each panel, in a random order in which no panel has its own place."""

    def measure(setup: EvaluationSetup) -> Figures:
        texts, strips = [], []
        for index, picture in enumerate(setup.strips if on_all else setup.first_strips):
            order = random_order(picture, seed=index)
            _, _, pieces = switch_at_panel_ends(setup.model, picture, setup.heads, order, end=".", prompt=prompt)
            texts += descriptions(picture, order, [without_marker(piece) for piece in pieces])
            strips += [index] * len(order)
        return judge(texts, strips)

    return measure


def objects(setup: EvaluationSetup) -> Figures:
    """How often the answer names an object of a scene, steered to its box, with heads that were found on strips."""
    options = {"pictures": setup.scenes, "protocol": question(comics.ONE_THING, max_new_tokens=8)}
    return {str(k): setup.steered(setup.scores.top(k), **options)["exact"] for k in setup.counts}


PARTS: dict[str, Callable[[EvaluationSetup], Figures]] = {
    "answering": answering,
    "looking": best_heads,
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
    """Measure the parts that are not in the JSON file `out`, and write it after each. Slow parts use fewer strips.

    folder: a checkpoint of the embedded model.
    Raises InputError for an unknown part, and if the file holds figures of other weights or another number of strips.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"There is no part {unknown[0]!r} of the evaluation; there are {', '.join(PARTS)}.")
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    subject = {"weights": weights, "strips": strips, "heads steered": HEADS}
    figures: Figures = json.loads(out.read_text()) if out.exists() else subject
    if {name: figures.get(name) for name in subject} != subject:
        raise InputError(f"{out} holds figures of another evaluation, not of {subject}; move it away.")
    model = HookedVLM.from_pretrained(str(folder), device="cpu", dtype="float32")
    setup = EvaluationSetup.of(model, strips, scored=SEED + 1)
    for part in tqdm([part for part in parts if part not in figures], unit="part"):
        figures[part] = PARTS[part](setup)
        write_whole(out, json.dumps(figures, indent=1).encode())
    return figures


def main(
    out: Annotated[Path, typer.Option(help="The JSON file to write.")] = Path("evaluation.json"),
    folder: Annotated[Path, typer.Option(help="A checkpoint folder; by default the one in the package.")] = FOLDER,
    strips: Annotated[int, typer.Option(help="New strips to measure on.")] = 200,
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be given several times.")] = None,
) -> None:
    """Measure the embedded model and write the figures as JSON."""
    torch.set_flush_denormal(True)
    evaluate(folder, out, strips=strips, parts=part or tuple(PARTS))
    typer.echo(f"Written: {out}")


if __name__ == "__main__":
    typer.run(main)
