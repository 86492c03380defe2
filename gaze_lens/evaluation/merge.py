"""Merge the files of a run that several jobs shared.

generate_answers(model, pictures, conditions, protocol=question(), path="out/" + file_of((2, 8)), shard=(2, 8))
merge_generations("out")        # when all eight are done: out/generations.jsonl, the file that one process would write
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gaze_lens.errors import InputError
from gaze_lens.evaluation.records import KIND, Generations, left_out_lines, skipped_line
from gaze_lens.runs.journal import Line, read, write
from gaze_lens.runs.locks import one_writer
from gaze_lens.runs.shards import Shard, refuse_unfinished, str_of

FILE = "generations.jsonl"
Part = tuple[Generations, list[str]]  # what one job wrote, and the names of its pictures, in order


def file_of(shard: Shard) -> str:
    """The name of a shard's file. A single shard has the name of the merged file."""
    first, number = shard
    return FILE if number == 1 else f"generations-{first + 1}-of-{number}.jsonl"


def merge_generations(out: str | Path) -> Generations:
    """Merge the files of all shards into generations.jsonl, with the lines in the order of one process.

    Raises InputError, with the names of the shards, if some are missing, not finished, copied, or of different runs.
    """
    out, shards = Path(out), {}
    for path in sorted(out.glob("generations-*-of-*.jsonl")):
        first, number = (int(text) for text in path.stem.removeprefix("generations-").split("-of-"))
        shards[first - 1, number] = path
    if not shards:
        raise InputError(f"{out} holds no shards of a run: expected what `gaze-lens evaluate --shard i/n` wrote.")
    run, _ = read(next(iter(shards.values())), kind=KIND)
    parts = {shard: _part(run, read(path, kind=KIND, run=run, shard=shard)[1]) for shard, path in shards.items()}
    _refuse_repeated(out, parts)
    refuse_unfinished(out, {shard: _finished(part, shard) for shard, part in parts.items()})
    lines = interleave([parts[shard] for shard in sorted(parts)])
    write_merged(out, run, lines)
    return Generations.of(run, lines)


def write_merged(out: Path, run: Line, lines: Sequence[Line]) -> None:
    """Write the file of a whole run into a folder. Raises InputError if another process is writing it."""
    with one_writer(out / FILE):
        write(out / FILE, run, lines, kind=KIND)


def _refuse_repeated(out: Path, parts: Mapping[Shard, Part]) -> None:
    """Raises InputError where two shards have a picture in common: one of them is a copy."""
    owner: dict[str, Shard] = {}
    for shard, (_, names) in sorted(parts.items()):
        for name in names:
            first = owner.setdefault(name, shard)
            if first != shard:
                raise InputError(
                    f"{out} has picture '{name}' in shard {str_of(first)} and in shard {str_of(shard)}, expected each "
                    f"in one: a file was copied or renamed. Delete {file_of(shard)}, run that shard, and merge again."
                )


def interleave(parts: Sequence[Part]) -> list[Line]:
    """The lines of all shards in the order of one process.

    parts: in the order of their shards. Shard i of n has the pictures i, i + n, i + 2 n, ...; so the first pictures of
    all shards come first, then their second ones, and so on.
    """
    by_shard, number = [_by_picture(generations) for generations, _ in parts], len(parts)
    places = ((index % number, index // number) for index in range(sum(len(names) for _, names in parts)))
    left_out = {name: reason for generations, _ in parts for name, reason in generations.left_out.items()}
    answers = [line for shard, place in places for line in by_shard[shard][parts[shard][1][place]]]
    return left_out_lines(left_out) + answers


def _by_picture(generations: Generations) -> dict[str, list[Line]]:
    """The lines of each picture."""
    lines = {name: [line] for name, line in generations.pictures.items()}
    for record in generations.records:
        lines[record.picture].append(record.to_line())
    for name, reason in generations.skipped.items():
        lines.setdefault(name, []).append(skipped_line(name, reason))
    return lines


def _part(run: Line, lines: Sequence[Line]) -> Part:
    return Generations.of(run, lines), list(dict.fromkeys(e["picture"] for e in lines if e["kind"] != "left out"))


def _finished(part: Part, shard: Shard) -> bool:
    generations, names = part
    done = generations.finished() | generations.skipped.keys()
    return len(names) == len(range(generations.run["pictures"])[shard[0] :: shard[1]]) and done.issuperset(names)
