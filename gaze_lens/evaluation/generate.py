"""Run a protocol for every picture, condition and target; each answer is on disk before the next is generated.

    generations = generate_answers(model, strips, conditions, protocol=question(), path="out/generations.jsonl")

The pictures run one after the other. An image is encoded once; conditions and targets are rows of its batches.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from gaze_lens.data.picture_digests import image_digest, names_of
from gaze_lens.data.questions import Question
from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.evaluation.ablated_rows import N_REFERENCES, Ablations
from gaze_lens.evaluation.choice_likelihoods import choice_likelihoods
from gaze_lens.evaluation.condition import Condition, checked
from gaze_lens.evaluation.protocols import Protocol, elsewhere
from gaze_lens.evaluation.records import (
    KIND,
    Generations,
    Record,
    check_picture,
    chosen_warning,
    describe,
    left_out_lines,
    picture_line,
    skipped_line,
)
from gaze_lens.evaluation.steered_rows import Row, Text, answers
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.weights_digest import settings_as_written
from gaze_lens.model_protocol import Model
from gaze_lens.regions.segments import Source
from gaze_lens.runs.journal import Journal, Line, header, same_run
from gaze_lens.runs.left_out import reasons_by_name
from gaze_lens.runs.locks import one_writer
from gaze_lens.runs.progress import Bar
from gaze_lens.runs.shards import check_shard
from gaze_lens.whole_numbers import is_count


def generate_answers(
    model: Model,
    pictures: Sequence[Source],
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
    """All answers of a run. Answers that the file has already are not generated again.

    path: a file of JSON lines; None keeps everything in memory. resume: continue the file. seed: of random orders and
    places. batch_size: answers at a time. shard: (i, n) takes every n-th picture, starting with the i-th, from 0.
    Pictures that cannot be read, and targets without an image token, are recorded as skipped; answers with logits that
    are NaN or infinite as failed, and tried again when the run is resumed. Warns of pictures that the heads were chosen
    on.
    Raises InputError if there are no pictures, if two conditions share a name, for objects that are no condition or no
    protocol, and for a file of another run or of other pictures, or one that
    another process is writing.
    """
    conditions = checked(conditions)
    if not isinstance(protocol, Protocol):
        raise InputError(f"protocol={protocol!r} was given; give what gl.evaluation.question() returns, or another.")
    if protocol.moves and any(condition.contrast is not None for condition in conditions):
        raise InputError(
            "A condition contrasts, which narrations with a target that moves do not; leave contrast= out."
        )
    if protocol.moves and any(condition.ablate for condition in conditions):
        raise InputError("Conditions that ablate heads have no target that could move; use another protocol.")
    todo = _shard(names_of(pictures), shard)
    if not is_count(batch_size):
        raise InputError(f"batch_size={batch_size!r} was given; give 1 or more.")
    settings = describe(model, pictures, protocol, conditions, seed=seed)
    with one_writer(path):
        check = partial(_same_run, model)
        journal = Journal.open(path, header(KIND, settings, shard=shard), check=check, resume=resume)
        generations = Generations.of(journal.header["run"], journal.lines)
        run = _Run(model, protocol, conditions, journal, generations, seed, batch_size, pictures)
        run.answer_all(pictures, todo, progress=progress)
    if generations.chosen:
        warnings.warn(chosen_warning(generations), stacklevel=2)
    return generations


def _same_run(model: Model, path: Path, actual: Line, expected: Line) -> None:
    """Raises InputError unless a file is of this run, with the fingerprint of weights that its version wrote."""
    written = actual.get("run")
    if isinstance(written, dict):
        expected = {**expected, "run": settings_as_written(expected["run"], written, model)}
    same_run(path, actual, expected)


def _shard(names: Sequence[str], shard: tuple[int, int]) -> list[tuple[int, str]]:
    """The (index, name) of the shard's pictures, in order."""
    first, number = check_shard(shard)
    if not names or len(set(names)) < len(names):
        raise InputError(f"{len(names)} pictures were given; give at least one, each with a name of its own.")
    return list(enumerate(names))[first::number]


