"""Answers that are given as token ids, such as a model's own: no text between may change them.

model.prepare(picture, prompt, answers=generation.tokens)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaze_lens.errors import InputError, ModelError

Ids = tuple[int, ...]
Answers = str | Sequence[Any] | Tensor  # a text or ids for all rows, or for each
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask")


def ids_of(answers: Any, n_rows: int, tokenizer: Any, image_token_id: int | None) -> list[Ids] | None:
    """The ids of each row's answer, where answers are ids; InputError for what are no ids of text, or too few rows."""
    listed = answers.tolist() if isinstance(answers, Tensor) else answers
    if not isinstance(listed, list | tuple) or not listed or isinstance(listed[0], str):
        return None
    rows = [listed] * n_rows if isinstance(listed[0], int) else [_as_list(row) for row in listed]
    if len(rows) != n_rows:
        raise InputError(f"{len(rows)} answers were given for {n_rows} prompts; give one for each.")
    for row in rows:
        wrong = [token for token in row if type(token) is not int or not 0 <= token < len(tokenizer)]
        wrong += [token for token in row if token == image_token_id]
        if wrong or not row:
            given = f"holds {wrong[0]!r}" if row else "is empty"
            raise InputError(f"An answer {given}; give at least one id of a text token, or the answer as a text.")
    return [tuple(row) for row in rows]


def _as_list(row: Any) -> list[Any]:
    if isinstance(row, Tensor):
        row = row.tolist()
    if not isinstance(row, list | tuple):
        raise InputError(f"An answer is {type(row).__name__}; give a text, or a list of token ids, for each prompt.")
    return list(row)


def appended(tensors: Mapping[str, Tensor], answers: Sequence[Ids], pad: int) -> dict[str, Tensor]:
    """A processor's tensors with the answers after the prompts, padded on the left again. pad: the id of padding."""
    shape, kept = tensors["input_ids"].shape, tensors["attention_mask"].bool().sum(1).tolist()
    length = max(n + len(answer) for n, answer in zip(kept, answers, strict=True))
    extended = dict(tensors)
    _refuse_unknown(tensors)
    for name in PER_TOKEN:
        if name in tensors:
            parts = [
                torch.cat([row[shape[1] - n :], _added(name, row, answer)])
                for row, n, answer in zip(tensors[name], kept, answers, strict=True)
            ]
            padding = pad if name == "input_ids" else 0
            extended[name] = torch.stack([_padded(part, length, padding) for part in parts])
    return extended


def _refuse_unknown(tensors: Mapping[str, Tensor]) -> None:
    """ModelError for a tensor with a value for each token whose value for an answer is not known."""
    shape = tensors["input_ids"].shape
    unknown = [name for name, tensor in tensors.items() if tensor.shape[:2] == shape and name not in PER_TOKEN]
    if unknown:
        raise ModelError(
            f"The processor makes {', '.join(unknown)} for each token of the prompt, and what an answer's tokens have "
            "there is not known. Give the answers as texts."
        )


def _added(name: str, row: Tensor, answer: Ids) -> Tensor:
    """What an argument of the forward holds for the answer's tokens: text that sees the images that the prompt's end
    sees."""
    if name == "input_ids":
        return torch.tensor(answer, dtype=row.dtype, device=row.device)
    if name == "cross_attention_mask":
        return row[-1:].expand(len(answer), *row.shape[1:])
    return row.new_full((len(answer),), int(name == "attention_mask"))


def _padded(part: Tensor, length: int, value: int) -> Tensor:
    padding = part.new_full((length - len(part), *part.shape[1:]), value)
    return torch.cat([padding, part])
