"""Judge the answers of a run, with any number of judges, without running the model again.

    results = gl.rejudge("out", gl.evaluation.judges.CaptionMatch(score="f1"))
    results = gl.rejudge("out", LikelihoodJudge(model), pictures=strips)       # a judge that needs the pictures

The judgements are stored in a file beside the generations, one line for each answer. A line says, by a digest, which
text it judged, about which picture; where the run has another text by now, it is judged again. So are errors.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from gaze_lens.data.picture_digests import names_of, pictures_digest
from gaze_lens.data.questions import Question, Questions
from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.evaluation.judges import (
    AnswerMatch,
    CaptionMatch,
    Description,
    ExactDescription,
    Judge,
    Judgement,
    LikelihoodJudge,
    NamesOnly,
)
from gaze_lens.evaluation.merge import FILE
from gaze_lens.evaluation.protocols import ANSWERS, Protocol
from gaze_lens.evaluation.records import Generations, Record, check_picture
from gaze_lens.evaluation.results import Results
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.segments import Passages, Source
from gaze_lens.regions.shapes import Box
from gaze_lens.runs.digests import digest
from gaze_lens.runs.journal import Journal, Line, header, read
from gaze_lens.runs.locks import one_writer
from gaze_lens.runs.progress import Bar

BLIND = AnswerMatch | CaptionMatch | ExactDescription | NamesOnly  # they need no pictures, only captions
CHUNK = 64  # answers that are judged, and written, together
Key = tuple[Any, ...]  # of a record
Judgements = list[dict[str, Any]]  # one for each target
Entry = tuple[str | None, Judgements]  # a digest of what was judged (None: version 0.1), and the judgements
Describer = Callable[[Record, str, str], Description]  # of a record, a target and a text


def rejudge(
    source: str | Path | Generations,
    judge: Judge | None = None,
    *,
    pictures: Sequence[Source] | None = None,
    repeated_at: float = 0.85,
    progress: bool = True,
) -> Results:
    """Judge all answers that a run has written so far.

    source: the folder that `gl.evaluate` wrote into, or what `generate_answers` returned (then nothing is written).
    judge: by default the region whose caption fits best (`CaptionMatch`); for the protocol "regions" `NamesOnly`.
    pictures: those of the run; only judges that look at pictures need them. repeated_at: as for `Results`.
    Stored judgements are not recomputed, except errors and those of another text. Their key is the judge's repr;
    without a `__repr__`, all judgements are recomputed. A picture that cannot be read any more is an error of its
    judgements, if the judge looks at pictures.
    Raises InputError if there is no such run, the pictures are not those of the run, or another process judges it.
    """
    folder = None if isinstance(source, Generations) else Path(source)
    generations = source if isinstance(source, Generations) else Generations.read(Path(source) / FILE)
    judge = _checked(judge) or default_judge(generations.protocol)
    name = name_of(judge)
    describe = _describer(generations, judge, name, pictures)
    path = None if folder is None else folder / f"judgements-{slug(name)}.jsonl"
    with one_writer(path):
        if path is not None and not _has_repr(judge):
            path.unlink(missing_ok=True)
        run = {"judge": name, "generations": digest(json.dumps(generations.run, sort_keys=True))[:16]}
        journal = Journal.open(path, header("judgements", run), resume=True)
        stored = {**_former(folder, judge, run), **dict(map(_entry, journal.lines))}
        records = [record for record in generations.records if not (record.skipped or record.failed)]
        judged = _usable(generations, records, stored, isinstance(judge, BLIND))
        todo = [record for record in records if record.key not in judged]
        bar = Bar(total=len(records), initial=len(judged), desc="judging", unit="answer", disable=not progress)
        for chunk in batched(todo, CHUNK):
            lines = json.loads(json.dumps(_judge(judge, generations, describe, chunk)))
            entries = [_entry(line) for line in lines]
            is_known = [stored.get(key) == (None, judgements) for key, (_, judgements) in entries]
            journal.append([line for line, known in zip(lines, is_known, strict=True) if not known])
            judged.update((key, judgements) for key, (_, judgements) in entries)
            bar.update(len(chunk))
        bar.close()
    return Results(generations, name, judged, repeated_at)


def batched(items: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    """The items in groups of at most so many."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _former(folder: Path | None, judge: Judge, run: Line) -> dict[Key, Entry]:
    """What version 0.1 stored about this run under the judge's name of then, if that was another one."""
    former = getattr(judge, "former_name", None)
    path = None if folder is None or former is None else folder / f"judgements-{slug(former)}.jsonl"
    if path is None or not path.exists():
        return {}
    return dict(map(_entry, read(path, kind="judgements", run={**run, "judge": former})[1]))


