"""The options that several commands share: their types, choices and help, grouped under headings."""

from errno import EACCES, ENOTDIR
from functools import partial
from os import W_OK, access, strerror
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import BadParameter, Option, echo

JUDGES = "answer, caption, f1, rouge-l, exact, names, likelihood, likelihood:MODEL, anthropic:MODEL or openai:MODEL"
RARE = (
    "max-new-tokens, every, end, scores, mode, strength, draws, below, batch-size, where, delay, n-targets, "
    "as-published, repetition-penalty, no-repeat-ngram, repeated-at"
)


def check_conditions(names: str) -> str:
    """Refuse names that are no conditions, before a model is loaded."""
    from gaze_lens.cli.arguments import listed
    from gaze_lens.evaluation.condition import NAMES

    for name in listed(names):
        if name not in NAMES:
            raise BadParameter(f"{name!r} is not one of {', '.join(map(repr, NAMES))}.")
    return names


def check_file(path: Path | None) -> Path | None:
    """Refuse a file that is not there, before a model is loaded. A file of the hub is looked for later."""
    from gaze_lens.errors import InputError

    if path is not None and not str(path).startswith("hf:") and not path.is_file():
        raise InputError(f"There is no file {path}; give one that `gaze-lens discover` wrote, such as heads.json.")
    return path


def check_question(template: str | None) -> str | None:
    """Refuse a question that names no panel, before a model is loaded."""
    from gaze_lens.comics.questions import question_from

    if template is not None:
        question_from(template)
    return template


def check_out(path: Path) -> Path:
    """Refuse a folder that cannot be written, before a model is loaded."""
    from gaze_lens.runs.files import writing

    with writing(path):
        parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not parent.is_dir():
            raise NotADirectoryError(ENOTDIR, strerror(ENOTDIR))
        if not access(parent, W_OK):
            raise PermissionError(EACCES, strerror(EACCES))
    return path


def use_config(context: Any, path: Path | None) -> Path | None:
    """Let the options in a file be the defaults of the command. Options on the command line come first.

    context: Click's, which has no type that all versions of typer share.
    """
    from gaze_lens.cli.arguments import read_config

    if path is not None:
        names = [param.name for param in context.command.params if param.name not in ("config", "help")]
        context.default_map = read_config(path, names)
    return path


def warn_moved(context: Any, param: Any, value: Any) -> Any:
    """Say that an option goes in version 0.3, if it stands on the command line."""
    source = context.get_parameter_source(param.name)
    if source is not None and source.name == "COMMANDLINE":
        name = param.opts[0].removeprefix("--")
        echo(f"DeprecationWarning: --{name} goes in version 0.3; write it into a file: --config FILE.", err=True)
    return value


pictures = partial(Option, rich_help_panel="Pictures")
questions = partial(Option, rich_help_panel="Questions and answers")
steering = partial(Option, rich_help_panel="Heads and steering")
run = partial(Option, rich_help_panel="Model and run")
rare = Option(hidden=True, callback=warn_moved)

Pictures = Annotated[
    str, pictures(help="COMIC/p1.png (caption: p1.txt), ...; images, with --panels; hf:NAME; or synthetic:N.")
]
Panels = Annotated[int | None, pictures(help="Panels of each image, if strips are single images.")]
Annotations = Annotated[Path | None, pictures(help="COCO's instances_*.json; --strips is the folder of its images.")]
Questions = Annotated[
    Path | None,
    pictures(help="Instead of --strips: JSON lines of image, question, answer; choices, region, wrong_region."),
]
Fit = Annotated[
    str | None,
    pictures(help="Stretch pictures first: 'whole', so that the model's processor cuts nothing off, or e.g. 336x336."),
]
Height = Annotated[int | None, pictures(min=1, help="Height of panels from files of their own, in pixels (256).")]
Limit = Annotated[int | None, pictures(help="Use only the first so many pictures.")]

