"""Judge the answers of a run, with any number of judges, without running the model again.

    results = gl.rejudge("out", gl.evaluation.judges.CaptionMatch(score="f1"))
    results = gl.rejudge("out", LikelihoodJudge(model), pictures=strips)       # a judge that needs the pictures

The judgements are stored in a file beside the generations, one line for each answer. Errors are tried again.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from gaze_lens.data.picture_digests import names_of, pictures_digest
from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.evaluation.judges import CaptionMatch, Description, ExactDescription, Judge, NamesOnly
from gaze_lens.evaluation.merge import FILE
from gaze_lens.evaluation.protocols import Protocol
from gaze_lens.evaluation.records import Generations, Record, check_picture
from gaze_lens.evaluation.results import Results
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.shapes import Box
from gaze_lens.runs.digests import digest
from gaze_lens.runs.journal import Journal, Line, header

BLIND = CaptionMatch | ExactDescription | NamesOnly  # they need no pictures, only captions
CHUNK = 64  # answers that are judged, and written, together


def rejudge(
    source: str | Path | Generations,
    judge: Judge | None = None,
    *,
    pictures: Sequence[Picture] | None = None,
    progress: bool = True,
) -> Results:
    """Judge all answers that a run has written so far.

    source: the folder that `gl.evaluate` wrote into, or what `generate_answers` returned (then nothing is written).
    judge: by default the region whose caption fits best (`CaptionMatch`); for the protocol "regions" `NamesOnly`.
    pictures: those of the run; only judges that look at pictures need them.
    Stored judgements are not recomputed, except errors. Their key is the judge's repr; without a `__repr__`, all
    judgements are recomputed.
    Raises InputError if there is no such run, or the pictures are not those of the run.
    """
    folder = None if isinstance(source, Generations) else Path(source)
    generations = source if isinstance(source, Generations) else Generations.read(Path(source) / FILE)
    judge = _checked(judge) or default_judge(generations.protocol)
    describe = _describer(generations, judge, pictures)
    path = None if folder is None else folder / f"judgements-{slug(name_of(judge))}.jsonl"
    if path is not None and not _has_repr(judge):
        path.unlink(missing_ok=True)
    run = {"judge": name_of(judge), "generations": digest(json.dumps(generations.run, sort_keys=True))[:16]}
    journal = Journal.open(path, header("judgements", run), resume=True)
    judged = dict(map(_entry, journal.lines))
    records = [record for record in generations.records if not record.skipped]
    todo = [record for record in records if not _is_complete(judged.get(record.key))]
    done = len(records) - len(todo)
    with tqdm(total=len(records), initial=done, desc="judging", unit="answer", disable=not progress) as bar:
        remaining = iter(todo)
        while chunk := list(islice(remaining, CHUNK)):
            judged.update(map(_entry, journal.append(list(_judge(judge, describe, chunk)))))
            bar.update(len(chunk))
    return Results(generations, name_of(judge), judged)


def refuse_without_captions(judge: Judge | None, pictures: Sequence[Picture]) -> None:
    """Raises InputError, before a model runs, if the judge compares captions and the first picture has none."""
    if not isinstance(_checked(judge), BLIND | None):
        return
    with suppress(ImageError, RegionError):  # a picture that cannot be read is skipped later
        if not pictures[0].captions:
            raise InputError(
                "The pictures have no captions, and without them nothing says what is right. Give pictures with "
                "captions (in a folder, p1.txt beside p1.png), or a judge that looks at the pictures: "
                "judge=gl.evaluation.judges.LikelihoodJudge(model), --judge likelihood."
            )


def default_judge(protocol: Protocol) -> Judge:
    """The default judge of a protocol; it needs no model."""
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


def _entry(line: Line) -> tuple[tuple[Any, ...], list[dict[str, Any]]]:
    return (line["picture"], line["condition"], line["draw"], tuple(line["targets"])), line["judgements"]


def _is_complete(judgements: list[dict[str, Any]] | None) -> bool:
    return judgements is not None and all(judgement["error"] is None for judgement in judgements)


def _judge(judge: Judge, describe: Any, records: Sequence[Record]) -> Iterator[Line]:
    """The lines of some answers. A target that the narration did not reach has an empty text."""
    texts = [[*record.pieces, *[""] * len(record.targets)][: len(record.targets)] for record in records]
    pairs = [
        (r, t, x) for r, pieces in zip(records, texts, strict=True) for t, x in zip(r.targets, pieces, strict=True)
    ]
    results = iter(judge.judge_all([describe(*pair) for pair in pairs], progress=False))
    for record in records:
        judgements = [next(results).to_dict() for _ in record.targets]
        key = {"picture": record.picture, "condition": record.condition, "draw": record.draw}
        yield {**key, "targets": record.targets, "judgements": judgements}


def _describer(generations: Generations, judge: Judge, pictures: Sequence[Picture] | None) -> Any:
    """A function from a record, a target and a text to a `Description`."""
    if pictures is None:
        if not (isinstance(judge, BLIND) or getattr(judge, "look", None) is False):
            raise InputError(f"{name_of(judge)} may look at the pictures; give those of the run: pictures=.")
    elif pictures_digest(pictures) != generations.run["pictures_digest"]:
        raise InputError("These are not the pictures of the run; give the ones that it was begun with.")
    index = {} if pictures is None else {name: n for n, name in enumerate(names_of(pictures))}
    last: dict[str, Picture] = {}  # the picture of the last record, by name: it is read once

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


def _outline(line: Line) -> Picture:
    """A black picture with the size, the regions (as boxes) and the captions that the run has recorded."""
    image = Image.new("RGB", tuple(line["size"]))
    boxes = {name: Box(*bounds) for name, bounds in line["regions"].items()}
    return Picture(image, boxes, {name: caption for name, caption in line["captions"].items() if caption})
