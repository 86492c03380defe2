"""Which of the paper's claims hold on other small models: `python -m training.zoo --out DIR`.

Every member is trained like the embedded model, on the same pictures in the same phases, and differs from it in one
thing: its size, its architecture, or whether its vision tower is trained with the rest. Then its heads are scored and
steered, with controls, as in `training.evaluate`.

A member takes three quarters of an hour to two and a half hours on one CPU core, or minutes on a GPU. `DIR/MEMBER`
holds its states, log, checkpoint, scores and figures. If the command is stopped, the same command continues and repeats
nothing. At the end, or with `--report` at any time, it writes `table.md`, `maps.png` and `steering.png` into `DIR`,
from the members' `figures.json` alone.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from gaze_lens import comics
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.model.hooked_vlm import HookedVLM
from gaze_lens.runs.files import write_whole
from gaze_lens.scoring.gaze_score import score_heads
from training.evaluate import SEED, EvaluationSetup, answering, best_heads
from training.llava import LLAVA
from training.phases import PHASES
from training.qwen3_vl import QWEN3_VL
from training.recipe import Architecture, Size
from training.train import Trainer, train
from training.zoo_report import write_report

MOST = 0.09  # of all heads: about the share that the paper steers
DRAWS = 5  # sets of random heads


@dataclass(frozen=True)
class Member:
    """A model of the zoo.

    what: how it differs from the embedded model.
    frozen: its vision tower is trained in the phase "vision" only; the projector is trained in all.
    pretrained: False leaves the phase "vision" out, so that a frozen tower keeps its random weights.
    penalty: False trains without the image-attention penalty.
    """

    what: str
    size: Size = Size()
    architecture: Architecture = QWEN3_VL
    frozen: bool = False
    pretrained: bool = True
    penalty: bool = True

    def trainer(self, seed: int, device: str) -> Trainer:
        """A trainer for it, before the first step."""
        phases = PHASES if self.pretrained else tuple(phase for phase in PHASES if phase.rate)
        if not self.penalty:
            phases = tuple(replace(phase, image_penalty=0.0) for phase in phases)
        return Trainer(
            seed=seed, device=device, size=self.size, phases=phases, architecture=self.architecture, frozen=self.frozen
        )


MEMBERS = {
    "base": Member("the embedded model's own recipe"),
    "small": Member("narrower, 4 layers", Size(width=96, layers=4, heads=8, mlp=288)),
    "large": Member("wider, 8 layers", Size(width=192, layers=8, mlp=576)),
    "llava": Member("LLaVA: Pixtral tower, projector, Llama decoder", Size(width=132), LLAVA),
    "frozen": Member("vision tower pretrained, then frozen", frozen=True),
    "random tower": Member("vision tower random and frozen", frozen=True, pretrained=False),
    "free": Member("without the image-attention penalty", penalty=False),
}


def measure(folder: Path, *, strips: int) -> dict[str, Any]:
    """All figures of one member that the report uses, from its checkpoint; its scores are kept beside that."""
    model = HookedVLM.from_pretrained(str(folder), device="cpu", dtype="float32")
    figures, scores = measure_model(model, strips=strips)
    scores.save(folder.parent / "scores.safetensors")
    return figures


def measure_model(model: HookedVLM, *, strips: int, most: float | None = None) -> tuple[dict[str, Any], HeadScores]:
    """Figures of a model, and the scores that its heads were chosen by.

    Heads are found on the same number of other strips. The number of heads to steer is selected on these, too: the one
    that does best there, up to a share of `most`, by default `MOST`. Controls have the same number of heads.
    """
    selection = EvaluationSetup.of(model, strips, seed=SEED + 1)
    test, scores = replace(selection, strips=comics.synthetic(strips, seed=SEED)), selection.scores
    n_heads = scores.score.numel()
    counts = [k for k in selection.counts if k <= max(1, int((MOST if most is None else most) * n_heads))]
    selected = {k: selection.steered(scores.top(k))["forced choice"]["value"] for k in counts}
    best = max(counts, key=selected.__getitem__)
    random = [test.steered(scores.controls(best, seed=seed)) for seed in range(DRAWS)]
    figures = {
        "strips": strips,
        "parameters": sum(parameter.numel() for parameter in model.original_model.parameters()),
        "answering": answering(test),
        "looking": best_heads(test),
        "contrast": [[round(value, 4) for value in layer] for layer in scores.contrast.tolist()],
        "verdict": verdict_figures(scores),
        "verdict at the answer": verdict_figures(score_heads(model, selection.strips, at="answer", batch_size=8)),
        "selection": selected,
        "steering": {k: test.steered(scores.top(k)) for k in counts},
        "best": best,
        "random": sum(draw["forced choice"]["value"] for draw in random) / DRAWS,
        "all": test.steered(scores.top(n_heads)),
    }
    return figures, scores


def verdict_figures(scores: HeadScores) -> dict[str, Any]:
    """The verdict on the scores, and the largest contrast."""
    verdict, largest = scores.verdict(), float(scores.contrast.max())
    heads = [str(head) for head in verdict.heads]
    return {"heads": heads, "share": verdict.share, "effective": verdict.effective, "contrast": largest}


def train_member(name: str, out: Path, *, seed: int, device: str, strips: int) -> None:
    """Train a member and measure it, or continue that; a member that has figures is left as it is."""
    folder = out / name
    if (folder / "figures.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    typer.echo(f"{name}: {MEMBERS[name].what}")
    if not (folder / "checkpoint" / "model.safetensors").exists():
        trainer = MEMBERS[name].trainer(seed, device)
        train(trainer, folder)
        trainer.export(folder / "checkpoint")
    figures = measure(folder / "checkpoint", strips=strips) | {"seed": seed}
    write_whole(folder / "figures.json", json.dumps(figures, indent=1).encode())


def main(
    out: Annotated[Path, typer.Option(help="Folder for the members and the report.")],
    member: Annotated[
        list[str] | None, typer.Option(help=f"Only this member; may be given several times: {', '.join(MEMBERS)}.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and pictures.")] = 0,
    device: Annotated[str, typer.Option(help="Where to train: cpu or cuda.")] = "cpu",
    strips: Annotated[int, typer.Option(help="New strips to measure on.")] = 60,
    report: Annotated[bool, typer.Option(help="Only write the report, on the members that have figures.")] = False,
) -> None:
    """Train small models that differ in one thing each, and measure what holds on them."""
    torch.set_flush_denormal(True)  # denormal numbers are many times slower on CPUs
    unknown = [name for name in member or () if name not in MEMBERS]
    if unknown:
        raise typer.BadParameter(f"there is no member {unknown[0]!r}; there are {', '.join(MEMBERS)}")
    if not report:
        for name in member or MEMBERS:
            train_member(name, out, seed=seed, device=device, strips=strips)
    for path in write_report(out, MEMBERS):
        typer.echo(f"Written: {path}")


if __name__ == "__main__":
    typer.run(main)
