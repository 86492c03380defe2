"""The options of `gaze-lens evaluate` and `gaze-lens judge`, with their help."""

from pathlib import Path
from typing import Annotated

from typer import Option

JUDGES = "caption, f1, rouge-l, exact, names, likelihood, anthropic:MODEL or openai:MODEL"

Pictures = Annotated[str, Option(help="COMIC/p1.png, ...; single images, with --panels; hf:NAME; or synthetic:N.")]
Panels = Annotated[int | None, Option(help="Panels of each image, where strips are single images.")]
Annotations = Annotated[Path | None, Option(help="COCO's instances_*.json; --strips is the folder of its images.")]
Limit = Annotated[int | None, Option(help="Use only the first so many pictures.")]
Protocol = Annotated[str, Option(help="question, static, dynamic, regions (photographs) or asking (unsteered).")]
Prompt = Annotated[str | None, Option(help="The question; each protocol has its own.")]
Length = Annotated[int | None, Option(help="Length of an answer in tokens; each protocol has its own.")]
Every = Annotated[int | None, Option(help="dynamic: the target moves on every so many tokens (50).")]
End = Annotated[str | None, Option(help="dynamic: it moves on when the text brings this, such as '.'.")]
Heads = Annotated[Path | None, Option(help="heads.json, from discover; the embedded model's are found.")]
Count = Annotated[int | None, Option(help="Use only the first so many heads.")]
Scores = Annotated[Path | None, Option(help="scores.safetensors, for random heads; that beside --heads unless given.")]
Conditions = Annotated[str, Option(help="Some of gaze, random, layer-matched, all, none, elsewhere.")]
Counts = Annotated[str | None, Option(help="Also the best 1,2,4,... heads: a curve.")]
Strengths = Annotated[str | None, Option(help="Also biases of 1,3,10,... logits: a curve.")]
Mode = Annotated[str, Option(help="boost-and-suppress, suppress-image, suppress-all or max-suppress-all.")]
Strength = Annotated[float, Option(help="Bias in logits; 10000 saturates.")]
Draws = Annotated[int, Option(help="Draws of random heads.")]
Below = Annotated[float | None, Option(help="Percentile of scores to draw from: 5, on small models 50, unless given.")]
Judge = Annotated[str | None, Option(help=f"{JUDGES}; unless given, caption, for photographs names.")]
Seed = Annotated[int, Option(help="Of synthetic strips, draws, orders and intervals.")]
BatchSize = Annotated[int, Option(help="Answers that run together.")]
Shard = Annotated[str | None, Option(help="i/n: only the i-th of n parts of the pictures, from 1.")]
