"""The options that commands of `gaze-lens` share, with their help, under one heading each."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

JUDGES = "caption, f1, rouge-l, exact, names, likelihood, anthropic:MODEL or openai:MODEL"

shown = partial(Option, rich_help_panel="Pictures")
asked = partial(Option, rich_help_panel="Questions and answers")
steered = partial(Option, rich_help_panel="Heads and steering")
running = partial(Option, rich_help_panel="Model and run")

Pictures = Annotated[
    str, shown(help="COMIC/p1.png (caption: p1.txt), ...; images, with --panels; hf:NAME; or synthetic:N.")
]
Panels = Annotated[int | None, shown(help="Panels of each image, where strips are single images.")]
Annotations = Annotated[Path | None, shown(help="COCO's instances_*.json; --strips is the folder of its images.")]
Limit = Annotated[int | None, shown(help="Use only the first so many pictures.")]

Protocol = Annotated[
    str | None,
    asked(help="question (unless given), static, dynamic, regions (with --annotations unless given) or asking."),
]
Prompt = Annotated[str | None, asked(help="The question; each protocol has its own.")]
Length = Annotated[int | None, asked(help="Length of an answer in tokens; each protocol has its own.")]
Every = Annotated[int | None, asked(help="dynamic: the target moves on every so many tokens (50).")]
End = Annotated[str | None, asked(help="dynamic: it moves on when the text brings this, such as '.'.")]
Judge = Annotated[str | None, asked(help=f"{JUDGES}; unless given, caption, for regions names.")]

Heads = Annotated[Path | None, steered(help="heads.json, from discover; the embedded model's are found.")]
Count = Annotated[int | None, steered(help="Use only the first so many heads.")]
Scores = Annotated[Path | None, steered(help="scores.safetensors, for random heads; that beside --heads unless given.")]
Conditions = Annotated[str, steered(help="Some of gaze, random, layer-matched, all, none, elsewhere.")]
Counts = Annotated[str | None, steered(help="Also the best 1,2,4,... heads: a curve.")]
Strengths = Annotated[str | None, steered(help="Also biases of 1,3,10,... logits: a curve.")]
Mode = Annotated[str, steered(help="boost-and-suppress, suppress-image, suppress-all or max-suppress-all.")]
Strength = Annotated[float, steered(help="Bias in logits; 10000 saturates.")]
Draws = Annotated[int, steered(help="Draws of random heads.")]
Below = Annotated[
    float | None,
    steered(help="Percentile of scores to draw from; 5 unless given, or as many as needed, small models 50."),
]
Force = Annotated[bool, steered("--force", help="Use heads that were found in another model.")]

Model = Annotated[str, running("--model", help="A Hugging Face name, a checkpoint folder, or 'tiny'.")]
Device = Annotated[str | None, running(help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, running(help="auto, float32, bfloat16 or float16.")]
Seed = Annotated[int, running(help="Of synthetic strips, draws, orders and intervals.")]
BatchSize = Annotated[int, running(help="Answers that run together.")]
Out = Annotated[Path, running(help="Folder for the results; made if it is not there.")]
Shard = Annotated[str | None, running(help="i/n: only the i-th of n parts of the pictures, from 1.")]
Resume = Annotated[bool, running("--resume", help="Go on with a run that was broken off.")]
