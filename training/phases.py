"""The phases of training, and the batches of a step in each: see `train.py` for what they are good for."""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from training.batches import GRID, Batch, Frame, scene_batch, strip_batch


@dataclass(frozen=True)
class Phase:
    """A phase of training.

    rate, adam_rate: the learning rate of Muon for the layers' matrices (0: train only the vision tower, with AdamW),
        and of AdamW for all other parameters. Both fall along a cosine to `end` times their first value.
    image_penalty: the weight of the image-attention penalty.
    penalty_power: of its power mean over positions (1: the plain mean; 8: about the maximum).
    question_rows, narration_rows, scene_rows: rows of the three micro-batches of a step.
    panels: relative frequencies of strips with one, two, ... panels.
    questions, narrations: kinds of question about the strips of two micro-batches (see `batches.strip_question`).
    """

    name: str
    steps: int
    rate: float
    adam_rate: float
    end: float
    image_penalty: float = 0.0
    penalty_power: int = 1
    question_rows: int = 12
    narration_rows: int = 8
    scene_rows: int = 8
    panels: tuple[int, ...] = (1, 1, 2, 2, 2, 4, 1, 1)
    questions: tuple[str, ...] = ("ask", "ask", "ask", "ask", "open", "this")
    narrations: tuple[str, ...] = ("in order", "any order", "freely")


EARLY = {
    "question_rows": 16,
    "narration_rows": 12,
    "scene_rows": 12,
    "panels": (1, 1, 2, 2, 3, 4),
    "questions": ("ask", "ask", "ask", "open wide", "this"),
    "narrations": ("in order", "any order", "open wide"),
}
FREE = ("any order", "freely", "any order")
SCENE_SLOTS = ("place", "place", "place", "one", "list")
PHASES = (
    Phase("vision", 1000, 0.0, 3e-3, end=1.0, **EARLY),
    Phase("learn", 750, 4e-3, 3e-3, end=0.5, image_penalty=0.004, penalty_power=4, **EARLY),
    Phase("gather", 250, 3e-3, 2e-3, end=0.85, image_penalty=0.01, penalty_power=8),
    Phase("settle", 350, 1.5e-3, 1e-3, end=0.02),
    Phase("practise", 500, 2.5e-3, 1.5e-3, end=0.02),
    Phase("practise", 600, 2.5e-3, 1.5e-3, end=0.02),
    Phase("practise", 600, 2.5e-3, 1.5e-3, end=0.02),
    Phase("narrate", 400, 2.5e-3, 1.5e-3, end=0.02, question_rows=6, narration_rows=20, scene_rows=4, narrations=FREE),
)


def draw_batches(
    rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast, phase: Phase, frame: Frame = GRID
) -> dict[str, Batch]:
    """The micro-batches of one step."""
    p = np.array(phase.panels) / sum(phase.panels)
    n_asked, n_narrated = (1 + int(rng.choice(len(p), p=p)) for _ in range(2))
    shape = (int(rng.integers(1, 4)), int(rng.integers(2, 4))) if rng.random() < 0.3 else (3, 3)
    return {
        "ask": strip_batch(rng, tokenizer, phase.question_rows, n_asked, phase.questions, frame),
        "narrate": strip_batch(rng, tokenizer, phase.narration_rows, n_narrated, phase.narrations, frame),
        "scene": scene_batch(rng, tokenizer, phase.scene_rows, shape, SCENE_SLOTS, frame),
    }
