"""Metrics of answers that are one token out of a list: ratings, yes or no, the letters of a multiple choice.

They see the next token's distribution among the listed tokens alone; `answer_mass` says how much of it that is.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.model_protocol import Model
from gaze_lens.patching.logits import At, Metric, Word, first_tokens, next_token_logits, one_each


def expected_score(
    model: Model, answers: Sequence[Word], *, values: Sequence[float] | None = None, at: At = -1
) -> Metric:
    """`expected_score(model, ["1", "2", "3", "4", "5"])`: the rating that the model gives, as a mean over its answers.

    It is the sum of value times probability, the probabilities of the answers' tokens renormalised to sum to one.
    answers: texts or token ids. A text stands for its first token, as the tokenizer writes it at the beginning of a
        text.
    values: what each answer counts; by default, the answers themselves read as numbers.
    at: the column whose next token is the answer, by default the last; or one for each row.
    Raises InputError for fewer than two answers, answers with the same first token, and values that are missing or not
    finite. Where the model would write something else, `answer_mass` is small, and the score means little.
    """
    ids = _distinct_tokens(model, answers)
    weights = _values(answers, values)

    def metric(logits: Tensor) -> Tensor:
        chances = _listed(logits, ids, at).softmax(-1)
        return chances @ torch.tensor(weights, dtype=chances.dtype, device=chances.device)

    return metric


def choice_accuracy(model: Model, choices: Sequence[Word], right: Word | Sequence[Word], *, at: At = -1) -> Metric:
    """`choice_accuracy(model, ["yes", "no"], "yes")`: 1.0 where the right choice is the most probable one, else 0.0.

    choices: texts or token ids, as in `expected_score`: ["A", "B", "C", "D"] for a multiple choice.
    right: the right one of them; one for all rows, or a list with one for each.
    at: as in `expected_score`. A tie is no right answer. It has no gradient.
    Raises InputError for fewer than two choices, choices with the same first token, and an answer that is no choice.
    """
    ids = _distinct_tokens(model, choices)
    rights = [right] if isinstance(right, str | int) else list(right)
    for answer in rights:
        if answer not in choices:
            raise InputError(f"right={answer!r} was given, and the choices are {list(choices)}; give one of them.")
    columns = [list(choices).index(answer) for answer in rights]

    def metric(logits: Tensor) -> Tensor:
        listed = _listed(logits, ids, at)
        selected = torch.tensor(one_each(columns, len(listed)), device=listed.device)[:, None]
        others = listed.scatter(-1, selected, -math.inf).amax(-1)
        return (listed.gather(-1, selected).squeeze(-1) > others).float()

    return metric


def answer_mass(model: Model, answers: Sequence[Word], *, at: At = -1) -> Metric:
    """`answer_mass(model, ["yes", "no"])`: the probability that the next token is one of the answers, 0 to 1.

    Arguments and errors are those of `expected_score`.
    """
    ids = _distinct_tokens(model, answers)

    def metric(logits: Tensor) -> Tensor:
        everything = next_token_logits(logits, at).logsumexp(-1)
        return (_listed(logits, ids, at).logsumexp(-1) - everything).exp()

    return metric


def _listed(logits: Tensor, ids: list[int], at: At) -> Tensor:
    """For each row the logits of the listed tokens: `[batch, answer]`."""
    at_column = next_token_logits(logits, at)
    if max(ids) >= at_column.shape[-1] or min(ids) < 0:
        raise InputError(f"The answers are tokens {ids}, and the logits are over {at_column.shape[-1]} tokens.")
    return at_column[:, ids]


def _distinct_tokens(model: Model, answers: Sequence[Word]) -> list[int]:
    """The first token of each answer; InputError where the answers cannot be told apart by it."""
    if isinstance(answers, str | int) or len(answers) < 2:
        raise InputError(f'{answers!r} was given; give a list of two or more answers, such as ["yes", "no"].')
    ids = first_tokens(model.processor.tokenizer, answers)
    for index, token in enumerate(ids):
        if token in ids[:index]:
            raise InputError(
                f"{answers[ids.index(token)]!r} and {answers[index]!r} begin with the same token, {token}, so that the "
                "next token does not tell them apart. Give other answers, or the ids of tokens that differ."
            )
    return ids


def _values(answers: Sequence[Word], values: Sequence[float] | None) -> list[float]:
    """What each answer counts."""
    if values is not None and len(values) != len(answers):
        raise InputError(f"{len(values)} values were given for {len(answers)} answers; give one for each.")
    if values is None and not all(isinstance(answer, str) for answer in answers):
        raise InputError("Token ids were given as answers without values=; an id is no rating. Give what each counts.")
    try:
        numbers = [float(value) for value in (answers if values is None else values)]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise InputError(
            f"The answers {list(answers)} count {'what they say' if values is None else list(values)}, which are not "
            "all finite numbers; give values=, one number for each answer."
        )
    return numbers