def _usable(
    generations: Generations, records: Sequence[Record], stored: Mapping[Key, Entry], is_blind: bool
) -> dict[Key, Judgements]:
    """The judgements that are of the texts that the run has now, and no errors.

    Version 0.1 did not store which text it judged. These are made again where that costs nothing (is_blind), and
    written down where they differ; else they count, with a warning.
    """
    judged, n_old = {}, 0
    for record in records:
        text, judgements = stored.get(record.key, ("", []))
        is_old = text is None and not is_blind
        is_same = is_old or text == _text_digest(generations, record)
        if is_same and all(judgement["error"] is None for judgement in judgements):
            judged[record.key] = judgements
            n_old += is_old
    if n_old:
        warnings.warn(
            f"{n_old} judgements are of version 0.1, which did not store which text was judged. If the run was made "
            "again since then, delete the file of judgements.",
            stacklevel=3,
        )
    return judged


def refuse_without_captions(judge: Judge | None, pictures: Sequence[Source]) -> None:
    """Raises InputError, before a model runs, if the judge compares captions and the first picture has none.

    So it does if the judge looks at pictures, and passages of text were given.
    """
    looks = isinstance(judge, LikelihoodJudge) or getattr(judge, "look", None) is True
    if looks and isinstance(pictures, list | tuple) and isinstance(pictures[0], Passages):
        raise InputError(
            f"{type(judge).__name__} looks at pictures, and passages of text were given; give a judge that compares "
            "texts: judge=gl.evaluation.judges.CaptionMatch()."
        )
    if not isinstance(_checked(judge), BLIND | None) or isinstance(pictures, Questions):
        return
    with suppress(ImageError, RegionError):  # a picture that cannot be read is skipped later
        if not pictures[0].captions and not isinstance(pictures[0], Question):
            raise InputError(
                "The pictures have no captions, and without them nothing says what is right. Give pictures with "
                "captions (in a folder, p1.txt beside p1.png), or a judge that looks at the pictures: "
                "judge=gl.evaluation.judges.LikelihoodJudge(model), --judge likelihood."
            )


def default_judge(protocol: Protocol) -> Judge:
    """The default judge of a protocol; it needs no model."""
    if protocol.name == ANSWERS:
        return AnswerMatch()
    return NamesOnly() if protocol.name == "regions" else CaptionMatch()


def _checked(judge: Any) -> Judge | None:
    """Raises InputError for an object that is no judge."""
    if not isinstance(judge, Judge | None) or isinstance(judge, type):
        raise InputError(f"judge={judge!r} was given; give a judge, such as gl.evaluation.judges.CaptionMatch('f1').")
    return judge


def name_of(judge: Judge) -> str:
    """The repr of a judge, which names its settings; the name of its class if it has no `__repr__`."""
    return repr(judge) if _has_repr(judge) else type(judge).__name__


def _has_repr(judge: Judge) -> bool:
    return type(judge).__repr__ is not object.__repr__


