"""Train the embedded model from a seed: `python -m training.train --out DIR --seed 0`.

1. "vision": the vision tower alone, with throw-away linear classifiers, until every image token tells what its panel
   (or its scene's cell) shows. Without this the loss stays at chance for long. It stays as an auxiliary loss.
2. "learn": everything, on questions and narrations (`data.py`), strips of up to six panels.
3. "gather": up to eight panels, more kinds of narration, and a higher price on looking.
4. "settle" and three times "practise": without the price, at rates that fall.
5. "narrate": the same, with more narrations in an order of the model's own.

Looking has a small price: a head pays for the attention that it gives to the image while it reads a question or
answers, about for the maximum over positions, so that a head pays once for looking at all; a price for the mean leaves
heads that look at single words only, and steering breaks the text. The price is concave: a few heads that look are
cheaper than many that look a little. And it is higher in later layers: what is read early can still be worked on,
whereas what a last layer reads is said, wanted or not. Nothing steers or labels heads in training; which head looks
where is the model's own affair. Practice without a price then makes steering work. On 24 strips, the best few heads
steered 83, 94, 99 and 96 % of answers after "settle" and each practice on one processor, and on another, which rounds
differently and made another model from the same seed, 92 and 94 % after the last two, with 76 and 91 % exact. What
differed most was a target that is switched in the middle of a narration: 82 % of panels as scheduled on the one, 61 to
72 % on the other, whose best head sits a layer earlier. After "narrate" these are 84 to 96 %.

An hour and a half on one CPU core. `DIR/state.pt` is written every 100 steps; the same command goes on from
it. `DIR/log.jsonl` has one line per 25 steps. At the end `DIR/checkpoint` holds the model and `DIR/evaluation.json` its
figures. On Linux, MALLOC_MMAP_MAX_=0 MALLOC_TOP_PAD_=500000000 in the environment makes it a fifth faster.
"""

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from gaze_lens.runs.files import write_whole
from training.batches import GRID, IGNORE, Batch, Frame, scene_batch, strip_batch
from training.packed_forward import read, use_packed_attention, use_plain_attention
from training.qwen3_vl import QWEN3_VL
from training.recipe import Architecture, Size

AUXILIARY = 0.2  # weight of the classifiers' loss once everything trains
WARM_UP = 100  # steps, in each phase


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    rate, adam_rate: Muon's for the layers' matrices (0: AdamW for all), and AdamW's for the rest; both fall along a
    cosine to `end` times what they were. looking: the price of looking; power: of the mean over positions (1: the
    plain mean; 8: about the maximum). asked, narrated, scenes: rows of each micro-batch of a step. panels: the odds
    that a strip has one, two, ... panels. questions, stories: what is asked of the strips (see `data.strip_batch`).
    """

    name: str
    steps: int
    rate: float
    adam_rate: float
    end: float
    looking: float = 0.0
    power: int = 1
    asked: int = 12
    narrated: int = 8
    scenes: int = 8
    panels: tuple[int, ...] = (1, 1, 2, 2, 2, 4, 1, 1)
    questions: tuple[str, ...] = ("ask", "ask", "ask", "ask", "open", "this")
    stories: tuple[str, ...] = ("in order", "any order", "freely")


EARLY = {
    "asked": 16,
    "narrated": 12,
    "scenes": 12,
    "panels": (1, 1, 2, 2, 3, 4),
    "questions": ("ask", "ask", "ask", "open wide", "this"),
    "stories": ("in order", "any order", "open wide"),
}
FREE = ("any order", "freely", "any order")
PHASES = (
    Phase("vision", 1000, 0.0, 3e-3, end=1.0, **EARLY),
    Phase("learn", 750, 4e-3, 3e-3, end=0.5, looking=0.004, power=4, **EARLY),
    Phase("gather", 250, 3e-3, 2e-3, end=0.85, looking=0.01, power=8),
    Phase("settle", 350, 1.5e-3, 1e-3, end=0.02),
    Phase("practise", 500, 2.5e-3, 1.5e-3, end=0.02),
    Phase("practise", 600, 2.5e-3, 1.5e-3, end=0.02),
    Phase("practise", 600, 2.5e-3, 1.5e-3, end=0.02),
    Phase("narrate", 400, 2.5e-3, 1.5e-3, end=0.02, asked=6, narrated=20, scenes=4, stories=FREE),
)


def draw(
    rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, phase: Phase, frame: Frame = GRID
) -> dict[str, Batch]:
    """The micro-batches of one step."""
    odds = np.array(phase.panels) / sum(phase.panels)
    asked, told = (1 + int(rng.choice(len(odds), p=odds)) for _ in range(2))
    shape = (int(rng.integers(1, 4)), int(rng.integers(2, 4))) if rng.random() < 0.3 else (3, 3)
    return {
        "ask": strip_batch(rng, tokenizer, phase.asked, asked, phase.questions, frame),
        "narrate": strip_batch(rng, tokenizer, phase.narrated, told, phase.stories, frame),
        "scene": scene_batch(rng, tokenizer, phase.scenes, shape, ("place", "place", "place", "one", "list"), frame),
    }


def facts_loss(classifier: nn.Linear, tokens: Tensor, facts: Tensor) -> Tensor:
    """Cross-entropy of reading each token's six facts off its direction, mean over those that hold."""
    direction = F.rms_norm(tokens.float(), tokens.shape[-1:])
    return F.cross_entropy(classifier(direction).float().view(-1, 8), facts.flatten(), ignore_index=IGNORE)


