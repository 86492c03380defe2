"""Metrics of patching: functions of logits `[batch, pos, d_vocab]` that give one number per row, `[batch]`.

metric = gl.metrics.logit_difference(model, "red", "green")
metric = gl.metrics.answer_log_probability(model.prepare(strip, question, answers="red ring above blue bar."))
gl.patch(model, clean, corrupted, what="z", metric=metric)

inputs = gl.metrics.descriptions(model, strip, question)          # one row per region: its caption as the answer
gl.metrics.description_probability(inputs)(model(inputs))         # how probable each is among them

They are what TransformerLens takes as a metric, keep gradients, and compute in float32 or better. Each refuses logits
of other rows or positions than it was made for.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.patching.descriptions import Block, blocks_of, descriptions

__all__ = [
    "Metric", "answer_log_probability", "description_margin", "description_probability", "descriptions", "kl",
    "logit_difference", "steering_success",
]  # fmt: skip

Metric = Callable[[Tensor], Tensor]  # logits [batch, pos, d_vocab] -> [batch]
Word = str | int  # a text, of which the first token is meant, or a token id
At = int | Sequence[int | Sequence[int]]  # a column, negative from the end; or for each row one, or several


def logit_difference(model: Any, right: Word | Sequence[Word], wrong: Word | Sequence[Word], *, at: At = -1) -> Metric:
    """`logit_difference(model, "red", "green")`: the logit of one token minus that of another.

    right, wrong: texts, of which the first token counts, as the tokenizer writes it at the beginning of a text; or
        token ids. One for all rows, or a list with one for each.
    at: the column whose next token is meant, the last unless given; or one for each row. Before a given answer:
        `[row[0] for row in inputs.answer_positions]`.
    Raises InputError where right and wrong begin with the same token. (Wang et al. 2022, for indirect objects.)
    """
    rights, wrongs = (_first_tokens(model.processor.tokenizer, words) for words in (right, wrong))
    n_rows = max(len(rights), len(wrongs))
    for first, second in zip(_one_each(rights, n_rows), _one_each(wrongs, n_rows), strict=True):
        if first == second:
            raise InputError(
                f"right={right!r} and wrong={wrong!r} begin with the same token, {first}: their difference is always "
                "0. Give texts whose first tokens differ, or ids of later tokens with at=."
            )

    def metric(logits: Tensor) -> Tensor:
        _check(logits)
        columns = _columns(at, logits)
        if any(len(row) != 1 for row in columns):
            raise InputError(f"at={at!r} was given; a logit difference is taken at one column for each row.")
        rows = torch.arange(len(logits), device=logits.device)
        high, low = (_one_each(tokens, len(logits)) for tokens in (rights, wrongs))
        here = _precise(logits[rows, [row[0] for row in columns]])
        return here[rows, high] - here[rows, low]

    return metric


def answer_log_probability(inputs: VLMInputs, *, per_token: bool = False) -> Metric:
    """`answer_log_probability(inputs)`: how probable each row's whole answer is, teacher-forced; log, in nats.

    inputs: prepared with `answers=`; the metric is for logits of these, or of others with the same answers at the
        same positions. per_token: the mean over an answer's tokens instead of their sum.
    Raises InputError where a row has no answer.
    """
    for row, positions in enumerate(inputs.answer_positions):
        if not positions:
            raise InputError(f"Row {row} has no answer to score; prepare the inputs with answers=.")
    ids = [inputs.input_ids[row, start:] for row, start in enumerate(inputs.answers)]

    def metric(logits: Tensor) -> Tensor:
        _check(logits, inputs.shape)
        rows = zip(logits, inputs.answer_positions, ids, strict=True)
        return torch.stack([_log_probability(row[list(columns)], answer, per_token) for row, columns, answer in rows])

    return metric


def _log_probability(
    logits: Float[Tensor, "token d_vocab"], ids: Int[Tensor, " token"], per_token: bool
) -> Float[Tensor, ""]:
    """The log-probability of a text, its tokens' summed or averaged."""
    tokens = _precise(logits).log_softmax(-1).gather(-1, ids.to(logits.device)[:, None])
    return tokens.mean() if per_token else tokens.sum()


def kl(reference_logits: Float[Tensor, "batch pos d_vocab"], *, at: At = -1) -> Metric:
    """`kl(model(clean))`: the Kullback-Leibler divergence from the reference's next token to the patched run's, nats.

    It is the sum over the vocabulary of p log(p / q), with p the reference's probabilities and q those of the logits.
    at: a column, one for each row, or several for each (`inputs.answer_positions`), over which the mean is taken.
    Raises InputError for logits of another shape than the reference's.
    """
    _check(reference_logits)
    columns = _columns(at, reference_logits)
    kept = [_precise(row[here]).log_softmax(-1) for row, here in zip(reference_logits.detach(), columns, strict=True)]
    shape = reference_logits.shape

    def metric(logits: Tensor) -> Tensor:
        _check(logits, shape)
        found = [_precise(row[here]).log_softmax(-1) for row, here in zip(logits, columns, strict=True)]
        pairs = [(known.to(now.device), now) for known, now in zip(kept, found, strict=True)]
        return torch.stack([(known.exp() * (known - now)).sum(-1).mean() for known, now in pairs])

    return metric