Protocol = Annotated[
    Literal["question", "static", "dynamic", "regions", "asking", "answers"] | None,
    questions(help="What is asked; by default question; with --annotations regions, with --questions answers."),
]
Prompt = Annotated[str | None, questions(help="The question; each protocol has its own.")]
Judge = Annotated[str | None, questions(help=f"{JUDGES}; by default caption, for regions names.")]

Heads = Annotated[
    Path | None, steering(help="heads.json, from discover; the embedded model's are found.", callback=check_file)
]
Count = Annotated[int | None, steering(help="Use only the first so many heads.")]
Conditions = Annotated[
    str,
    steering(
        help="Some of gaze, all, none, elsewhere, ablate; controls random, band, layer-matched, layer-uniform, "
        "layer-lowest, lowest; and ablate-random, ...",
        callback=check_conditions,
    ),
]
Counts = Annotated[str | None, steering(help="Also the best 1,2,4,... heads: a curve.")]
Strengths = Annotated[str | None, steering(help="Also biases of 1,3,10,... logits: a curve.")]
Strength = Annotated[float, steering(help="Bias in logits; 10000 saturates.")]
Masses = Annotated[str | None, steering(help="Also masses of 0.2,0.5,0.8,...: a curve.")]
Mass = Annotated[float | None, steering(help="Instead of logits: the target's share of the heads' attention, 0 to 1.")]
AtLeast = Annotated[float | None, steering(help="As --mass, where the share is smaller.")]
Keep = Annotated[
    Literal["image", "text"] | None, steering(help="--mass is a share of what the image (the text) as a whole gets.")
]
Force = Annotated[bool, steering("--force", help="Use heads that were found in another model.")]

Model = Annotated[str, run("--model", help="A Hugging Face name, a checkpoint folder, or 'tiny'.")]
Device = Annotated[str | None, run(help="cpu, cuda, cuda:1, ...")]
Ranking = Literal["score", "contrast", "correlation", "selectivity", "routing", "image", "localization"]
Dtype = Annotated[Literal["auto", "float32", "bfloat16", "float16"], run(help="The precision of the weights.")]
Seed = Annotated[int, run(help="Of synthetic strips, draws, orders and intervals.")]
Out = Annotated[Path, run(help="Folder for the results; made if it is not there.", callback=check_out)]
Shard = Annotated[str | None, run(help="i/n: only the i-th of n parts of the pictures, from 1.")]
Resume = Annotated[bool, run("--resume", help="Continue a run that was stopped.")]
Config = Annotated[
    Path | None,
    run(help=f"TOML or JSON file with options by name, these too: {RARE}.", callback=use_config, is_eager=True),
]

Length = Annotated[int | None, rare]  # of an answer, in tokens; each protocol has its own
Every = Annotated[int | None, rare]  # dynamic: tokens after which the target changes (50)
End = Annotated[str | None, rare]  # dynamic: the target changes after this text, such as "."
Scores = Annotated[Path | None, rare]  # scores.safetensors, for random heads; by default the one beside --heads
Mode = Annotated[Literal["boost-and-suppress", "suppress-image", "suppress-all", "max-suppress-all"], rare]
Bias = Annotated[float, rare]  # in logits; 10000 saturates
Draws = Annotated[int, rare]  # of random heads
Below = Annotated[float | None, rare]  # percentile of scores to draw random heads from; see conditions()
BatchSize = Annotated[int, rare]  # answers at a time
Where = Annotated[str | None, rare]  # prefill, after image, decode: where to steer; each protocol has its own
Delay = Annotated[int | None, rare]  # dynamic: the target changes so many tokens later; 1 as in the paper's code
Targets = Annotated[int | None, rare]  # of each picture, at most so many regions
AsPublished = Annotated[bool, rare]  # biases in the rounding of the paper's runs
Penalty = Annotated[float | None, rare]  # Hugging Face's repetition_penalty
Ngram = Annotated[int | None, rare]  # Hugging Face's no_repeat_ngram_size
RepeatedAt = Annotated[float, rare]  # share of equal words from which an answer repeats the unsteered one
