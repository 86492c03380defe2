"""Train the embedded model from a seed: `python -m training.train --out DIR --seed 0`.

1. "vision": the vision tower alone, with linear classifiers that are not kept, until every image token predicts what
   its panel (or its scene's cell) shows. Without this phase the loss stays at chance for a long time. Later this is an
   auxiliary loss.
2. "learn": the whole model, on questions and narrations (`batches.py`), with strips of up to six panels.
3. "gather": up to eight panels, more kinds of narration, and a higher image-attention penalty.
4. "settle" and three times "practise": without the penalty, with learning rates that fall.
5. "narrate": the same, with more narrations in an order that the model chooses.

The image-attention penalty is a small loss for the attention that a head gives to the image while it reads a question
or answers.

- It is about the maximum over positions: to attend to the image at one position costs almost as much as at many. With
  a penalty on the mean, heads attend to the image at single words only, and steering breaks the text.
- It is concave: a few heads that attend to the image cost less than many that attend a little.
- It is higher in later layers. What an early layer reads, later layers can still change; what the last layers read goes
  into the answer directly.

No loss steers or labels heads: what each head attends to is learned from the task alone. After that, training without
the penalty makes steering work. On 24 strips, the best few heads steered 83, 94, 99 and 96 % of answers after
"settle" and each "practise" on one processor. On another, which rounds differently and made another model from the same
seed, they steered 92 and 94 % after the last two (76 and 91 % exact). The largest difference was in narrations whose
target is switched in the middle: 82 % of panels as scheduled on the first processor, 61 to 72 % on the second, whose
best head is one layer earlier. After "narrate" it is 84 to 96 %.

Training takes an hour and a half on one CPU core. `DIR/state.pt` is written every 100 steps, and the same command
continues from it. `DIR/log.jsonl` has one line for every 25 steps; in it "told" is the loss of the answers, and "price"
the image-attention penalty. At the end `DIR/checkpoint` holds the model and `DIR/evaluation.json` its figures. On
Linux, the environment variables MALLOC_MMAP_MAX_=0 MALLOC_TOP_PAD_=500000000 make training a fifth faster.
"""

import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from gaze_lens.runs.files import write_whole
from training.batches import IGNORE, Batch
from training.packed_forward import packed_forward, use_packed_attention, use_plain_attention
from training.phases import PHASES, Phase, draw_batches
from training.qwen3_vl import QWEN3_VL
from training.recipe import Architecture, Size

AUXILIARY = 0.2  # weight of the classifiers' loss after the first phase
WARM_UP = 100  # steps, in each phase
OBSERVE_EVERY = 50  # steps


class DivergedError(RuntimeError):
    """A training whose loss is no longer a finite number; the message says at which step."""


def facts_loss(classifier: nn.Module, tokens: Tensor, facts: Tensor) -> Tensor:
    """Cross-entropy of the six facts of each token, predicted from its direction; mean over facts that there are."""
    direction = F.rms_norm(tokens.float(), tokens.shape[-1:])
    return F.cross_entropy(classifier(direction).float().view(-1, 8), facts.flatten(), ignore_index=IGNORE)


def image_attention_penalty(image_mass: Tensor, power: int) -> Tensor:
    """The penalty on attention mass [layer, head, position]: the square root of each head's power mean, summed.

    The first half of the layers has weight 1, the next layer 4, the others 8.
    """
    heads = image_mass.float().clamp(min=1e-4).pow(power).mean(-1).pow(1 / power)
    n_layers, n_early = len(image_mass), len(image_mass) // 2
    weights = torch.tensor([1.0] * n_early + [4.0] + [8.0] * (n_layers - n_early - 1), device=image_mass.device)
    return ((heads + 0.01).sqrt() * weights[:, None]).sum()


