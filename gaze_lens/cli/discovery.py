"""Find gaze heads on a folder of strips. A run writes files, can be resumed, and can be shared by several jobs.

discover(model, gl.data.read_strips("comics"), Path("out"), top=100)          # under torchrun: by all ranks together

sample_strips(model, strips, Path("out"), shard=(2, 8))                       # the third job of eight
merge_samples(Path("out"), top=100)                                           # when all eight are done
"""

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from gaze_lens import show
from gaze_lens.cli.run_record import SHARDS, RunRecord
from gaze_lens.comics.questions import ask, question_from
from gaze_lens.data import Pictures
from gaze_lens.data.picture_digests import image_digest, picture_digest
from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.preparation import prompt_digest
from gaze_lens.model.weights_digest import weights_digest
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture
from gaze_lens.runs import processes
from gaze_lens.runs.digests import digest
from gaze_lens.runs.files import read_json, write_whole
from gaze_lens.runs.left_out import reasons_by_name
from gaze_lens.runs.locks import one_writer
from gaze_lens.runs.progress import Bar
from gaze_lens.runs.shards import Shard, check_shard, refuse_unfinished
from gaze_lens.scoring.across_processes import gather_samples
from gaze_lens.scoring.gaze_score import read_strips, scores_of, widest
from gaze_lens.scoring.image_readings import ImageReadings

Shape = tuple[int, ...]
LEFT_OUT = "left_out.json"


def discover(
    model: Model,
    strips: Pictures,
    out: Path,
    *,
    top: int = 100,
    rank_by: str = "score",
    question: str | None = None,
    resume: bool = False,
) -> HeadScores:
    """Score every head on the strips and write the results into `out`.

    heads.json (the `top` heads), scores.csv, scores.safetensors, gaze_head_ranking.json, gaze_scores.npy and
    mean_panel_attention.npy (as the paper's authors' discovery writes them), verdict.json, left_out.json (strips that
    could not be read, and why) and figures. Each strip's samples are written as soon as they are computed; `resume`
    continues a run that was stopped. Under torchrun or accelerate launch, each rank takes a share of the strips, all
    return the same scores, and the first one writes. rank_by: as for `scores.top`.
    question: about each panel, in place of `gl.comics.ask`, with {n} or {ordinal} where it names the panel.
    Raises InputError if `out` holds another run, or a run and not `resume`.
    """
    rank, ranks = processes.launched()
    run, partial = _describe(model, strips, question), out / "strips"
    with one_writer(partial / "run.json" if rank == 0 else None):
        if rank == 0:
            RunRecord.begin(partial, model, run, (0, 1), resume=resume)
        processes.wait()
        if rank > 0:
            RunRecord.begin(partial, model, run, (0, 1), resume=True)
        shapes, left_out = _samples(model, strips, partial, (rank, ranks), question)
        scores = _collect(run, partial, strips.names, shapes)
        left_out = {name: why for part in processes.gathered(left_out) for name, why in part.items()}
        if rank == 0:
            write_results(scores, out, top=top, rank_by=rank_by, left_out={**_before(strips), **left_out})
    return scores


def sample_strips(
    model: Model, strips: Pictures, out: Path, *, shard: Shard, question: str | None = None, resume: bool = False
) -> dict[str, str]:
    """One job of several that share a run. shard=(i, n) samples every n-th strip, starting with the i-th, from 0.

    The jobs may write into one folder, or each into its own folder; then copy the contents of all into one. When all
    jobs are done, `merge_samples` writes the results. Returns name -> reason, of the strips that were left out.
    question, errors: as for `discover`.
    """
    partial, shard = out / "strips", check_shard(shard)
    with one_writer(RunRecord.path_of(partial, shard)):
        record = RunRecord.begin(partial, model, _describe(model, strips, question), shard, resume=resume)
        _, left_out = _samples(model, strips, partial, shard, question)
        left_out = {**_before(strips), **left_out}
        record.write(names=strips.names[shard[0] :: shard[1]], left_out=left_out)
    return left_out