def price_of(looks: Tensor, power: int) -> Tensor:
    """What looking costs, from attention mass [layer, head, position]: a square root of each head's power mean.

    In the first half of the layers it costs that; in the layer behind them four times, in the others eight times.
    """
    head = looks.float().clamp(min=1e-4).pow(power).mean(-1).pow(1 / power)
    n_early = len(looks) // 2
    late = torch.tensor([1.0] * n_early + [4.0] + [8.0] * (len(looks) - n_early - 1), device=looks.device)
    return ((head + 0.01).sqrt() * late[:, None]).sum()


class Trainer:
    """A model in training: `step()` until `phase` is None; `state()` and `load()` make it resumable.

    frozen: let the vision tower, but not what projects to the language model, stay as the phases of rate 0 leave it.
    """

    def __init__(
        self,
        *,
        seed: int,
        device: str = "cpu",
        size: Size | None = None,
        phases: tuple[Phase, ...] = PHASES,
        architecture: Architecture = QWEN3_VL,
        frozen: bool = False,
    ):
        size = size or Size()
        self.seed, self.device, self.phases, self.at = seed, device, phases, 0
        self.architecture, self.frozen = architecture, frozen
        self.model, self.processor = architecture.build(size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = nn.Linear(size.width, 6 * 8)
        self.model.to(device).train()
        self.classifier.to(device)
        use_packed_attention(self.model)
        self.optimizers = self.make_optimizers()

    @property
    def begun(self) -> list[int]:
        """The step at which each phase begins, and the end."""
        return np.cumsum([0, *[phase.steps for phase in self.phases]]).tolist()

    @property
    def phase(self) -> Phase | None:
        """The phase of the next step; None at the end."""
        ends = self.begun[1:]
        return next((phase for phase, end in zip(self.phases, ends, strict=True) if self.at < end), None)

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the layers' matrices, AdamW for embeddings, norms, biases and classifiers; new in each phase."""
        phase = self.phase or self.phases[-1]
        if self.frozen and phase.rate:
            for parameter in self.architecture.tower(self.model):
                parameter.requires_grad_(False)
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        chosen = [p for n, p in named.items() if p.ndim == 2 and "embed" not in n] if phase.rate else []
        others = {id(p) for p in chosen}
        rest = [p for p in [*named.values(), *self.classifier.parameters()] if id(p) not in others]
        found: list[Any] = [torch.optim.AdamW(rest, lr=phase.adam_rate, betas=(0.9, 0.98), weight_decay=0.01)]
        if chosen:
            adjust = "match_rms_adamw"  # rates like AdamW's
            found.append(torch.optim.Muon(chosen, lr=phase.rate, weight_decay=0.05, adjust_lr_fn=adjust))
        return found

    def set_rates(self, phase: Phase) -> None:
        """Warm-up, then a cosine down to the phase's end."""
        since = self.at - max(begun for begun in self.begun if begun <= self.at)  # phases may be alike
        falling = phase.end + (1 - phase.end) * (1 + math.cos(math.pi * since / phase.steps)) / 2
        for optimizer, rate in zip(self.optimizers, (phase.adam_rate, phase.rate), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * falling * min(1.0, (since + 1) / WARM_UP)

    def loss(self, batch: Batch, phase: Phase) -> tuple[Tensor, dict[str, float]]:
        """The loss of one micro-batch, and figures for the log."""
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            if not phase.rate:
                tokens = self.architecture.look(self.model, batch.pixels)[0]
            else:
                logits, tokens, looks = read(self.architecture, self.model, batch)
        facts = facts_loss(self.classifier, tokens, batch.facts)
        if not phase.rate:
            return facts, {"facts": facts.item()}
        told = F.cross_entropy(logits.float(), batch.labels[batch.labels != IGNORE])
        price = price_of(looks, phase.power)
        figures = {"facts": facts.item(), "told": told.item(), "price": price.item()}
        return told + AUXILIARY * facts + phase.looking * price, figures

    def step(self) -> dict[str, float]:
        """One update; the pictures of step n depend on the seed and n alone."""
        phase = self.phase
        if phase is None:
            raise StopIteration
        if self.at in self.begun:
            self.optimizers = self.make_optimizers()
        self.set_rates(phase)
        rng = np.random.default_rng([self.seed, self.at])
        record: dict[str, float] = {}
        for kind, batch in draw(rng, self.processor.tokenizer, phase, self.architecture.frame).items():
            loss, figures = self.loss(batch.to(self.device), phase)
            loss.backward()
            record |= {f"{kind} {name}": value for name, value in figures.items()}
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.classifier.parameters()], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.at += 1
        return record

    def state(self) -> dict[str, Any]:
        """Everything that going on needs."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {
            "at": self.at,
            "model": self.model.state_dict(),
            "classifier": self.classifier.state_dict(),
            "optimizers": optimizers,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state()`."""
        self.at = state["at"]
        self.model.load_state_dict(state["model"])
        self.classifier.load_state_dict(state["classifier"])
        self.optimizers = self.make_optimizers()
        if self.at not in self.begun:
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)

    def export(self, folder: Path) -> None:
        """Write model and processor as an ordinary checkpoint folder, in half precision."""
        use_plain_attention(self.model)
        self.model.eval().half().save_pretrained(folder)
        self.processor.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)  # written for its owner only