def slug(name: str) -> str:
    """A judge's name (`name_of`) for a file: short, and different for another judge or other settings."""
    kind = "".join(re.findall(r"\w+", name.partition("(")[0])).lower()
    return f"{kind}-{digest(name)[:6]}"


def _entry(line: Line) -> tuple[Key, Entry]:
    key = line["picture"], line["condition"], line["draw"], tuple(line["targets"])
    return key, (line.get("digest"), line["judgements"])


def _pieces(record: Record) -> list[str]:
    """The text for each target. A target that the narration did not reach has an empty text."""
    return [*record.pieces, *[""] * len(record.targets)][: len(record.targets)]


def _text_digest(generations: Generations, record: Record) -> str:
    """A fingerprint of what is judged: the texts, and the picture with its regions and captions."""
    line = generations.pictures[record.picture]
    return digest(json.dumps([_pieces(record), line["digest"], line["regions"], line["captions"]]))[:16]


def _judge(judge: Judge, generations: Generations, describe: Describer, records: Sequence[Record]) -> list[Line]:
    """The lines of some answers. Raises InputError where the judge returns too few judgements, or too many."""
    pairs = [(r, target, text) for r in records for target, text in zip(r.targets, _pieces(r), strict=True)]
    described = [_described(describe, *pair) for pair in pairs]
    descriptions = [one for one in described if isinstance(one, Description)]
    results = judge.judge_all(descriptions, progress=False)
    if len(results) != len(descriptions):
        raise InputError(
            f"{name_of(judge)} returned {len(results)} judgements of {len(descriptions)} texts, expected one for each."
        )
    judgements = iter(results)
    judged = [next(judgements) if isinstance(one, Description) else one for one in described]
    lines, start = [], 0
    for record in records:
        key = {"picture": record.picture, "condition": record.condition, "draw": record.draw}
        about = {"targets": record.targets, "digest": _text_digest(generations, record)}
        end = start + len(record.targets)
        lines.append({**key, **about, "judgements": [judgement.to_dict() for judgement in judged[start:end]]})
        start = end
    return lines


def _described(describe: Describer, record: Record, target: str, text: str) -> Description | Judgement:
    """What the judge is asked; or the judgement that its picture cannot be read any more."""
    try:
        return describe(record, target, text)
    except (ImageError, RegionError) as error:
        return Judgement(None, None, error=str(error))


def _describer(generations: Generations, judge: Judge, name: str, pictures: Sequence[Source] | None) -> Describer:
    """A function from a record, a target and a text to a `Description`."""
    if pictures is None:
        if not (isinstance(judge, BLIND) or getattr(judge, "look", None) is False):
            raise InputError(f"{name} may look at the pictures; give those of the run: pictures=.")
    elif pictures_digest(pictures) != generations.run["pictures_digest"]:
        raise InputError("These are not the pictures of the run; give the ones that it was begun with.")
    index = {} if pictures is None else {name: n for n, name in enumerate(names_of(pictures))}
    last: dict[str, Source] = {}  # the picture of the last record, by name: it is read once

    def describe(record: Record, target: str, text: str) -> Description:
        if record.picture not in last:
            last.clear()
            line = generations.pictures[record.picture]
            picture = _outline(line) if pictures is None else pictures[index[record.picture]]
            if pictures is not None:
                check_picture(line, picture)
            last[record.picture] = picture
        return Description(text, target, last[record.picture])

    return describe


def _outline(line: Line) -> Source:
    """A black picture with the size, the regions (as boxes) and the captions that the run has recorded; or passages."""
    if "passages" in line:
        return Passages.from_dict(line["passages"])
    image = Image.new("RGB", tuple(line["size"]))
    boxes = {name: Box(*bounds) for name, bounds in line["regions"].items()}
    if "question" in line:
        return Question(image, boxes, **{**line["question"], "choices": tuple(line["question"]["choices"])})
    return Picture(image, boxes, {name: caption for name, caption in line["captions"].items() if caption})
