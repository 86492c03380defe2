"""What is measured: answers under every condition, with their exposure, and soft against hard targets."""

import re
from pathlib import Path
from typing import Any

import gaze_lens as gl
from gaze_lens.comics.questions import OPEN
from gaze_lens.evaluation import Condition, head_counts, masses, strengths
from gaze_lens.evaluation.statistics import mean

MASSES = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99]
KEPT = [0.5, 0.9, 0.99]
STRENGTHS = [1, 2, 3, 5, 10, 10_000]
COUNTS = [1, 2, 4, 8, 16, 32, 72]
SET = 0.9  # the mass in the curve of numbers of heads, and of soft and hard targets
FOUND_ON, MEASURED_ON = 10_000, 20_000  # seeds of strips
SOURCES = ("mass", "mass_without", "from_others", "from_prompt", "from_generated", "from_sink")
SENTENCE = re.compile(r"[a-z]+ [a-z]+ (above|below|beside|inside|left of|right of) [a-z]+ [a-z]+\.")


def measure(n_strips: int, work: Path) -> dict[str, Any]:
    """All figures of the study; a stopped run goes on from its folder."""
    model = gl.load_tiny()
    scores = gl.score_heads(model, gl.comics.synthetic(24, seed=FOUND_ON), batch_size=8, progress=False)
    heads = scores.top(2)
    kept = [Condition(f"keep image {value:g}", heads, mass=value, keep="image") for value in KEPT]
    conditions = [
        Condition("none"), *masses(heads, MASSES), *kept, *strengths(heads, STRENGTHS),
        *head_counts(scores, COUNTS, mass=SET),
        *(Condition(f"top {count}, keep image", scores.top(count), mass=SET, keep="image") for count in COUNTS),
    ]  # fmt: skip
    strips = gl.comics.synthetic(n_strips, seed=MEASURED_ON)
    exact = gl.evaluation.judges.ExactDescription()
    results = gl.evaluate(
        model, strips, conditions, judge=exact, out=work, resume=work.exists(), progress=False, batch_size=24
    )
    return {
        "model": model.cfg.model_name, "heads": [str(head) for head in heads], "strips": n_strips,
        "conditions": [_row(results, condition) for condition in conditions],
        "targets": targets(model, heads, strips),
    }  # fmt: skip


def _row(results: Any, condition: Condition) -> dict[str, Any]:
    """Accuracy, whole sentences and exposure of a condition, with intervals over strips."""
    records = [record for record in results.generations.records if record.condition == condition.name]
    strips = [record.picture for record in records]
    sentences = mean([bool(SENTENCE.fullmatch(record.text.strip())) for record in records], strips)
    row = {
        "name": condition.name, "curve": condition.curve, "mass": condition.mass, "keep": condition.keep,
        "heads": len(condition.heads or ()),
        "accuracy": results.accuracy(condition.name).to_dict(), "sentences": sentences.to_dict(),
    }  # fmt: skip
    if condition.heads is not None:
        row["exposure"] = {
            name: mean([record.exposure[name] for record in records], strips).to_dict() for name in SOURCES
        }
    return row


def targets(model: Any, heads: Any, strips: Any) -> dict[str, Any]:
    """Answers under hard targets (the panel), and soft ones (a disc around its middle), of one mass."""
    right: dict[str, list[bool]] = {"panel": [], "disc": [], "wide disc": []}
    owner = []
    for index, strip in enumerate(strips):
        boxes = [shape.bounds for shape in strip.regions.values()]
        inputs = model.encode(model.prepare([strip] * len(boxes), OPEN))
        middles = [((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, (box.x1 - box.x0) / 2) for box in boxes]
        regions = {
            "panel": inputs.region(list(strip.regions)),
            "disc": inputs.region([gl.HeatMap.of_disc((x, y), radius=r) for x, y, r in middles]),
            "wide disc": inputs.region([gl.HeatMap.of_disc((x, y), radius=3 * r) for x, y, r in middles]),
        }
        for name, region in regions.items():
            generation = model.generate(inputs, fwd_hooks=gl.steer(heads, region, mass=SET), max_new_tokens=15)
            captions = strip.captions.values()
            right[name] += [text == caption for text, caption in zip(generation.texts, captions, strict=True)]
        owner += [index] * len(boxes)
    return {name: mean(values, owner).to_dict() for name, values in right.items()}