class Trainer:
    """A model in training: call `step()` until `phase` is None. `state()` and `load()` continue a training.

    frozen: keep the vision tower, but not the projector, as it is after the phases of rate 0.
    auxiliary: the weight of the classifiers' loss in phases with a rate; 0 leaves it out.
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
        auxiliary: float = AUXILIARY,
    ):
        size = size or Size()
        self.seed, self.device, self.phases, self.step_index = seed, device, phases, 0
        self.architecture, self.frozen, self.auxiliary = architecture, frozen, auxiliary
        self.model, self.processor = architecture.build(size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classifier = self.build_classifier(size)
        self.model.to(device).train()
        self.classifier.to(device)
        use_packed_attention(self.model)
        self.optimizers = self.make_optimizers()

    def build_classifier(self, size: Size) -> nn.Module:
        """What is trained beside the model and thrown away."""
        return nn.Linear(size.width, 6 * 8)

    @property
    def phase_starts(self) -> list[int]:
        """The first step of each phase, and the number of all steps."""
        return np.cumsum([0, *[phase.steps for phase in self.phases]]).tolist()

    @property
    def phase(self) -> Phase | None:
        """The phase of the next step; None at the end."""
        ends = self.phase_starts[1:]
        return next((phase for phase, end in zip(self.phases, ends, strict=True) if self.step_index < end), None)

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the layers' matrices, AdamW for all other parameters and the classifiers; new in each phase."""
        phase = self.phase or self.phases[-1]
        if self.frozen and phase.rate:
            for parameter in self.architecture.tower_parameters(self.model):
                parameter.requires_grad_(False)
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        matrices = [p for n, p in named.items() if p.ndim == 2 and "embed" not in n] if phase.rate else []
        matrix_ids = {id(p) for p in matrices}
        rest = [p for p in [*named.values(), *self.classifier.parameters()] if id(p) not in matrix_ids]
        optimizers: list[Any] = [torch.optim.AdamW(rest, lr=phase.adam_rate, betas=(0.9, 0.98), weight_decay=0.01)]
        if matrices:
            adjust = "match_rms_adamw"  # so that its rates are like AdamW's
            optimizers.append(torch.optim.Muon(matrices, lr=phase.rate, weight_decay=0.05, adjust_lr_fn=adjust))
        return optimizers

    def set_rates(self, phase: Phase) -> None:
        """Set the learning rates: a warm-up, then a cosine down to `phase.end` times the rate."""
        # The start of this phase by number, not by comparing phases: two phases may be equal.
        step = self.step_index - max(start for start in self.phase_starts if start <= self.step_index)
        cosine = phase.end + (1 - phase.end) * (1 + math.cos(math.pi * step / phase.steps)) / 2
        for optimizer, rate in zip(self.optimizers, (phase.adam_rate, phase.rate), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * cosine * min(1.0, (step + 1) / WARM_UP)

    def loss(self, batch: Batch, phase: Phase) -> tuple[Tensor, dict[str, float]]:
        """The loss of one micro-batch, and figures for the log."""
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            if not phase.rate:
                tokens = self.architecture.encode_images(self.model, batch.pixels)[0]
            else:
                logits, tokens, image_mass = packed_forward(self.architecture, self.model, batch)
        facts = facts_loss(self.classifier, tokens, batch.facts) if not phase.rate or self.auxiliary else None
        if not phase.rate:
            return facts, {"facts": facts.item()}
        answers = F.cross_entropy(logits.float(), batch.labels[batch.labels != IGNORE])
        penalty = image_attention_penalty(image_mass, phase.penalty_power)
        loss = answers + phase.image_penalty * penalty
        figures = {"told": answers.item(), "price": penalty.item()}
        if facts is None:
            return loss, figures
        return loss + self.auxiliary * facts, {"facts": facts.item(), **figures}

    def losses(self, rng: np.random.Generator, phase: Phase, /) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """The name, the loss and the figures of each micro-batch of a step."""
        for kind, batch in draw_batches(rng, self.processor.tokenizer, phase, self.architecture.frame).items():
            yield kind, *self.loss(batch.to(self.device), phase)

    def step(self) -> dict[str, float]:
        """One update of the weights. The pictures of step n depend only on the seed and n.

        Raises DivergedError where a loss is not finite, before the weights are changed.
        """
        phase = self.phase
        if phase is None:
            raise StopIteration
        if self.step_index in self.phase_starts:
            self.optimizers = self.make_optimizers()
        self.set_rates(phase)
        rng = np.random.default_rng([self.seed, self.step_index])
        record: dict[str, float] = {}
        for kind, loss, figures in self.losses(rng, phase):
            if not loss.isfinite():
                raise DivergedError(f"{phase.name}, step {self.step_index + 1:,}: the loss is {loss.item()}")
            loss.backward()
            record |= {f"{kind} {name}": value for name, value in figures.items()}
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.classifier.parameters()], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step_index += 1
        return record

    def state(self) -> dict[str, Any]:
        """All that is needed to continue."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {
            "at": self.step_index,
            "model": self.model.state_dict(),
            "classifier": self.classifier.state_dict(),
            "optimizers": optimizers,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a `state()`."""
        self.step_index = state["at"]
        self.model.load_state_dict(state["model"])
        self.classifier.load_state_dict(state["classifier"])
        self.optimizers = self.make_optimizers()
        if self.step_index not in self.phase_starts:
            for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(optimizer_state)

    def export(self, folder: Path) -> None:
        """Write model and processor as an ordinary checkpoint folder, in half precision."""
        use_plain_attention(self.model)
        self.model.eval().half().save_pretrained(folder)
        self.processor.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)  # save_pretrained makes it readable for its owner only


def means_of(records: list[dict[str, float]]) -> dict[str, float]:
    """Means over several steps' figures, for the log."""
    return {key: round(float(np.mean([r[key] for r in records if key in r])), 4) for key in records[-1]}


def train(trainer: Trainer, out: Path, observe: Callable[[Trainer], dict[str, Any]] | None = None) -> None:
    """Train to the end, with a progress bar, a log, and states from which training can continue.

    observe: what it returns is logged every 50 steps, as "observed".
    """
    state, log_file, records = out / "state.pt", out / "log.jsonl", []
    if state.exists():
        trainer.load(torch.load(state, map_location=trainer.device))
    lines = log_file.read_text().splitlines(keepends=True) if log_file.exists() else []
    write_whole(log_file, "".join(line for line in lines if json.loads(line)["step"] <= trainer.step_index).encode())
    n_steps = trainer.phase_starts[-1]
    with tqdm(total=n_steps, initial=trainer.step_index, unit="step") as bar, log_file.open("a") as log:
        while trainer.phase is not None:
            bar.set_description(trainer.phase.name)
            records.append(trainer.step())
            bar.update()
            if trainer.step_index % 25 == 0:
                line: dict[str, Any] = {"step": trainer.step_index, **means_of(records)}
                if observe is not None and trainer.step_index % OBSERVE_EVERY == 0:
                    line["observed"] = observe(trainer)
                log.write(json.dumps(line) + "\n")
                log.flush()
                records = []
            if trainer.step_index % 100 == 0 or trainer.phase is None:
                buffer = io.BytesIO()
                torch.save(trainer.state(), buffer)
                write_whole(state, buffer.getvalue())


def main(
    out: Annotated[Path, typer.Option(help="Folder for states, log, checkpoint and evaluation.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and pictures.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    strips: Annotated[int, typer.Option(help="New strips for the evaluation; 0: no evaluation.")] = 200,
) -> None:
    """Train the embedded model, or continue its training, and evaluate it."""
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
