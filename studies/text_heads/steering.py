"""Steering an open question to each segment of held-out sets: rankings, controls, number of heads, strength, place."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import gaze_lens as gl
from gaze_lens.evaluation import Condition, Results, dynamic_narration, question, strengths
from studies.text_heads.common import K, Study, tested_sets, tuned_sets
from studies.text_heads.rankings import ranked, same_per_layer
from studies.text_heads.scoring import ANSWER, BARE, BARE_LABELLED, scores_for
from studies.text_heads.texts import FORMS, LONG, NUMBER, OPEN, PassageSet, make_sets

TOKENS = 10
GRID = [(form, by) for form in (*FORMS, ANSWER, BARE, BARE_LABELLED) for by in ("mass", "contrast")]
GRID += [(form, by) for form in (NUMBER, ANSWER) for by in ("selectivity", "routing")] + [(NUMBER, "all text")]
COUNTS = (1, 5, 10, 40)  # beside 20, which the grid has
STRENGTHS = (1, 3, 10)
DRAWS = 10
TESTED = ("mass", "contrast", "selectivity", "all text")
N_DRAWN = 2  # sets for each random draw
N_OTHER, N_NARRATED = 2, 4
OTHER_OPEN = "What does this part say?"


def evaluated(study: Study, name: str, sets: Sequence[gl.Passages], conditions: list[Condition], **options: Any) -> Any:
    """`gl.evaluate` of an open question; a run that was stopped goes on."""
    protocol = options.pop("protocol", question(OPEN, max_new_tokens=TOKENS))
    out = study.work / name
    return gl.evaluate(study.model, sets, conditions, protocol=protocol, out=out, resume=out.exists(), **options)


def table(results: Results) -> dict[str, Any]:
    """Condition -> its row: accuracy, interval, number of answers; for several draws the least and the most."""
    rows = results.table().to_dict("records")
    names = ("heads", "accuracy", "low", "high", "n", "least", "most", "repeats", "rho", "rho_low", "rho_high")
    return {row["condition"]: {name: row[name] for name in names if name in row} for row in rows}


def passages(sets: Iterable[PassageSet], labels: str | None = None) -> list[gl.Passages]:
    """The sets as prompts have them."""
    return [one.passages(labels) if labels else one.passages() for one in sets]


def grid(study: Study) -> dict[str, Any]:
    """Step: the best 20 heads of each ranking under each form of question; the best cell is chosen."""
    conditions = [Condition(f"{form}: {by}", ranked(scores_for(study, form), by)[:K]) for form, by in GRID]
    found = table(evaluated(study, "grid", passages(tuned_sets()), [*conditions, Condition("none")]))
    best = max((condition.name for condition in conditions), key=lambda name: found[name]["accuracy"])
    return {"chosen": best, "conditions": found}


def curves(study: Study) -> dict[str, Any]:
    """Step: the number of heads, of the two best cells of the grid; the best number is chosen; then the strength."""
    in_grid, sets = study.result("grid")["conditions"], passages(tuned_sets())
    cells = {"chosen": chosen_ranking(study), "rival": rival_ranking(study)}
    orders = {name: ranked(scores_for(study, form), by) for name, (form, by) in cells.items()}
    conditions = [
        Condition(f"{name} {count}", order[:count], curve="heads") for name, order in orders.items() for count in COUNTS
    ]
    counts = {f"{name} {K}": in_grid[": ".join(cell)] for name, cell in cells.items()}
    counts |= table(evaluated(study, "counts", sets, conditions))
    best = max((K, *COUNTS), key=lambda count: counts[f"chosen {count}"]["accuracy"])
    biases = strengths(orders["chosen"][:best], STRENGTHS)
    strong = table(evaluated(study, "strengths", sets, biases))
    return {"cells": cells, "counts": counts, "k": best, "strengths": strong}


def places(study: Study) -> dict[str, Any]:
    """Step: the four modes, and where the bias acts: in the prompt, after the passages, while it writes."""
    heads, sets = chosen(study), passages(tuned_sets())
    modes: tuple[Callable[[], gl.Mode], ...] = (gl.suppress_image, gl.suppress_all, gl.max_suppress_all)
    conditions = [Condition(mode.__name__, heads, mode()) for mode in modes]
    found = {"modes": table(evaluated(study, "modes", sets, conditions))}
    for where in (("prefill",), ("decode",), ("after image", "decode")):
        protocol = replace(question(OPEN, max_new_tokens=TOKENS), where=where)
        name = " and ".join(where)
        results = evaluated(study, f"where {name}", sets, [Condition(name, heads)], protocol=protocol)
        found[name] = table(results)[name]
    return found


def test(study: Study) -> dict[str, Any]:
    """Step: the chosen heads, as many of each other ranking of the same scores, all heads and none, on other sets."""
    form, by = chosen_ranking(study)
    scores, k = scores_for(study, form), study.result("curves")["k"]
    conditions = [Condition("chosen", chosen(study))]
    conditions += [Condition(other, ranked(scores, other)[:k]) for other in TESTED if other != by]
    rival_form, rival = rival_ranking(study)
    conditions += [Condition(f"{rival_form}: {rival}", ranked(scores_for(study, rival_form), rival)[:k])]
    conditions += [Condition("all heads", study.every_head()), Condition("none")]
    results = evaluated(study, "test", passages(tested_sets()), conditions)
    differences = results.comparisons().to_dict("records")
    return {"form": form, "by": by, "k": k, "conditions": table(results), "chosen less others": differences}


def draws(study: Study) -> dict[str, Any]:
    """Step: random sets of as many heads, uniform and with as many in each layer; the accuracy of every draw."""
    heads, scores = chosen(study), scores_for(study, NUMBER)
    kinds = {
        "uniform": [scores.controls(len(heads), seed=seed, below=100) for seed in range(DRAWS)],
        "same per layer": [same_per_layer(heads, study.model.cfg.n_heads, seed=seed) for seed in range(DRAWS)],
    }
    conditions = [Condition(kind, one, draw=draw) for kind, sets in kinds.items() for draw, one in enumerate(sets)]
    results = evaluated(study, "draws", passages(tested_sets()[:N_DRAWN]), conditions)
    each = {kind: [results.accuracy(kind, draw=draw).value for draw in range(DRAWS)] for kind in kinds}
    return {"conditions": table(results), "draws": each}


def other_texts(study: Study) -> dict[str, Any]:
    """Step: the same heads on longer passages, and under other labels and another open question."""
    heads = chosen(study)
    conditions = [Condition("chosen", heads), Condition("none")]
    long = passages(make_sets(N_OTHER, seed=3, held_out=True, template=LONG))
    labelled = passages(make_sets(N_OTHER, seed=4, held_out=True), "({k})")
    protocol = question(OTHER_OPEN, max_new_tokens=TOKENS)
    return {
        "long": table(evaluated(study, "long", long, conditions, protocol=question(OPEN, max_new_tokens=14))),
        "other labels": table(evaluated(study, "other labels", labelled, conditions, protocol=protocol)),
    }


def schedule(study: Study) -> dict[str, Any]:
    """Step: the target changes at the end of each sentence; each piece is judged by its own target."""
    heads = chosen(study)
    control = same_per_layer(heads, study.model.cfg.n_heads, seed=0)
    conditions = [Condition("chosen", heads), Condition("same per layer", control), Condition("none")]
    protocol = dynamic_narration(
        "Retell the segments one by one, in any order.", end=".", max_new_tokens=60, where=["prefill", "decode"]
    )
    return table(evaluated(study, "schedule", passages(tested_sets()[:N_NARRATED]), conditions, protocol=protocol))


def chosen_ranking(study: Study) -> tuple[str, str]:
    """The form of question and the ranking that the grid chose."""
    form, _, by = study.result("grid")["chosen"].rpartition(": ")
    return form, by


def rival_ranking(study: Study) -> tuple[str, str]:
    """The best cell of the grid that has another ranking, and is not of all text."""
    own, conditions = chosen_ranking(study)[1], study.result("grid")["conditions"]
    others = [(form, by) for form, by in GRID if by not in (own, "all text")]
    return max(others, key=lambda cell: conditions[": ".join(cell)]["accuracy"])


def chosen(study: Study) -> gl.HeadSet:
    """The heads that the tuned sets chose."""
    form, by = chosen_ranking(study)
    return ranked(scores_for(study, form), by)[: study.result("curves")["k"]]
