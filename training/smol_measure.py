"""Which heads of a frozen SmolLM2 follow the panel asked about, and are they those that follow text in its place?

    python -m training.smol_measure --states DIR --out smol.json      # DIR: that of training.smol

A prompt has six pictures, each after "Panel k:", or in their place their captions as text. The questions and the
weights of the language model are the same. Measured: how well the model answers, which heads follow the panel asked
about (score and contrast, verdict, chance), and whether the heads that follow text steer the pictures.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.comics.drawing import SIDE, draw_content, render_panels
from gaze_lens.evaluation.judges import Description
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.model.hooked_vlm import HookedVLM
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.shapes import Box
from gaze_lens.runs.files import write_whole
from gaze_lens.scoring.gaze_score import score_heads, scores_of
from gaze_lens.scoring.readings import read_attention
from training.evaluate import SEED, Figures, judge
from training.packed_forward import use_plain_attention
from training.smol import WIDE, SmolTrainer

PANELS = 6
COUNTS = (5, 10, 20, 50)
DRAWS = 5  # sets of random heads
BATCH = 10  # strips that are asked about at once
Steered = Sequence[tuple[int, int]] | None  # (layer, head)


def draw_strips(n: int, seed: int) -> list[Picture]:
    """Strips of six panels, drawn as those of the training, without gaps; each panel is a region with its caption."""
    strips = []
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        content = draw_content(rng, PANELS)
        image = Image.fromarray(np.concatenate(render_panels(rng, content), axis=1))
        regions = panels(PANELS, PANELS * SIDE, SIDE)
        strips.append(Picture(image, regions, dict(zip(regions, map(comics.caption, content.tolist()), strict=True))))
    return strips


def panel_pictures(strip: Picture) -> list[Picture]:
    """The panels as pictures of their own, each with one region, which is all of it."""
    whole = Box(0, 0, SIDE, SIDE)
    return [
        Picture(strip.image.crop((SIDE * k, 0, SIDE * (k + 1), SIDE)), {name: whole}, {name: caption})
        for k, (name, caption) in enumerate(strip.captions.items())
    ]


def as_text(strip: Picture) -> gl.Passages:
    """The panels' captions in the place of the pictures."""
    return gl.passages(list(strip.captions.values()), labels="Panel {k}:", names=list(strip.captions))


def score_panels(model: HookedVLM, strips: Sequence[Picture], *, at: str = "prompt") -> HeadScores:
    """`gl.score_heads` for prompts of several pictures, whose regions are the pictures."""
    samples = []
    for strip in strips:
        questions = [comics.ask(k) for k in range(PANELS)]
        answers = list(strip.captions.values()) if at == "answer" else None
        inputs = model.encode(model.prepare([panel_pictures(strip)] * PANELS, questions, answers=answers))
        samples.append(read_attention(model, inputs, at, None, [PANELS], [PANELS])[0].sample)
    about = {"model": model.cfg.model_name, "fingerprint": model.fingerprint}
    return scores_of(torch.stack(samples), at=at, **about)


def answered(
    model: HookedVLM, strips: Sequence[Picture], question: Callable[[int], str], heads: Steered = None
) -> Figures:
    """Answers about every panel of every strip, judged by its caption. heads: steered to that panel."""
    texts, indices = list[Description](), list[int]()
    for start in range(0, len(strips), BATCH):
        batch = strips[start : start + BATCH]
        pictures = [panel_pictures(strip) for strip in batch]
        encoded = None
        for k, name in enumerate(batch[0].regions):
            encoded = inputs = model.encode(model.prepare(pictures, [question(k)] * len(batch)), reuse=encoded)
            hooks = gl.steer(heads, inputs.region(name)) if heads else []
            said = model.generate(inputs, fwd_hooks=hooks, max_new_tokens=15).texts
            texts += [Description(text, name, strip) for text, strip in zip(said, batch, strict=True)]
            indices += range(start, start + len(batch))
    return judge(texts, indices)