def merge_samples(out: Path, *, top: int = 100, rank_by: str = "score") -> HeadScores:
    """Merge the samples of all shards, then write and return what `discover` does in one process.

    Raises InputError, with the names of the shards, if some are missing, not finished, or of different runs.
    """
    partial = out / "strips"
    records = [RunRecord.read(path) for path in sorted(partial.glob(SHARDS))]
    if not records:
        raise InputError(f"{out} holds no shards of a run: expected what `gaze-lens discover --shard i/n` wrote.")
    for record in records:
        record.must_be_of(records[0].run)
        record.must_be_in_place()
    number = records[0].shard[1]
    refuse_unfinished(out, {record.shard: record.names is not None for record in records})
    _refuse_other_names(out, records)
    by_first = {record.shard[0]: record.names or () for record in records}
    names = [by_first[index % number][index // number] for index in range(records[0].run["strips"])]
    left_out = {name: why for record in records for name, why in record.left_out.items()}
    shapes = {index: _shape(partial, name) for index, name in enumerate(names) if name not in left_out}
    with one_writer(partial / "run.json"):
        scores = _collect(records[0].run, partial, names, shapes)
        write_results(scores, out, top=top, rank_by=rank_by, left_out=left_out)
    return scores


def _refuse_other_names(out: Path, records: Sequence[RunRecord]) -> None:
    """Raises InputError where the shards do not have, together, as many strips as the run."""
    strips, number = records[0].run["strips"], records[0].shard[1]
    for record in records:
        expected = len(range(record.shard[0], strips, number))
        if len(record.names or ()) != expected:
            raise InputError(
                f"{record.path} names {len(record.names or ())} strips, expected {expected} of {strips}: it is damaged."
                f" Delete it, run its shard again, and merge {out} again."
            )


def has_shards(out: Path) -> bool:
    """Whether jobs of `sample_strips` have written into a folder."""
    return any((out / "strips").glob(SHARDS))


def write_results(
    scores: HeadScores,
    out: Path,
    *,
    top: int = 100,
    rank_by: str = "score",
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Write heads, tables and figures into a folder. left_out: strip -> why it has no sample."""
    scores.save(out / "scores.safetensors")
    scores.to_csv(out / "scores.csv")
    scores.save_published(out)
    verdict = scores.verdict()
    verdict.save(out / "verdict.json")
    heads = scores.top(max(1, min(top, len(scores.ranked(rank_by)))), by=rank_by)
    if len(heads) == scores.score.numel():
        heads = heads.as_ranking(recommended=len(verdict.heads))
    provenance = {**heads.provenance, "verdict": str(verdict)}
    HeadSet(heads, model=heads.model, fingerprint=heads.fingerprint, provenance=provenance).save(out / "heads.json")
    write_whole(out / LEFT_OUT, json.dumps(dict(left_out or {}), indent=1).encode())
    show.scores(scores).save(out / "scores.png")
    show.matrices(scores, heads[:8]).save(out / "matrices.png")


def left_out_of(out: Path) -> dict[str, str]:
    """Strip -> why it was left out, of the results in a folder."""
    left_out = read_json(out / LEFT_OUT, "what `gaze-lens discover` left out, with the reasons")
    if not isinstance(left_out, dict) or not all(isinstance(reason, str) for reason in left_out.values()):
        raise InputError(f"{out / LEFT_OUT} is damaged: expected a JSON object of names and reasons. Merge again.")
    return left_out


def _before(strips: Pictures) -> dict[str, str]:
    """Name -> why, of what was left out before any strip was read."""
    return reasons_by_name(strips.left_out)


def _describe(model: Model, strips: Pictures, question: str | None) -> dict[str, Any]:
    """The settings of a run. A resumed run and all shards must have the same settings."""
    questions = [(_prompts(question) or ask)(index) for index in range(2)]
    return {
        "model": model.cfg.model_name, "fingerprint": model.fingerprint, "weights": weights_digest(model),
        "strips": len(strips), "digest": digest(repr(strips.names)), "questions": questions,
        "question": question,  # None is the library's own
        "rendered_prompt": prompt_digest(model.processor, model.family),
        "fit": None if strips.fit is None else str(strips.fit),
    }  # fmt: skip


def _prompts(question: str | None) -> Callable[[int], str] | None:
    """A panel's index -> the question about it; None is the default of `read_strips`, which for panels is `ask`."""
    return None if question is None else question_from(question)


def _share(names: tuple[str, ...], shard: Shard) -> list[tuple[int, str]]:
    """The (index, name) of the strips of a shard."""
    return list(enumerate(names))[shard[0] :: shard[1]]


def _samples(
    model: Model, strips: Pictures, partial: Path, shard: Shard, question: str | None
) -> tuple[dict[int, Shape], dict[str, str]]:
    """Write a shard's missing samples.

    Returns index -> shape of the sample, for the strips that can be read; and name -> why, for the others.
    """
    share = _share(strips.names, shard)
    stored = {index: _stored(strips, name, partial) for index, name in share}
    shapes = {index: shape for index, shape in stored.items() if shape is not None}
    left_out: dict[str, str] = {}
    hidden = processes.launched()[0] > 0
    with Bar(total=len(share), initial=len(shapes), desc="strips", unit="strip", disable=hidden) as bar:
        for index, name in share:
            if index not in shapes:
                strip = _read(strips, name)
                if isinstance(strip, str):
                    left_out[name] = strip
                    bar.write(f"Left out: {strip}", file=sys.stderr)
                else:
                    shapes[index] = _sample(model, name, strip, partial, question)
                bar.update()
    return shapes, left_out


def _read(strips: Pictures, name: str) -> Picture | str:
    """A strip, or why it cannot be read."""
    try:
        return strips[name]
    except (ImageError, RegionError) as error:
        return str(error)


def _stored(strips: Pictures, name: str, partial: Path) -> Shape | None:
    """The shape of a strip's sample if its file exists, is complete, and is of the same picture; else None.

    Where the picture can no longer be read, its sample counts.
    """
    path = _path(partial, name)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            about, shape = file.metadata() or {}, tuple(file.get_slice("sample").get_shape())
    except SafetensorError:  # an incomplete file, for example after a full disk
        return None
    strip = _read(strips, name)
    if isinstance(strip, str):
        message = f"The sample of '{name}' is kept, and its picture cannot be compared with it: {strip}"
        warnings.warn(message, stacklevel=2)
        return shape
    return shape if about.get("picture") == picture_digest(strip) else None


def _sample(model: Model, name: str, strip: Picture, partial: Path, question: str | None) -> Shape:
    """Compute the sample of a strip and write it."""
    (reading,) = read_strips(model, [strip], prompts=_prompts(question), progress=False)
    tensors = {"sample": reading.sample, "image_mass": reading.image_mass}
    if reading.mean_map is not None:
        tensors["mean_map"] = reading.mean_map
    about = {"strip": name, "picture": picture_digest(strip), "image": image_digest(strip)}
    contiguous = {key: value.to(torch.float32).contiguous() for key, value in tensors.items()}
    write_whole(_path(partial, name), save(contiguous, metadata=about))
    return tuple(reading.sample.shape)


def _path(partial: Path, name: str) -> Path:
    return partial / (digest(name)[:16] + ".safetensors")


def _shape(partial: Path, name: str) -> Shape:
    """The shape of a stored sample. Raises InputError if the file is missing or damaged."""
    try:
        with safe_open(_path(partial, name), "pt") as file:
            return tuple(file.get_slice("sample").get_shape())
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The sample of strip '{name}' in {partial} is missing or damaged ({error}): run its shard again, with "
            "--resume, and merge again."
        ) from error


def _collect(run: dict[str, Any], partial: Path, names: Sequence[str], shapes: Mapping[int, Shape]) -> HeadScores:
    """The scores of all samples; with several ranks, of the samples of all ranks. The files are read one by one."""
    image = ImageReadings()

    def read(index: int) -> torch.Tensor:
        tensors = load_file(_path(partial, names[index]))
        image.add(index, tensors.get("image_mass"), tensors.get("mean_map"))  # version 0.1 wrote neither
        return tensors["sample"]

    rows = ((index, read(index)) for index in shapes)
    samples = gather_samples(rows, len(names), widest(shapes.values()))
    if not len(samples):
        raise InputError(f"No strip in {partial.parent} could be read: expected pictures with regions.")
    parts = processes.gathered({index: _image(partial, names[index]) for index in shapes})
    images = {index: image for part in parts for index, image in part.items() if image is not None}
    return scores_of(
        samples, model=run["model"], fingerprint=run["fingerprint"],
        images=[images[index] for index in sorted(images)], image=image.of_all_ranks(),
    )  # fmt: skip


def _image(partial: Path, name: str) -> str | None:
    """The fingerprint of a strip's image; None in a sample that version 0.1 wrote."""
    with safe_open(_path(partial, name), "pt") as file:
        return (file.metadata() or {}).get("image")
