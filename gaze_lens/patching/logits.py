"""What metrics share: the tokens that stand for words, the columns that are read, checks of logits."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.errors import InputError

Metric = Callable[[Tensor], Tensor]  # logits [batch, pos, d_vocab] -> [batch]
Word = str | int  # a text, which stands for its first token, or a token id
At = int | Sequence[int | Sequence[int]]  # a column (negative: counted from the end); or one or several for each row


def first_tokens(tokenizer: Any, words: Word | Sequence[Word]) -> list[int]:
    """The first token of each word."""
    listed = [words] if isinstance(words, str | int) else list(words)
    for word in listed:
        if not word and not isinstance(word, int):
            raise InputError("An empty text has no first token; give a word of the answer, or a token id.")
    return [w if isinstance(w, int) else tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in listed]


def one_each(tokens: Sequence[int], n_rows: int) -> list[int]:
    """One item for all rows, or one for each, as one for each."""
    if len(tokens) not in (1, n_rows):
        raise InputError(f"{len(tokens)} words were given for {n_rows} rows; give one, or one for each row.")
    return list(tokens) * (n_rows // len(tokens))


def columns_of(at: At, logits: Tensor) -> list[list[int]]:
    """For each row of logits the columns that `at` names."""
    n_rows, length = logits.shape[:2]
    listed = [at] * n_rows if isinstance(at, int) else list(at)
    rows = [[row] if isinstance(row, int) else list(row) for row in listed]
    if len(rows) != n_rows or not all(rows) or not all(-length <= column < length for row in rows for column in row):
        raise InputError(
            f"at={at!r} was given for logits of {n_rows} rows x {length} positions; expected a column from 0 to "
            f"{length - 1} (or negative, from the end), or one or more for each row."
        )
    return rows


def next_token_logits(logits: Tensor, at: At) -> Float[Tensor, "batch d_vocab"]:
    """Each row's logits at its one column, in float32 at least."""
    check_shape(logits)
    columns = columns_of(at, logits)
    if any(len(row) != 1 for row in columns):
        raise InputError(f"at={at!r} was given; this metric is taken at one column for each row.")
    rows = torch.arange(len(logits), device=logits.device)
    return precise(logits[rows, [row[0] for row in columns]])


def check_shape(logits: Tensor, shape: Sequence[int] | None = None) -> None:
    """InputError where logits are not `[batch, pos, d_vocab]` with as many rows and positions as expected."""
    expected = "[batch, pos, d_vocab]" if shape is None else f"{list(shape[:2])} rows and positions, then d_vocab"
    if logits.ndim != 3 or (shape is not None and tuple(logits.shape[: len(shape)]) != tuple(shape)):
        raise InputError(
            f"Logits of shape {list(logits.shape)} were given to a metric; expected {expected}. Give it those of all "
            "positions of one batch, run on the inputs that the metric was made for (no logits_to_keep)."
        )


def precise(logits: Tensor) -> Tensor:
    """In float32 at least: differences of log-probabilities in half precision would be rounding errors."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
