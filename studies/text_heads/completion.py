"""What the model can do unsteered, and what it loses without the heads.

A prompt without template that ends in "Segment 3:" is continued with passage 3, by matching the label.
"""

from typing import Any

import torch

import gaze_lens as gl
from gaze_lens.evaluation.judges import CaptionMatch, Description
from gaze_lens.evaluation.statistics import Estimate, mean
from studies.text_heads.common import K, Study, plain_prompts, tested_sets
from studies.text_heads.rankings import ranked, same_per_layer
from studies.text_heads.scoring import BARE_LABELLED, scores_for
from studies.text_heads.steering import TOKENS, chosen
from studies.text_heads.texts import FORMS, SIZE, PassageSet

RECITE = "Repeat the text above."
N_ASKED, N_ABLATED, N_CONTROLS = 5, 4, 5


def asked(study: Study) -> dict[str, Any]:
    """Step: how often the unsteered model answers about the passage that it is asked about, for each form."""
    return {form: _answered(study.model, form) for form in FORMS}


def _answered(model: gl.HookedVLM, form: str) -> dict[str, Any]:
    right, first, owners = [], [], []
    for index, one in enumerate(tested_sets()[:N_ASKED]):
        passages = one.passages()
        texts = model.generate(model.prepare([passages] * SIZE, one.questions(form)), max_new_tokens=TOKENS).texts
        pairs = zip(texts, passages.names, strict=True)
        judged = [CaptionMatch().judge(Description(text, name, passages)) for text, name in pairs]
        right += [bool(judgement.correct) for judgement in judged]
        first += [judgement.match == passages.names[0] for judgement in judged]
        owners += [index] * SIZE
    return {"right": mean(right, owners).to_dict(), "names the first": mean(first, owners).to_dict()}


def ablation(study: Study) -> dict[str, Any]:
    """Step: without some heads: passages that a begun label calls up, and the log-probability of a recitation."""
    conditions = _ablated(study)
    return {
        name: {"begun label": _continued(study, heads), "recitation": _recited(study, heads)}
        for name, heads in conditions.items()
    }


def _ablated(study: Study) -> dict[str, gl.HeadSet | None]:
    heads, labels = chosen(study), ranked(scores_for(study, BARE_LABELLED), "contrast")
    named = {"none": None, "chosen": heads, f"label matchers {K}": labels[:K], "label matchers 5": labels[:5]}
    best = {str(labels[0]): labels[:1]}
    n_heads, seeds = study.model.cfg.n_heads, range(N_CONTROLS)
    return named | best | {f"same per layer {seed}": same_per_layer(heads, n_heads, seed=seed) for seed in seeds}


@torch.no_grad()
def _continued(study: Study, heads: gl.HeadSet | None) -> dict[str, float]:
    """Whether, of the six first tokens of passages, that of the begun label's is the most probable."""
    right: list[bool] = []
    owners: list[int] = []
    for index, one in enumerate(tested_sets()[:N_ABLATED]):
        inputs = begun(study.model, [one] * SIZE, range(SIZE))
        logits = _logits(study.model, inputs, heads)[:, -1, first_tokens(study.model, one)]
        right += (logits.argmax(-1) == torch.arange(SIZE)).tolist()
        owners += [index] * SIZE
    return _estimate(mean(right, owners))


@torch.no_grad()
def _recited(study: Study, heads: gl.HeadSet | None) -> dict[str, float]:
    """Mean log-probability of a token of all passages in order, as the answer to a request to repeat them."""
    sets = tested_sets()[:N_ABLATED]
    values: list[float] = []
    for one in sets:
        inputs = study.model.prepare(one.passages(), RECITE, answers=" ".join(one.texts))
        metric = gl.metrics.answer_log_probability(inputs, per_token=True)
        values += metric(_logits(study.model, inputs, heads)).tolist()
    return _estimate(mean(values, range(len(sets))))


def _logits(model: gl.HookedVLM, inputs: gl.VLMInputs, heads: gl.HeadSet | None) -> torch.Tensor:
    hooks = [] if heads is None else gl.zero_ablate(heads)
    return torch.as_tensor(model.run_with_hooks(inputs, fwd_hooks=hooks))


def begun(model: gl.HookedVLM, sets: list[PassageSet], numbers: Any, labels: Any = None) -> gl.VLMInputs:
    """Prompts without a template that end in a label, "... Segment 3:". numbers: from 0. labels: in another order."""
    passages = [gl.passages(one.texts, labels=labels) if labels else one.passages() for one in sets]
    with plain_prompts(model):
        return model.prepare(passages, [f"Segment {number + 1}:" for number in numbers])


def first_tokens(model: gl.HookedVLM, one: PassageSet) -> list[int]:
    """The first token of each passage, as it stands after a label."""
    return [model.processor.tokenizer(f" {text}")["input_ids"][0] for text in one.texts]


def _estimate(estimate: Estimate) -> dict[str, float]:
    numbers = estimate.to_dict()
    return {name: numbers[name] for name in ("value", "low", "high", "n")}