@dataclass(eq=False)
class _Run:
    """A run in progress."""

    model: Model
    protocol: Protocol
    conditions: list[Condition]
    journal: Journal
    generations: Generations
    seed: int
    batch_size: int
    pictures: Sequence[Source]

    @cached_property
    def ablations(self) -> Ablations:
        """The means over the prompts of the run's first pictures, whatever its shard."""
        return Ablations(self.model, self.references)

    def references(self) -> list[VLMInputs]:
        """The prompts about the first pictures that can be read, picture by picture."""
        batches: list[VLMInputs] = []
        for index in range(len(self.pictures)):
            if len(batches) == N_REFERENCES:
                break
            try:
                picture = self.pictures[index]
                targets = self.protocol.targets(picture, seed=(self.seed, index))
                prompts = dict.fromkeys(self.protocol.prompt_for(picture, first) for first, *_ in targets)
                batches.append(self.inputs(picture, list(prompts)))
            except (ImageError, RegionError):
                continue
        return batches

    @cached_property
    def chosen_on(self) -> set[str]:
        """Fingerprints of the images that the conditions' heads were chosen on, as far as they are known."""
        return {image for condition in self.conditions if condition.heads for image in condition.heads.chosen_on}

    def answer_all(self, pictures: Sequence[Source], todo: Sequence[tuple[int, str]], *, progress: bool) -> None:
        """Write down what was left out, and the answers that are missing or have failed."""
        left_out = reasons_by_name(getattr(pictures, "left_out", {}))
        known = self.generations.left_out
        self.write(left_out_lines({name: why for name, why in left_out.items() if known.get(name) != why}))
        for index, name in todo:
            if name in self.generations.pictures:
                self.check(index, name, pictures)
        finished = self.generations.finished() - {record.picture for record in self.generations.failed}
        done = sum(name in finished for _, name in todo)
        title = f"pictures ({', '.join(dict.fromkeys(condition.name for condition in self.conditions))})"
        with Bar(total=len(todo), initial=done, desc=title, unit="picture", disable=not progress) as bar:
            for index, name in todo:
                if name not in finished:
                    self.answer_picture(index, name, pictures)
                    bar.set_postfix(answers=len(self.generations.records), refresh=False)
                    bar.update()

    def check(self, index: int, name: str, pictures: Sequence[Source]) -> None:
        """Refuse another picture than the one begun with. One that can no longer be read keeps its answers."""
        try:
            picture = pictures[index]
        except (ImageError, RegionError) as error:
            message = f"The answers about '{name}' are kept, and its picture cannot be compared with theirs: {error}"
            warnings.warn(message, stacklevel=2)
        else:
            check_picture(self.generations.pictures[name], picture)

    def answer_picture(self, index: int, name: str, pictures: Sequence[Source]) -> None:
        """Generate and write the answers about one picture that are missing."""
        try:
            picture = pictures[index]
            encoded = self.inputs(picture, ["?"])
        except (ImageError, RegionError) as error:
            self.write([skipped_line(name, str(error))])
            return
        rows = plan(self.protocol, picture, self.conditions, seed=(self.seed, index))
        if name not in self.generations.pictures:
            chosen = bool(self.chosen_on) and image_digest(picture) in self.chosen_on
            self.write([picture_line(name, picture, len(rows), chosen=chosen)])
        failed = {record.key for record in self.generations.failed}
        done = self.generations.answered[name] - failed
        rows = [row for row in rows if self.record(name, row).key not in done]
        reasons = {row: _reason_to_skip(row, encoded) for row in rows}
        self.write([self.record(name, row, skipped=reason).to_line() for row, reason in reasons.items() if reason])
        rows = [row for row in rows if not reasons[row]]
        for start in range(0, len(rows), self.batch_size):
            chunk = rows[start : start + self.batch_size]
            texts = self.answer(picture, chunk, encoded)
            self.write([self.record(name, row, text).to_line() for row, text in zip(chunk, texts, strict=True)])

    def inputs(self, picture: Source, prompts: list[str], reuse: VLMInputs | None = None) -> VLMInputs:
        """Prompts about one picture, which is encoded; passages of text have nothing to encode."""
        inputs = self.model.prepare([picture] * len(prompts), prompts)
        return self.model.encode(inputs, reuse=reuse) if inputs.maps else inputs

    def answer(self, picture: Source, rows: Sequence[Row], encoded: VLMInputs) -> list[Text]:
        """The answers of some rows. Rows without a target, of one prompt, have one answer: it is generated once."""
        keys = [
            (row.condition.key, row.prompt) if row.condition.ablate
            else row if row.condition.heads is not None else row.prompt
            for row in rows
        ]  # fmt: skip
        distinct = dict(zip(reversed(keys), reversed(rows), strict=True))
        batch = list(distinct.values())
        texts: dict[Any, Text] = {}
        for contrast in dict.fromkeys(row.condition.contrast for row in batch):  # each is a decoding of its own
            group = {key: row for key, row in distinct.items() if row.condition.contrast == contrast}
            texts.update(zip(group, self.written(picture, list(group.values()), encoded), strict=True))
        return [texts[key] for key in keys]

    def written(self, picture: Source, rows: list[Row], encoded: VLMInputs) -> list[Text]:
        """The answers of rows of one decoding; with the likelihoods of choices, unless branches are contrasted."""
        inputs = self.inputs(picture, [row.prompt for row in rows], reuse=encoded)
        texts = answers(self.model, self.protocol, inputs, rows, self.ablations)
        if isinstance(picture, Question) and rows[0].condition.contrast is None:
            chances = choice_likelihoods(self.model, self.protocol, picture, rows, encoded, self.ablations)
            texts = [replace(text, likelihoods=each) for text, each in zip(texts, chances, strict=True)]
        return texts

    def record(self, name: str, row: Row, text: Text | None = None, skipped: str | None = None) -> Record:
        """The record of an answer, or of a row that was skipped."""
        condition = row.condition
        boxes: tuple[Any, ...] = ()
        if condition.elsewhere and None not in row.steered_to:
            boxes = tuple(astuple(box) for box in row.steered_to)
        by_logits = condition.heads is not None and not condition.ablate and not condition.shares
        mode = astuple(condition.mode) if by_logits else ()
        contrast = {} if condition.contrast is None else {"contrast": condition.contrast}
        answer = {**condition.shares, **contrast, **({} if text is None else vars(text))}
        return Record(
            name, condition.name, condition.draw, row.targets, row.prompt, self.seed, condition.digest, mode, boxes,
            skipped=skipped, **answer,
        )  # fmt: skip

    def write(self, lines: list[Line]) -> None:
        """Write lines to the disk, then add them to the generations."""
        for line in self.journal.append(lines):
            self.generations.add(line)


