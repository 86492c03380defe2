"""Scores of all heads over 100 sets, for each form of question; the verdict; how stable the ranking is."""

from contextlib import nullcontext
from typing import Any

import gaze_lens as gl
from studies.text_heads.common import K, Study, plain_prompts, scored_sets
from studies.text_heads.rankings import RANKINGS, ranked
from studies.text_heads.texts import FORMS, LABEL, NUMBER, SIZE

BARE, BARE_LABELLED, ANSWER = "bare number", "bare number, label inside", "answer"
SCORED = (*FORMS, BARE, BARE_LABELLED, ANSWER)
WORDINGS = {  # another question, other labels
    "Repeat segment 3.": (LABEL, [f"Repeat segment {k}." for k in range(1, SIZE + 1)]),
    "What does (3) say?": ("({k})", [f"What does ({k}) say?" for k in range(1, SIZE + 1)]),
}
N_WORDED = 20
N_FEWER = 40  # sets for the scores that are about the mechanism


def scores_for(study: Study, form: str) -> gl.HeadScores:
    """The scores for a form of question, from their file where they have been made."""
    path = study.work / f"scores {form}.safetensors"
    if not path.exists():
        study.work.mkdir(parents=True, exist_ok=True)
        _score(study.model, form).save(path)
    return gl.HeadScores.load(path)


def _score(model: gl.HookedVLM, form: str) -> gl.HeadScores:
    sets = scored_sets() if form in FORMS else scored_sets()[:N_FEWER]
    bare = form in (BARE, BARE_LABELLED)
    asked = [one.questions(NUMBER if bare or form == ANSWER else form) for one in sets]
    questions = [[question.rstrip("?") for question in one] for one in asked] if bare else asked
    passages = [one.passages(label_inside=form == BARE_LABELLED) for one in sets]
    with plain_prompts(model) if bare else nullcontext():
        return gl.score_heads(model, passages, prompts=questions, at="answer" if form == ANSWER else "prompt")


def score(study: Study) -> dict[str, Any]:
    """Step: for each form the verdict, the best heads of each ranking, and the numbers of every head."""
    return {form: _summary(scores_for(study, form)) for form in SCORED}


def _summary(scores: gl.HeadScores) -> dict[str, Any]:
    low, high = scores.interval("contrast")
    best = {by: [str(head) for head in ranked(scores, by)[:K]] for by in RANKINGS}
    top = [
        {"head": str(head), "score": scores.score[head].item(), "contrast": scores.contrast[head].item(),
         "low": low[head].item(), "high": high[head].item()}
        for head in scores.top(10, by="contrast")
    ]  # fmt: skip
    numbers = {"mass": scores.score.tolist(), "contrast": scores.contrast.tolist()}
    return {"verdict": scores.verdict().to_dict(), "best": best, "top": top, **numbers}


def stability(study: Study) -> dict[str, Any]:
    """Step: do halves of the sets, other forms and other wordings rank the same heads first?"""
    by_form = {form: scores_for(study, form) for form in SCORED}
    halves = {form: _compared(*(gl.HeadScores(half) for half in one.samples.chunk(2))) for form, one in by_form.items()}
    forms = {
        f"{one} / {other}": _compared(by_form[one], by_form[other])
        for index, one in enumerate(SCORED)
        for other in SCORED[index + 1 :]
    }
    wordings = {name: _compared(by_form[NUMBER], _worded(study, name)) for name in WORDINGS}
    return {"halves": halves, "forms": forms, "wordings": wordings}


def _worded(study: Study, name: str) -> gl.HeadScores:
    labels, questions = WORDINGS[name]
    sets = [one.passages(labels) for one in scored_sets()[:N_WORDED]]
    return gl.score_heads(study.model, sets, prompts=questions)


def _compared(one: gl.HeadScores, other: gl.HeadScores) -> dict[str, Any]:
    """Shared heads among the best 20, and the rank correlation of all, by mass and by contrast."""
    found = {}
    for by in ("score", "contrast"):
        comparison = gl.compare_heads(one, other, counts=[K], by=by)
        (overlap,) = comparison.overlaps
        rho = comparison.rank_correlation
        found[by] = {"shared": overlap.shared, "expected": overlap.expected, "p": overlap.p, "rho": rho}
    return found
