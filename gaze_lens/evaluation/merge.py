"""A run that several jobs share: each writes a file of its own, and the files are put together into one.

generate_answers(model, pictures, conditions, protocol=question(), path="out/" + file_of((2, 8)), shard=(2, 8))
merge_generations("out")                     # when all eight are done: out/generations.jsonl, as of one process
"""

from collections.abc import Sequence
from pathlib import Path

from gaze_lens.errors import InputError
from gaze_lens.evaluation.records import KIND, Generations, skipped_line
from gaze_lens.runs.journal import Line, read, write
from gaze_lens.runs.shards import Shard, refuse_unfinished

FILE = "generations.jsonl"
Part = tuple[Generations, list[str]]  # what a job wrote, and the pictures that it worked on, in order


def file_of(shard: Shard) -> str:
    """The name of a shard's file; that of the whole run where it is the only one."""
    first, number = shard
    return FILE if number == 1 else f"generations-{first + 1}-of-{number}.jsonl"


def merge_generations(out: str | Path) -> Generations:
    """Put the files of all shards of a run together into generations.jsonl, in the order of one process.

    Raises InputError, with their names, for shards that are missing or not finished, or of different runs.
    """
    out, shards = Path(out), {}
    for path in sorted(out.glob("generations-*-of-*.jsonl")):
        first, number = (int(text) for text in path.stem.removeprefix("generations-").split("-of-"))
        shards[first - 1, number] = path
    if not shards:
        raise InputError(f"{out} holds no shards of a run: expected what `gaze-lens evaluate --shard i/n` wrote.")
    run, _ = read(next(iter(shards.values())), kind=KIND)
    parts = {shard: _part(run, read(path, kind=KIND, run=run)[1]) for shard, path in shards.items()}
    refuse_unfinished(out, {shard: _finished(part, shard) for shard, part in parts.items()})
    lines = take_turns([parts[shard] for shard in sorted(parts)])
    write(out / FILE, run, lines, kind=KIND)
    return Generations.of(run, lines)


def take_turns(parts: Sequence[Part]) -> list[Line]:
    """The lines of all shards, given by number, as one process would have written them: picture after picture."""
    by_shard, number = [_by_picture(generations) for generations, _ in parts], len(parts)
    turns = ((index % number, index // number) for index in range(sum(len(names) for _, names in parts)))
    return [line for shard, turn in turns for line in by_shard[shard][parts[shard][1][turn]]]


def _by_picture(generations: Generations) -> dict[str, list[Line]]:
    """The lines of each picture."""
    lines = {name: [line] for name, line in generations.pictures.items()}
    for record in generations.records:
        lines[record.picture].append(record.to_line())
    for name, why in generations.skipped.items():
        lines.setdefault(name, []).append(skipped_line(name, why))
    return lines


def _part(run: Line, lines: Sequence[Line]) -> Part:
    return Generations.of(run, lines), list(dict.fromkeys(line["picture"] for line in lines))


def _finished(part: Part, shard: Shard) -> bool:
    generations, names = part
    done = generations.finished() | generations.skipped.keys()
    return len(names) == len(range(generations.run["pictures"])[shard[0] :: shard[1]]) and done.issuperset(names)
