"""Finding gaze heads on a folder of strips: results in files, and a run that can be broken off and resumed.

discover(model, gl.data.read_strips("comics"), Path("out"), top=100)
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from gaze_lens import show
from gaze_lens.comics import ask
from gaze_lens.data import Pictures
from gaze_lens.errors import InputError
from gaze_lens.head_scores import HeadScores
from gaze_lens.heads import write_whole
from gaze_lens.regions import Picture
from gaze_lens.scoring import collect_scores, score_strips


def discover(
    model: Any,
    strips: Pictures,
    out: Path,
    *,
    top: int = 100,
    rank_by: str = "score",
    resume: bool = False,
) -> HeadScores:
    """Score every head on the strips and write what was found into `out`.

    heads.json (the `top` heads), gaze_head_ranking.json (all, in the paper authors' layout), scores.csv,
    scores.safetensors, verdict.json, and figures. Each strip's samples are written as soon as they are made; a run
    that was broken off goes on with `resume`. Raises InputError where `out` holds another run, or one that you did not
    ask to resume.
    """
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "strips"
    _begin(partial, _describe(model, strips), resume)
    samples = [_sample(model, name, strip, partial) for name, strip in tqdm(strips.items(), desc="strips")]
    scores = collect_scores(model, samples, at="prompt")
    scores.save(out / "scores.safetensors")
    scores.to_csv(out / "scores.csv")
    scores.save_ranking(out / "gaze_head_ranking.json")
    scores.verdict().save(out / "verdict.json")
    heads = scores.top(min(top, model.cfg.n_layers * model.cfg.n_heads), by=rank_by)
    heads.save(out / "heads.json")
    show.scores(scores).save(out / "scores.png")
    show.matrices(scores, heads[:8]).save(out / "matrices.png")
    return scores


def _describe(model: Any, strips: Pictures) -> dict[str, Any]:
    """What a run is of; a resumed run must agree in all of it."""
    digest = hashlib.sha256()
    for name, strip in strips.items():
        digest.update(f"{name} {strip.image.size} {list(strip.regions)}".encode())
    questions = [ask(index) for index in range(2)]
    return {
        "model": model.cfg.model_name, "fingerprint": model.fingerprint, "strips": len(strips),
        "digest": digest.hexdigest(), "questions": questions,
    }  # fmt: skip


def _begin(partial: Path, run: dict[str, Any], resume: bool) -> None:
    """Start a folder of samples, or check that the one that is there is of the same run."""
    record = partial / "run.json"
    if not record.exists():
        partial.mkdir(parents=True, exist_ok=True)
        write_whole(record, json.dumps(run, indent=1).encode())
        return
    before = json.loads(record.read_text())
    if before != run:
        changed = sorted(key for key in run if before.get(key) != run[key])
        raise InputError(f"{partial.parent} holds a run with other {', '.join(changed)}; choose another folder.")
    if not resume:
        raise InputError(f"{partial.parent} holds a run of these strips already; add --resume, or choose another.")


def _sample(model: Any, name: str, strip: Picture, partial: Path) -> Tensor:
    """The samples of one strip: from its file where it is there and whole, else made and written."""
    path = partial / (hashlib.sha256(name.encode()).hexdigest()[:16] + ".safetensors")
    if path.exists():
        try:
            return load_file(path)["sample"]
        except SafetensorError:
            path.unlink()
    (sample,) = score_strips(model, [strip], progress=False)
    write_whole(path, save({"sample": sample.to(torch.float32)}, metadata={"strip": name}))
    return sample