def scored(scores: HeadScores) -> Figures:
    """The verdict, the best heads by contrast, and the statistics of all heads."""
    verdict, best = scores.verdict(), scores.ranked("contrast")[:10]
    return {
        "tracking": [str(head) for head in verdict.heads],
        "best": {str(head): round(float(scores.contrast[head.layer, head.head]), 4) for head in best},
        "score": [[round(value, 4) for value in layer] for layer in scores.score.tolist()],
        "contrast": [[round(value, 4) for value in layer] for layer in scores.contrast.tolist()],
    }


def compared(first: HeadScores, second: HeadScores) -> Figures:
    """What the best heads of both have in common, by score and by contrast, beside chance."""
    comparisons = {by: gl.compare_heads(first, second, counts=COUNTS, by=by) for by in ("score", "contrast")}
    return {
        by: {"rank correlation": each.rank_correlation, "overlaps": [vars(overlap) for overlap in each.overlaps]}
        for by, each in comparisons.items()
    }


def steered(model: HookedVLM, strips: Sequence[Picture], rankings: dict[str, HeadScores]) -> Figures:
    """The open question, steered to every panel: the best heads of each ranking, random heads, all heads, and none."""

    def measure(heads: Steered) -> Figures:
        return answered(model, strips, lambda _: comics.OPEN, heads)

    def pairs(heads: gl.HeadSet) -> Steered:
        return [(head.layer, head.head) for head in heads]

    by_count = {
        f"{name}, by {by}": {str(k): measure(pairs(scores.top(k, by=by))) for k in COUNTS}
        for name, scores in rankings.items()
        for by in ("score", "contrast")
    }
    own = rankings["pictures"]
    random = [measure(pairs(own.controls(COUNTS[2], seed=seed)))["forced choice"]["value"] for seed in range(DRAWS)]
    every = pairs(own.top(own.score.numel()))
    return by_count | {"none": measure(None), f"{COUNTS[2]} random heads": random, "all": measure(every)}


def measure_smol(model: HookedVLM, *, strips: int) -> Figures:
    """All figures. Heads are found on other strips than those asked about."""
    others, new = draw_strips(strips, SEED + 1), draw_strips(strips, SEED)
    text = score_heads(model, [as_text(strip) for strip in others], prompts=comics.ask, progress=False)
    pictures = score_panels(model, others)
    at_answer = score_panels(model, others, at="answer")
    text_at_answer = score_heads(
        model, [as_text(strip) for strip in others], prompts=comics.ask, at="answer", progress=False
    )
    return {
        "strips": strips,
        "answering": answered(model, new, comics.ask),
        "pictures": scored(pictures),
        "text": scored(text),
        "pictures, at the answer": scored(at_answer),
        "text, at the answer": scored(text_at_answer),
        "compared": compared(pictures, text),
        "compared, at the answer": compared(at_answer, text_at_answer),
        "steering": steered(model, new, {"pictures": at_answer, "text": text_at_answer}),
    }


def load(states: Path) -> tuple[HookedVLM, int]:
    """The model with the trained tower and projector, and the number of steps that it was trained."""
    trainer = SmolTrainer(seed=0, size=WIDE)
    state: dict[str, Any] = torch.load(states / "state.pt", map_location="cpu")
    trainer.model.load_state_dict(trainer.model.state_dict() | state["model"])
    use_plain_attention(trainer.model)
    return HookedVLM.wrap(trainer.model.eval(), trainer.processor), state["at"]


def main(
    states: Annotated[Path, typer.Option(help="The folder of training.smol.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    strips: Annotated[int, typer.Option(help="New strips to measure on, and others to find heads on.")] = 20,
) -> None:
    """Measure a model that training.smol has trained."""
    torch.set_flush_denormal(True)
    model, steps = load(states)
    figures = {"steps": steps} | measure_smol(model, strips=strips)
    write_whole(out, json.dumps(figures, indent=1).encode())


if __name__ == "__main__":
    typer.run(main)
