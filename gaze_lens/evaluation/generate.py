"""Running a protocol: every picture, every condition, every target; each answer written down at once.

    generations = generate_answers(model, strips, conditions, protocol=question(), path="out/generations.jsonl")

A picture is the unit of work. Its image is encoded once, and conditions and targets are rows of one batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.evaluation.condition import Condition, without_repeats
from gaze_lens.evaluation.protocols import Protocol, elsewhere
from gaze_lens.evaluation.records import KIND, Generations, Record, check_picture, describe, picture_line, skipped_line
from gaze_lens.evaluation.steered_rows import Row, Text, answers
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.digest import names_of
from gaze_lens.regions.picture import Picture
from gaze_lens.runs.journal import Journal, Line, header
from gaze_lens.runs.shards import check_shard


def generate_answers(
    model: Any,
    pictures: Sequence[Picture],
    conditions: Sequence[Condition],
    *,
    protocol: Protocol,
    path: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    batch_size: int = 24,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> Generations:
    """All answers of a run; those that its file holds already are not made again.

    path: a file of JSON lines; None keeps all in memory. resume: go on with it. seed: of random orders and places.
    batch_size: answers that run together. shard: (i, n) takes every n-th picture, from the i-th.
    A picture that cannot be read, and a target without an image token, are written down as skipped.
    Raises InputError for no pictures, for conditions that share a name, for what is no condition or no protocol, and
    for a file of another run, or of other pictures.
    """
    conditions = without_repeats(conditions)
    if not isinstance(protocol, Protocol):
        raise InputError(f"protocol={protocol!r} was given; give what gl.evaluation.question() returns, or another.")
    todo = _shard(names_of(pictures), shard)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} was given; give 1 or more.")
    described = describe(model, pictures, protocol, conditions, seed=seed)
    journal = Journal.open(path, header(KIND, described), resume=resume)
    run = _Run(model, protocol, conditions, journal, Generations.of(described, journal.lines), seed, batch_size)
    finished = run.generations.finished()
    for index, name in todo:
        if name in run.generations.pictures:
            check_picture(run.generations.pictures[name], pictures[index])
    done = sum(name in finished for _, name in todo)
    with tqdm(total=len(todo), initial=done, desc="pictures", unit="picture", disable=not progress) as bar:
        for index, name in todo:
            if name not in finished:
                run.work(index, name, pictures)
                bar.update()
                bar.set_postfix(answers=len(run.generations.records))
    return run.generations


def _shard(names: Sequence[str], shard: tuple[int, int]) -> list[tuple[int, str]]:
    """The (index, name) of the pictures to do, in order."""
    first, number = check_shard(shard)
    if not names or len(set(names)) < len(names):
        raise InputError(f"{len(names)} pictures were given; give at least one, each with a name of its own.")
    return list(enumerate(names))[first::number]


@dataclass(eq=False)
class _Run:
    """What working on a picture needs."""

    model: Any
    protocol: Protocol
    conditions: list[Condition]
    journal: Journal
    generations: Generations
    seed: int
    batch_size: int

    def work(self, index: int, name: str, pictures: Sequence[Picture]) -> None:
        """Make and write down the answers about one picture that are not there yet."""
        try:
            picture = pictures[index]
            encoded = self.model.encode(self.model.prepare(picture, "?"))
        except (ImageError, RegionError) as error:
            self.write([skipped_line(name, str(error))])
            return
        rows = plan(self.protocol, picture, self.conditions, seed=(self.seed, index))
        if name not in self.generations.pictures:
            self.write([picture_line(name, picture, len(rows))])
        rows = [row for row in rows if self.record(name, row).key not in self.generations.answered[name]]
        reasons = {row: _why_not(row, encoded) for row in rows}
        self.write([self.record(name, row, skipped=why).to_line() for row, why in reasons.items() if why])
        good = [row for row in rows if not reasons[row]]
        for start in range(0, len(good), self.batch_size):
            chunk = good[start : start + self.batch_size]
            found = self.answer(picture, chunk, encoded)
            self.write([self.record(name, row, text).to_line() for row, text in zip(chunk, found, strict=True)])

    def answer(self, picture: Picture, rows: Sequence[Row], encoded: VLMInputs) -> list[Text]:
        """The answers of some rows; those that nothing steers, and that are asked the same, run once."""
        keys = [row if row.condition.heads is not None else row.prompt for row in rows]
        distinct = dict(zip(reversed(keys), reversed(rows), strict=True))
        chosen = list(distinct.values())
        inputs = self.model.prepare([picture] * len(chosen), [row.prompt for row in chosen])
        inputs = self.model.encode(inputs, reuse=encoded)
        found = dict(zip(distinct, answers(self.model, self.protocol, inputs, chosen), strict=True))
        return [found[key] for key in keys]

    def record(self, name: str, row: Row, text: Text | None = None, skipped: str | None = None) -> Record:
        """What is written down of an answer."""
        condition, aims = row.condition, ()
        if condition.elsewhere and None not in row.aims:
            aims = tuple(astuple(aim) for aim in row.aims)
        mode = () if condition.heads is None else astuple(condition.mode)
        made = Record(
            name, condition.name, condition.draw, row.targets, row.prompt, self.seed, condition.digest, mode, aims,
            skipped=skipped,
        )  # fmt: skip
        return made if text is None else Record(**{**vars(made), **vars(text)})

    def write(self, lines: list[Line]) -> None:
        """Put lines on the disk, then into the generations."""
        for line in self.journal.append(lines):
            self.generations.add(line)


def plan(protocol: Protocol, picture: Picture, conditions: Sequence[Condition], *, seed: tuple[int, int]) -> list[Row]:
    """The answers to be made about one picture, in an order that is always the same."""
    return list(_rows(protocol, picture, conditions, seed))


def _rows(
    protocol: Protocol, picture: Picture, conditions: Sequence[Condition], seed: tuple[int, int]
) -> Iterator[Row]:
    for condition in conditions:
        for targets in protocol.targets(picture, seed=seed):
            aims: tuple[Any, ...] = targets
            if condition.elsewhere:
                names = list(picture.regions)
                aims = tuple(elsewhere(picture, name, seed=(*seed, names.index(name))) for name in targets)
            yield Row(condition, targets, protocol.prompt_for(picture, targets[0]), aims)


def _why_not(row: Row, encoded: VLMInputs) -> str | None:
    """Why a row cannot be answered: a target, or what it is steered to instead, holds no image token."""
    if None in row.aims:
        return "the target is too large: there is no place of its size elsewhere in the picture"
    try:
        for where in (*row.targets, *row.aims):
            encoded.positions_of(where)
    except RegionError as error:
        return str(error)
    return None