def plan(protocol: Protocol, picture: Source, conditions: Sequence[Condition], *, seed: tuple[int, int]) -> list[Row]:
    """The answers to generate about one picture, in an order that is always the same."""
    return list(_rows(protocol, picture, conditions, seed))


def _rows(protocol: Protocol, picture: Source, conditions: Sequence[Condition], seed: tuple[int, int]) -> Iterator[Row]:
    for condition in conditions:
        for targets in protocol.targets(picture, seed=seed):
            places: tuple[Any, ...] = targets
            if condition.elsewhere:
                names = list(picture.regions)
                places = tuple(elsewhere(picture, name, seed=(*seed, names.index(name))) for name in targets)
            yield Row(condition, targets, protocol.prompt_for(picture, targets[0]), places)


def _reason_to_skip(row: Row, encoded: VLMInputs) -> str | None:
    """Why a row cannot be steered (a target, or the place elsewhere, has no image token); None if it can."""
    if None in row.steered_to:
        return "the target is too large: there is no place of its size elsewhere in the picture"
    try:
        for place in (*row.targets, *row.steered_to):
            encoded.positions_of(place)
    except RegionError as error:
        return str(error)
    condition = row.condition
    mode = condition.mode
    inert = condition.keep if condition.shares else not (mode.target or mode.prompt or mode.generated)
    if condition.heads is not None and not condition.ablate and inert and _is_whole(row, encoded):
        return "the target is the whole picture, and within it this condition has nothing to move"
    return None


def _is_whole(row: Row, encoded: VLMInputs) -> bool:
    """Whether a target is the whole picture, as that of a question without a region."""
    return any(len(encoded.positions_of(place)) == len(encoded.layout.images[0]) > 0 for place in row.targets)
