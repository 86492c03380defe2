"""Where heads look while the model recites the passages, unsteered: the staircase."""

from dataclasses import replace
from typing import Any

import gaze_lens as gl
from gaze_lens.evaluation.statistics import mean
from studies.text_heads.common import K, Study, tested_sets
from studies.text_heads.completion import RECITE
from studies.text_heads.rankings import RANKINGS, ranked
from studies.text_heads.scoring import ANSWER, NUMBER, scores_for
from studies.text_heads.steering import DRAWS, chosen

N_RECITED, TOKENS = 8, 45


def recitation(study: Study) -> dict[str, Any]:
    """Step: at words of one passage only, the share of mass on segments that is on it; and how often it has most."""
    every = study.every_head()
    tracked = [recited(study, index, every) for index in range(N_RECITED)]
    reciting = [index for index, one in enumerate(tracked) if _recites(one)]
    found = {
        name: _agreement([tracked[index] for index in reciting], every, heads)
        for name, heads in _head_sets(study).items()
    }
    return {"texts": [str(one.generation) for one in tracked], "reciting": reciting, "agreement": found}


def _recites(trajectory: gl.Trajectory) -> bool:
    """Whether the text holds a passage, word for word."""
    return any(text.rstrip(".") in str(trajectory.generation) for text in trajectory.captions.values())


def recited(study: Study, index: int, heads: gl.HeadSet) -> gl.Trajectory:
    """A recitation of a tested set, and where heads look meanwhile."""
    inputs = study.model.prepare(tested_sets()[index].passages(), RECITE)
    return gl.track(study.model, inputs, heads, max_new_tokens=TOKENS)


def _head_sets(study: Study) -> dict[str, gl.HeadSet]:
    scores, heads = scores_for(study, NUMBER), chosen(study)
    best = {f"{by}, by number": ranked(scores, by)[:K] for by in RANKINGS}
    answering = {"contrast, at the answer": ranked(scores_for(study, ANSWER), "contrast")[:K]}
    uniform = {f"uniform {seed}": scores.controls(len(heads), seed=seed, below=100) for seed in range(DRAWS)}
    return {"chosen": heads} | best | answering | uniform


def _agreement(tracked: list[gl.Trajectory], every: gl.HeadSet, heads: gl.HeadSet) -> dict[str, Any]:
    """The mean over recitations, with intervals."""
    found = [_of(one, every, heads).agreement(one.described_by_words()) for one in tracked]
    owners = range(len(found))
    return {
        "looked": mean([one.looked for one in found], owners).to_dict(),
        "mass": mean([one.mass for one in found], owners).to_dict(),
    }


def _of(trajectory: gl.Trajectory, every: gl.HeadSet, heads: gl.HeadSet) -> gl.Trajectory:
    """The trajectory of some of the heads."""
    index = [every.heads.index(head) for head in heads]
    numbers = {name: getattr(trajectory, name)[:, index] for name in ("mass", "on_image", "entropy", "sink")}
    return replace(trajectory, heads=heads, **numbers)
