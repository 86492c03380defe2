"""Find gaze heads on a folder of strips. A run writes files, can be resumed, and can be shared by several jobs.

discover(model, gl.data.read_strips("comics"), Path("out"), top=100)          # under torchrun: by all ranks together

sample_strips(model, strips, Path("out"), shard=(2, 8))                       # the third job of eight
merge_samples(Path("out"), top=100)                                           # when all eight are done
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from tqdm import tqdm

from gaze_lens import show
from gaze_lens.comics.questions import ask
from gaze_lens.data import Pictures
from gaze_lens.data.picture_digests import picture_digest
from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.model.weights_digest import weights_digest
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture
from gaze_lens.runs import processes
from gaze_lens.runs.digests import digest
from gaze_lens.runs.files import write_whole
from gaze_lens.runs.shards import Shard, check_shard, refuse_unfinished
from gaze_lens.scoring.across_processes import gather_samples
from gaze_lens.scoring.gaze_score import score_strips, scores_of, widest

Shape = tuple[int, ...]
SHARDS = "run-*-of-*.json"


def discover(
    model: Model,
    strips: Pictures,
    out: Path,
    *,
    top: int = 100,
    rank_by: str = "score",
    resume: bool = False,
) -> HeadScores:
    """Score every head on the strips and write the results into `out`.

    heads.json (the `top` heads), gaze_head_ranking.json (all heads, in the layout of the paper's authors), scores.csv,
    scores.safetensors, verdict.json, and figures. Each strip's samples are written as soon as they are computed;
    `resume` continues a run that was stopped. Strips that cannot be read are left out. Under torchrun or accelerate
    launch, each rank takes a share of the strips, all return the same scores, and the first one writes.
    Raises InputError if `out` holds another run, or a run and not `resume`.
    """
    rank, ranks = processes.launched()
    run, partial = _describe(model, strips), out / "strips"
    if rank == 0:
        _Record.begin(partial, run, (0, 1), resume=resume)
    processes.wait()
    if rank > 0:
        _Record.begin(partial, run, (0, 1), resume=True)
    shapes = _samples(model, strips, partial, (rank, ranks))
    scores = _collect(run, partial, strips.names, shapes)
    if rank == 0:
        write_results(scores, out, top=top, rank_by=rank_by)
    return scores


def sample_strips(model: Model, strips: Pictures, out: Path, *, shard: Shard, resume: bool = False) -> None:
    """One job of several that share a run. shard=(i, n) samples every n-th strip, starting with the i-th, from 0.

    The jobs may write into one folder, or each into its own folder; then copy the contents of all into one. When all
    jobs are done, `merge_samples` writes the results. Errors as for `discover`.
    """
    partial, shard = out / "strips", check_shard(shard)
    record = _Record.begin(partial, _describe(model, strips), shard, resume=resume)
    shapes = _samples(model, strips, partial, shard)
    names = strips.names[shard[0] :: shard[1]]
    record.write(names=names, left_out=[name for index, name in _share(strips.names, shard) if index not in shapes])


def merge_samples(out: Path, *, top: int = 100, rank_by: str = "score") -> HeadScores:
    """Merge the samples of all shards, then write and return what `discover` does in one process.

    Raises InputError, with the names of the shards, if some are missing, not finished, or of different runs.
    """
    partial = out / "strips"
    records = [_Record.read(path) for path in sorted(partial.glob(SHARDS))]
    if not records:
        raise InputError(f"{out} holds no shards of a run: expected what `gaze-lens discover --shard i/n` wrote.")
    for record in records[1:]:
        record.must_be_of(records[0].run)
    number = records[0].shard[1]
    refuse_unfinished(out, {record.shard: record.names is not None for record in records})
    by_first = {record.shard[0]: record.names or () for record in records}
    names = [by_first[index % number][index // number] for index in range(records[0].run["strips"])]
    left_out = {name for record in records for name in record.left_out}
    shapes = {index: _shape(partial, name) for index, name in enumerate(names) if name not in left_out}
    scores = _collect(records[0].run, partial, names, shapes)
    write_results(scores, out, top=top, rank_by=rank_by)
    return scores


def has_shards(out: Path) -> bool:
    """Whether jobs of `sample_strips` have written into a folder."""
    return any((out / "strips").glob(SHARDS))


def write_results(scores: HeadScores, out: Path, *, top: int = 100, rank_by: str = "score") -> None:
    """Write heads, tables and figures into a folder."""
    scores.save(out / "scores.safetensors")
    scores.to_csv(out / "scores.csv")
    scores.save_ranking(out / "gaze_head_ranking.json")
    scores.verdict().save(out / "verdict.json")
    heads = scores.top(min(top, scores.score.numel()), by=rank_by)
    heads.save(out / "heads.json")
    show.scores(scores).save(out / "scores.png")
    show.matrices(scores, heads[:8]).save(out / "matrices.png")


def _describe(model: Model, strips: Pictures) -> dict[str, Any]:
    """The settings of a run. A resumed run and all shards must have the same settings."""
    questions = [ask(index) for index in range(2)]
    return {
        "model": model.cfg.model_name, "fingerprint": model.fingerprint, "weights": weights_digest(model),
        "strips": len(strips), "digest": digest(repr(strips.names)), "questions": questions,
    }  # fmt: skip


@dataclass(frozen=True)
class _Record:
    """The file that describes the samples beside it.

    run: the settings. names: the strips of a shard, once it is finished. left_out: those that cannot be read.
    """

    path: Path
    run: dict[str, Any]
    shard: Shard
    names: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()

    @classmethod
    def begin(cls, partial: Path, run: dict[str, Any], shard: Shard, *, resume: bool) -> "_Record":
        """Start a folder of samples, or check that the samples there are of the same run."""
        first, number = shard
        path = partial / ("run.json" if number == 1 else f"run-{first + 1}-of-{number}.json")
        for other in sorted(partial.glob("run*.json")):
            cls.read(other).must_be_of(run)
        if path.exists() and not resume:
            raise InputError(f"{partial.parent} holds a run of these strips already; add --resume, or choose another.")
        record = cls.read(path) if path.exists() else cls(path, run, shard)
        record.write(names=record.names, left_out=record.left_out)
        return record

    @classmethod
    def read(cls, path: Path) -> "_Record":
        values = json.loads(path.read_text())
        names = None if values["names"] is None else tuple(values["names"])
        return cls(path, values["run"], tuple(values["shard"]), names, tuple(values["left_out"]))

    def write(self, *, names: Iterable[str] | None, left_out: Iterable[str]) -> None:
        values = {"run": self.run, "shard": self.shard, "left_out": [*left_out], "names": names and [*names]}
        write_whole(self.path, json.dumps(values, indent=1).encode())

    def must_be_of(self, run: dict[str, Any]) -> None:
        changed = sorted(key for key in run if self.run.get(key) != run[key])
        if changed:
            raise InputError(f"{self.path} holds a run with other {', '.join(changed)}; choose another folder.")


def _share(names: tuple[str, ...], shard: Shard) -> list[tuple[int, str]]:
    """The (index, name) of the strips of a shard."""
    return list(enumerate(names))[shard[0] :: shard[1]]


def _samples(model: Model, strips: Pictures, partial: Path, shard: Shard) -> dict[int, Shape]:
    """Write a shard's missing samples. Returns index -> shape of the sample, for the strips that can be read."""
    share = _share(strips.names, shard)
    stored = {index: _stored(strips, name, partial) for index, name in share}
    shapes = {index: shape for index, shape in stored.items() if shape is not None}
    hidden = processes.launched()[0] > 0
    with tqdm(total=len(share), initial=len(shapes), desc="strips", unit="strip", disable=hidden) as bar:
        for index, name in share:
            if index not in shapes:
                strip = _read(strips, name)
                if isinstance(strip, str):
                    bar.write(f"Left out: {strip}", file=sys.stderr)
                else:
                    shapes[index] = _sample(model, name, strip, partial)
                bar.update()
    return shapes


def _read(strips: Pictures, name: str) -> Picture | str:
    """A strip, or why it cannot be read."""
    try:
        return strips[name]
    except (ImageError, RegionError) as error:
        return str(error)


def _stored(strips: Pictures, name: str, partial: Path) -> Shape | None:
    """The shape of a strip's sample if its file exists, is complete, and is of the same picture; else None."""
    path = _path(partial, name)
    if not path.exists() or isinstance(strip := _read(strips, name), str):
        return None
    try:
        with safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get("picture") == picture_digest(strip)
            return tuple(file.get_slice("sample").get_shape()) if same else None
    except SafetensorError:  # an incomplete file, for example after a full disk
        return None


def _sample(model: Model, name: str, strip: Picture, partial: Path) -> Shape:
    """Compute the sample of a strip and write it."""
    (sample,) = score_strips(model, [strip], progress=False)
    about = {"strip": name, "picture": picture_digest(strip)}
    write_whole(_path(partial, name), save({"sample": sample.to(torch.float32)}, metadata=about))
    return tuple(sample.shape)


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
    rows = ((index, load_file(_path(partial, names[index]))["sample"]) for index in shapes)
    samples = gather_samples(rows, len(names), widest(shapes.values()))
    if not len(samples):
        raise InputError(f"No strip in {partial.parent} could be read: expected pictures with regions.")
    return scores_of(samples, model=run["model"], fingerprint=run["fingerprint"])