def description_probability(inputs: VLMInputs, *, per_token: bool = False) -> Metric:
    """`description_probability(gl.metrics.descriptions(model, strip, question))`: each description's, among all of one
    picture: the softmax over them of their log-probabilities as answers.

    per_token: of mean log-probabilities per token, where descriptions differ in length.
    A picture's rows sum to one, so that a mean over all rows says nothing; read the row of the description meant.
    Raises InputError where the rows are not, picture by picture, one for each caption.
    """
    blocks, score = blocks_of(inputs), answer_log_probability(inputs, per_token=per_token)

    def metric(logits: Tensor) -> Tensor:
        return torch.cat([rows.softmax(0) for rows in score(logits).split([len(block) for block in blocks])])

    return metric


def description_margin(inputs: VLMInputs, target: str | Sequence[str], *, per_token: bool = False) -> Metric:
    """`description_margin(inputs, "panel 4")`: the target's description's log-probability minus the best other's, nats.

    target: a region's name; or a list with one for each picture. The rest as for `description_probability`.
    Every row of a picture has its picture's margin: intervals over rows are those of pictures only where each picture
    is counted once (`metric(logits)[:: n_descriptions]`).
    """
    blocks, score = blocks_of(inputs), answer_log_probability(inputs, per_token=per_token)
    targets = _targets(blocks, target)

    def metric(logits: Tensor) -> Tensor:
        found = score(logits).split([len(block) for block in blocks])
        return torch.cat([_margin(rows, index).expand(len(rows)) for rows, index in zip(found, targets, strict=True)])

    return metric


def steering_success(inputs: VLMInputs, target: str | Sequence[str], *, per_token: bool = False) -> Metric:
    """`steering_success(inputs, "panel 4")`: 1.0 where the target's description is the most probable one, else 0.0.

    Arguments, errors and rows as for `description_margin`, whose sign it is; it has no gradient.
    """
    margin = description_margin(inputs, target, per_token=per_token)
    return lambda logits: (margin(logits) > 0).float()


def _margin(rows: Float[Tensor, " description"], index: int) -> Float[Tensor, ""]:
    return rows[index] - torch.cat([rows[:index], rows[index + 1 :]]).max()


def _targets(blocks: Sequence[Block], target: str | Sequence[str]) -> list[int]:
    """For each picture, which of its rows describes the target."""
    names = [target] * len(blocks) if isinstance(target, str) else list(target)
    if len(names) != len(blocks):
        raise InputError(f"{len(names)} targets were given for {len(blocks)} pictures; give one, or one for each.")
    for block, name in zip(blocks, names, strict=True):
        if name not in block or len(block) < 2:
            raise InputError(
                f"The target {name!r} was given, and the picture describes {', '.join(map(repr, block))}: expected one "
                "of at least two described regions."
            )
    return [block.index(name) for block, name in zip(blocks, names, strict=True)]


def _first_tokens(tokenizer: Any, words: Word | Sequence[Word]) -> list[int]:
    """The first token of each word."""
    listed = [words] if isinstance(words, str | int) else list(words)
    for word in listed:
        if not word and not isinstance(word, int):
            raise InputError("An empty text has no first token; give a word of the answer, or a token id.")
    return [w if isinstance(w, int) else tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in listed]


def _one_each(tokens: Sequence[int], n_rows: int) -> list[int]:
    if len(tokens) not in (1, n_rows):
        raise InputError(f"{len(tokens)} words were given for {n_rows} rows; give one, or one for each row.")
    return list(tokens) * (n_rows // len(tokens))


def _columns(at: At, logits: Tensor) -> list[list[int]]:
    """For each row of logits the columns meant by `at`."""
    n_rows, length = logits.shape[:2]
    listed = [at] * n_rows if isinstance(at, int) else list(at)
    rows = [[row] if isinstance(row, int) else list(row) for row in listed]
    if len(rows) != n_rows or not all(rows) or not all(-length <= column < length for row in rows for column in row):
        raise InputError(
            f"at={at!r} was given for logits of {n_rows} rows x {length} positions; expected a column from 0 to "
            f"{length - 1} (or negative, from the end), or one or more for each row."
        )
    return rows


def _check(logits: Tensor, shape: Sequence[int] | None = None) -> None:
    """InputError where logits are not `[batch, pos, d_vocab]` with as many rows and positions as expected."""
    expected = "[batch, pos, d_vocab]" if shape is None else f"{list(shape[:2])} rows and positions, then d_vocab"
    if logits.ndim != 3 or (shape is not None and tuple(logits.shape[: len(shape)]) != tuple(shape)):
        raise InputError(
            f"Logits of shape {list(logits.shape)} were given to a metric; expected {expected}. Give it those of all "
            "positions of one batch, run on the inputs that the metric was made for (no logits_to_keep)."
        )


def _precise(logits: Tensor) -> Tensor:
    """At least float32: differences of half-precision log-probabilities would be rounding."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
