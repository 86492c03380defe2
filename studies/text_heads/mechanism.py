"""What the heads are: label matching, induction, and the paths between them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import gaze_lens as gl
from studies.text_heads.common import Study, plain_prompts, tested_sets
from studies.text_heads.completion import begun, first_tokens
from studies.text_heads.rankings import ranked
from studies.text_heads.scoring import BARE, BARE_LABELLED, NUMBER, scores_for
from studies.text_heads.steering import chosen
from studies.text_heads.texts import LABEL, SIZE

SHOWN = 10
N_REPEATED, LENGTH = 8, 40  # random sequences that are repeated, and their tokens
ASKED, OTHER = 2, 4  # the two segments of a patched pair, from 0
N_TRACED, N_PATCHED = 3, 1
TOP = 8
LATE = 20  # layers from which chosen heads are receivers of paths; few are below, and would double the time


def kinds(study: Study) -> dict[str, Any]:
    """Step: for the best heads, mass on the label asked about and on its sentence, and scores on repeated tokens."""
    inside, outside = scores_for(study, BARE_LABELLED), scores_for(study, BARE)
    label = gl.HeadScores(inside.samples - outside.samples)
    repeated = _repeated(study.model)
    heads = {str(head): head for head in [*ranked(inside, "contrast")[:SHOWN], *chosen(study)]}
    measured = {"label": label, "sentence": outside, "sentence, with template": scores_for(study, NUMBER)}
    rows = {
        name: {what: {"mass": one.score[head].item(), "contrast": one.contrast[head].item()}
               for what, one in measured.items()}
        | {what: values[head].item() for what, values in repeated.items()}
        for name, head in heads.items()
    }  # fmt: skip
    best = {what: [f"{head} {values[head]:.2f}" for head in _best(values)] for what, values in repeated.items()}
    contrasts = {"label": label.contrast.tolist(), "sentence": outside.contrast.tolist()}
    return {"heads": rows, "best on repeated tokens": best, "tokens": _by_token(study), **contrasts}


def _best(values: Float[Tensor, "layer head"]) -> list[gl.Head]:
    order = values.flatten().argsort(descending=True)[:TOP].tolist()
    return [gl.Head(*divmod(index, values.shape[1])) for index in order]


@torch.no_grad()
def _repeated(model: gl.HookedVLM) -> dict[str, Float[Tensor, "layer head"]]:
    """On random tokens twice: attention to the token before, to the same token, and to the one after the same token."""
    drawn = torch.randint(1000, 40_000, (N_REPEATED, LENGTH), generator=torch.Generator().manual_seed(0))
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(torch.cat([drawn, drawn], dim=1), names_filter=names)
    patterns = torch.stack([cache[name] for name in names], dim=1)  # [row, layer, head, query, key]
    second = patterns[:, :, :, LENGTH:]
    offsets = {"previous token": LENGTH - 1, "same token": 0, "induction": 1}
    return {what: second.diagonal(offset, -2, -1)[..., : LENGTH - 1].mean((0, -1)) for what, offset in offsets.items()}


@torch.no_grad()
def _by_token(study: Study) -> dict[str, Any]:
    """Of the strongest label matchers: attention from the last token, the number, to the tokens of its own label."""
    heads = ranked(scores_for(study, BARE_LABELLED), "contrast")[:3]
    sums = {str(head): torch.zeros(7) for head in heads}
    sets = tested_sets()[:N_TRACED]
    for one in sets:
        for number in range(SIZE):
            inputs = _asked_bare(study.model, one, number)
            first = inputs.region(f"segment {number + 1}").positions[0][0]
            names = [f"blocks.{head.layer}.attn.hook_pattern" for head in heads]
            _, cache = study.model.run_with_cache(inputs, names_filter=names)
            for head in heads:
                row = cache[f"blocks.{head.layer}.attn.hook_pattern"][0, head.head, -1]
                sums[str(head)] += row[first - 5 : first + 2].cpu()
    names = ["Seg", "ment", "space", "number", ":", "first of the passage", "second of the passage"]
    count = len(sets) * SIZE
    return {head: dict(zip(names, (total / count).tolist(), strict=True)) for head, total in sums.items()}


def _asked_bare(model: gl.HookedVLM, one: Any, number: int) -> gl.VLMInputs:
    with plain_prompts(model):
        return model.prepare(one.passages(), f"What is said in segment {number + 1}")


def paths(study: Study) -> dict[str, Any]:
    """Step: a begun label calls up its passage. Which heads carry the number, and which the label of the passage?"""
    model, sets = study.model, tested_sets()[:N_PATCHED]
    tokens = [first_tokens(model, one) for one in sets]
    right, wrong = ([row[number] for row in tokens] for number in (ASKED, OTHER))
    metric = gl.metrics.logit_difference(model, right, wrong)
    clean = begun(model, sets, [ASKED] * N_PATCHED)
    number = begun(model, sets, [OTHER] * N_PATCHED)
    swapped = begun(model, sets, [ASKED] * N_PATCHED, labels=_swapped())
    late = gl.HeadSet(head for head in chosen(study) if head.layer >= LATE)
    runs = {
        "number to logits": (number, "logits", "q", "last"),
        "number to the chosen heads' queries": (number, late, "q", "last"),
        "label to the chosen heads' keys": (swapped, late, "k", _passages(swapped)),
    }
    return {
        name: _path(study, name, clean, corrupted, receivers, into, positions, metric)
        for name, (corrupted, receivers, into, positions) in runs.items()
    }


def _path(study: Study, name: str, clean: Any, corrupted: Any, receivers: Any, into: str, at: Any, metric: Any) -> Any:
    options = {"into": into, "positions": at, "metric": metric, "resume": study.work / f"{name}.jsonl"}
    return _recovered(gl.path_patch(study.model, clean, corrupted, None, receivers, **options))


def _recovered(result: gl.PatchResult) -> dict[str, float]:
    """The heads that bring most of the difference between the runs back, as shares of it."""
    rows = result.table().sort_values("recovery", ascending=False)[:TOP].to_dict("records")
    return {str(gl.Head(int(row["layer"]), int(row["head"]))): row["recovery"] for row in rows}


def _swapped() -> list[str]:
    """Labels in which those of the two segments have changed places."""
    numbers = list(range(1, SIZE + 1))
    numbers[ASKED], numbers[OTHER] = numbers[OTHER], numbers[ASKED]
    return [LABEL.replace("{k}", str(k)) for k in numbers]


def _passages(inputs: gl.VLMInputs) -> Any:
    """The tokens of the two passages."""
    one, other = (inputs.region(f"segment {k + 1}") for k in (ASKED, OTHER))
    return one | other