def train(trainer: Trainer, out: Path) -> None:
    """Run to the end, with a progress bar, a log and states to go on from."""
    state, log_file, records = out / "state.pt", out / "log.jsonl", []
    if state.exists():
        trainer.load(torch.load(state, map_location=trainer.device))
    lines = log_file.read_text().splitlines(keepends=True) if log_file.exists() else []
    write_whole(log_file, "".join(line for line in lines if json.loads(line)["step"] <= trainer.at).encode())
    with tqdm(total=trainer.begun[-1], initial=trainer.at, unit="step") as bar, log_file.open("a") as log:
        while trainer.phase is not None:
            bar.set_description(trainer.phase.name)
            records.append(trainer.step())
            bar.update()
            if trainer.at % 25 == 0:
                means = {key: round(float(np.mean([r[key] for r in records if key in r])), 4) for key in records[-1]}
                log.write(json.dumps({"step": trainer.at, **means}) + "\n")
                log.flush()
                records = []
            if trainer.at % 100 == 0 or trainer.phase is None:
                kept = io.BytesIO()
                torch.save(trainer.state(), kept)
                write_whole(state, kept.getvalue())


def main(
    out: Annotated[Path, typer.Option(help="Folder for states, log, checkpoint and evaluation.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and pictures.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    strips: Annotated[int, typer.Option(help="Unseen strips of the evaluation; 0 for none.")] = 200,
) -> None:
    """Train the embedded model, or go on training it, and evaluate it."""
    torch.set_flush_denormal(True)  # denormal numbers are many times slower on CPUs
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(seed=seed, device=device)
    train(trainer, out)
    trainer.export(out / "checkpoint")
    if strips:
        from training.evaluate import evaluate

        evaluate(out / "checkpoint", out / "evaluation.json", strips=strips)


if __name__ == "__main__":
    typer.run(main)
