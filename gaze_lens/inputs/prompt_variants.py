"""Several prompts about one picture, for which the processor runs on the picture only once.

rows = prepare_variants(model, strip, ["What is in panel 1?", "What is in panel 2?"])
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from gaze_lens.inputs.chat_template import special_tokens
from gaze_lens.inputs.collation import Text, collate
from gaze_lens.inputs.preparation import text_of
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model
from gaze_lens.regions.picture import Picture
from gaze_lens.regions.video import Video


def prepare_variants(
    model: Model,
    picture: Picture | Video,
    prompts: Sequence[str],
    answers: Sequence[str] | None = None,
    *,
    reuse: VLMInputs | None = None,
) -> list[VLMInputs]:
    """For each prompt about a picture or video, encoded inputs of one row, equal to those of `model.prepare` and
    `model.encode`.

    The text after the picture is tokenized on its own. Where a processor does more than that with it, the processor
    runs again. Arguments and errors as for `model.prepare` and `model.encode`.
    """
    listed = [None] * len(prompts) if answers is None else answers
    first = model.encode(model.prepare(picture, prompts[0], answers=listed[0]), reuse=reuse)
    rows, kind = [first], "video" if first.videos else "image"
    for prompt, answer in zip(prompts[1:], listed[1:], strict=True):
        row = _with_text(model, first, text_of(model.processor, model.family, prompt, answer, kind=kind))
        rows.append(row or model.encode(model.prepare(picture, prompt, answers=answer), reuse=first))
    return rows


def _with_text(model: Model, first: VLMInputs, text: Text) -> VLMInputs | None:
    """The inputs `first` with another text after the picture; None where only the processor can make them."""
    tokenizer = model.processor.tokenizer
    old, new = tokenizer([first.prompts[0], text.full], **special_tokens(tokenizer, text.full))["input_ids"]
    n_equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    start = first.layout.length - (len(old) - n_equal)  # of what differs
    of_picture = first.layout.placeholders if first.layout.cross_attention else first.layout.images
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", math.inf)
    if start <= max(of_picture[0]) or start + len(new) - n_equal > limit:
        return None
    if first.input_ids[0, start:].tolist() != old[n_equal:]:
        return None
    tensors = _with_ids(first, start, new[n_equal:])
    if tensors is None:
        return None
    options: dict[str, Any] = {"config": model.config, "cross_attention": model.family.cross_attention}
    inputs = collate(
        tensors, first.pictures, [text], first.maps, tokenizer=first.tokenizer, videos=first.videos, **options
    )
    return replace(inputs, features=first.features)


def _with_ids(first: VLMInputs, start: int, ids: Sequence[int]) -> dict[str, Tensor] | None:
    """The tensors with other token ids from `start` on; None where another tensor is not constant from there on."""
    tensors = dict(first.tensors)
    for name, tensor in first.tensors.items():
        if tensor.shape[:2] != first.shape:
            continue
        new = tensor[:, -1:].expand(-1, len(ids), *tensor.shape[2:])
        if name == "input_ids":
            new = torch.tensor([ids], dtype=tensor.dtype, device=tensor.device)
        elif (tensor[:, start:] != tensor[:, -1:]).any():
            return None
        tensors[name] = torch.cat([tensor[:, :start], new], dim=1)
    return tensors
