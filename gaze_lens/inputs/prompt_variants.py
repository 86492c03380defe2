"""Several prompts about one picture: the processor sees the picture once.

rows = each_about(model, strip, ["What is in panel 1?", "What is in panel 2?"])   # as model.encode(model.prepare(...))
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from gaze_lens.inputs.collation import Text, collate
from gaze_lens.inputs.preparation import text_of
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.regions.picture import Picture


def each_about(
    model: Any,
    picture: Picture,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    reuse: VLMInputs | None = None,
) -> list[VLMInputs]:
    """For each prompt about a picture, inputs of one row, as `model.prepare` and `model.encode` make them.

    What stands behind the picture is the tokenizer's alone; where a processor does more there, it is asked again.
    Arguments and errors as for these.
    """
    told = [None] * len(prompts) if answers is None else answers
    first = model.encode(model.prepare(picture, prompts[0], answers=told[0]), reuse=reuse)
    rows = [first]
    for prompt, answer in zip(prompts[1:], told[1:], strict=True):
        row = _reworded(model, first, text_of(model.processor, model.family, prompt, answer))
        rows.append(row or model.encode(model.prepare(picture, prompt, answers=answer), reuse=first))
    return rows


def _reworded(model: Any, first: VLMInputs, text: Text) -> VLMInputs | None:
    """Inputs of one row with another text behind the picture; None where the processor must say what becomes of it."""
    before, after = model.processor.tokenizer([first.prompts[0], text.full])["input_ids"]
    n_alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    kept = first.layout.length - (len(before) - n_alike)
    of_picture = first.layout.placeholders if first.layout.cross_attention else first.layout.images
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", math.inf)
    if kept <= max(of_picture[0]) or kept + len(after) - n_alike > limit:
        return None
    if first.input_ids[0, kept:].tolist() != before[n_alike:]:
        return None
    tensors = _continued(first, kept, after[n_alike:])
    if tensors is None:
        return None
    known = {"image_token_id": model.config.image_token_id, "cross_attention": model.family.cross_attention}
    made = collate(tensors, first.pictures, [text], first.maps, tokenizer=first.tokenizer, **known)
    return replace(made, features=first.features)


def _continued(first: VLMInputs, kept: int, ids: Sequence[int]) -> dict[str, Tensor] | None:
    """The tensors up to a position and other ids behind it; None where one tells the positions behind it apart."""
    tensors = dict(first.tensors)
    for name, tensor in first.tensors.items():
        if tensor.shape[:2] != first.shape:
            continue
        new = tensor[:, -1:].expand(-1, len(ids), *tensor.shape[2:])
        if name == "input_ids":
            new = torch.tensor([ids], dtype=tensor.dtype, device=tensor.device)
        elif (tensor[:, kept:] != tensor[:, -1:]).any():
            return None
        tensors[name] = torch.cat([tensor[:, :kept], new], dim=1)
    return tensors
