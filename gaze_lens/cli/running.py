"""What several commands do: load a model, print what a run wrote, and say how to go on with one that was stopped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from gaze_lens.heads.head_scores import HeadScores
    from gaze_lens.model_protocol import Model
    from gaze_lens.regions.picture import Picture


def load(model: str, device: str | None, dtype: str) -> "Model":
    """The embedded model for "tiny"; a checkpoint, or a model of Hugging Face, on this process' device."""
    from gaze_lens import HookedVLM, load_tiny
    from gaze_lens.runs.processes import own_device

    if model == "tiny":
        return load_tiny(device=own_device(device) or "cpu", dtype="float32" if dtype == "auto" else dtype)
    return HookedVLM.from_pretrained(model, device=own_device(device), dtype=dtype)


def is_first() -> bool:
    """Whether this is the first of the processes of a run, which prints."""
    from gaze_lens.runs.processes import launched

    return launched()[0] == 0


def warn_of_scale(model: "Model", pictures: "Picture | Sequence[Picture]") -> None:
    """Say so where the embedded model gets pictures of another scale than it was trained on; it sees nothing there."""
    from gaze_lens.data import Pictures
    from gaze_lens.regions.picture import Picture
    from gaze_lens.tiny import NAME, TALLEST

    if model.cfg.model_name != NAME or not is_first():
        return
    readable = pictures.check() if isinstance(pictures, Pictures) else pictures
    picture = readable if isinstance(readable, Picture) else readable[0]
    if picture.image.height > TALLEST:
        typer.echo(
            "The embedded model knows drawn panels of 32 pixels in height, and this picture has "
            f"{picture.image.height} pixels: what it says and where it looks mean nothing there. Try --height 32 for "
            "panels in files, or --strips synthetic:20.", err=True,
        )  # fmt: skip


@contextmanager
def resumable(out: Path, done: str) -> Iterator[None]:
    """Say how to continue if Ctrl-C stops the run."""
    try:
        yield
    except KeyboardInterrupt:
        typer.secho(f"Stopped; the {done} done so far are in {out}. Add --resume to go on.", err=True)
        raise typer.Exit(130) from None


def print_lines(lines: Sequence[str], *more: str) -> None:
    """Print lines of text."""
    for line in (*lines, *more):
        typer.echo(line)


def print_scores(scores: "HeadScores", out: Path) -> None:
    """Print the best heads, how far to trust them, what was left out, and where the files are."""
    from gaze_lens.cli.discovery import left_out_of
    from gaze_lens.runs.left_out import reason_lines

    written = f"Written: {out / 'heads.json'} and more beside it."
    print_lines([str(scores), str(scores.verdict())], *reason_lines(left_out_of(out)), written)


def shard_done(shard: str | None, out: Path) -> str:
    """What to say when a shard is finished."""
    return f"Shard {shard} is done. When all are: gaze-lens merge {out}"
