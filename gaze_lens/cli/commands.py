"""The command line: `gaze-lens demo | discover | steer | evaluate | judge | merge | paper | serve | info`."""

import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

import gaze_lens
from gaze_lens.cli import evaluating, finding, reproducing, steering
from gaze_lens.errors import GazeLensError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip


def main() -> None:
    """Run the command line. An error of the library or of a file is one line on standard error, and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names that are no UTF-8, and characters that the terminal has not
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (GazeLensError, OSError) as error:
        typer.secho(f"gaze-lens: {_in_options(' '.join(str(error).split()))}", fg="red", err=True)
        sys.exit(1)


def _in_options(message: str) -> str:
    """A message of the library, whose arguments are the command line's options: scores= is --scores."""
    commands = vars(typer.main.get_command(app))["commands"].values()
    names = {parameter.name for command in commands for parameter in command.params}
    argument = rf"(?<![\w.])({'|'.join(sorted(names))})=(?!=|gl\.)(\S)?"
    return re.sub(argument, _option, message)


def _option(found: re.Match) -> str:
    """--max-new-tokens 0 for max_new_tokens=0, --scores, for scores=,"""
    value = found[2] or ""
    space = " " if value and value not in ",.;:)" else ""
    return f"--{found[1].replace('_', '-')}{space}{value}"


def _show_version(shown: bool) -> bool:
    """Print the version and where it is installed, and exit."""
    if shown:
        typer.echo(f"gaze-lens {gaze_lens.__version__} from {Path(gaze_lens.__file__).parent}")
        raise typer.Exit
    return shown


@app.callback()
def every_command(
    version: Annotated[  # noqa: ARG001 - its callback does it all
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find, watch and steer the attention heads that track what a vision-language model is describing."""


def info(
    model: Annotated[str, typer.Argument(help="A Hugging Face name, a checkpoint folder, or 'tiny'.")],
    size: Annotated[str, typer.Option(help="An image size, for the number of its tokens.")] = "1536x256",
) -> None:
    """Which hooks each layer has, how a picture becomes tokens, and what is not supported; reads no weights."""
    from gaze_lens import HookedVLM
    from gaze_lens.cli import arguments
    from gaze_lens.model.loading import skeleton
    from gaze_lens.tiny import FOLDER

    pixels = arguments.size_of(size)
    name_or_folder = str(FOLDER) if model == "tiny" else model
    typer.echo(str(HookedVLM.wrap(*skeleton(name_or_folder), name=model).capabilities(pixels)))


COMMANDS = (  # in the order of --help
    (finding.demo, "Example: gaze-lens demo --out demo && open demo/report.html"),
    (
        finding.discover,
        "Example: gaze-lens discover --model Qwen/Qwen3-VL-2B-Instruct --strips comics --out heads --device cuda",
    ),
    (
        steering.steer,
        "Example: gaze-lens steer --model tiny --image strip.png --heads demo/heads.json --panel 3 --panels 6",
    ),
    (
        evaluating.evaluate,
        "Examples: gaze-lens evaluate --model tiny --strips synthetic:100 --out out; gaze-lens evaluate --model "
        "Qwen/Qwen3-VL-2B-Instruct --strips comics --heads heads/heads.json --out out --device cuda --resume",
    ),
    (evaluating.merge, "Example: gaze-lens merge out"),
    (evaluating.judge, "Example: gaze-lens judge out --judge exact"),
    (
        reproducing.paper,
        "Examples: gaze-lens paper --out paper --limit 6; gaze-lens paper fig3a tab5 --model Qwen/Qwen3-VL-2B-Instruct "
        "--discovery comics --strips others --judge likelihood --out paper --device cuda --resume",
    ),
    (
        steering.serve,
        "Example: gaze-lens serve --model Qwen/Qwen3-VL-2B-Instruct --heads heads/heads.json --device cuda",
    ),
    (info, "Example: gaze-lens info Qwen/Qwen3-VL-2B-Instruct --size 1536x256"),
)
for _command, _example in COMMANDS:
    app.command(epilog=_example)(_command)
