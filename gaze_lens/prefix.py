"""Prompts that begin alike: what they share is run once, and each goes on from there.

    split = Split.of(inputs, sizes=[6], until=positions)   # None where the pictures are not before what differs
    with model.hooks(readers):
        split.run(model, inputs)

Exact where no token reads a later one, which `Family.whole` knows. What goes on are rows of short ends, padded on the
right: causal attention never sees that padding, so that ends of different lengths need no mask of their own.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from gaze_lens.attention import n_hooks
from gaze_lens.inputs import VLMInputs


def cannot_share(model: Any) -> str:
    """Why a model's prompts are run whole, though they begin alike; empty where they need not be."""
    if any(n_hooks(point) for point in model.hook_dict.values()):
        return "hooks are attached, which see whole prompts"
    return model.family.whole


@dataclass(frozen=True)
class Split:
    """A batch cut in two: what the rows of a group share, and for each row its own end.

    A forward over both has other columns than the batch: the shared parts end in one column, and ends start behind it.

    owners: for each row, its group. firsts: for each group, its first row. shared: for each group, its shared tokens.
    padding: for each row, the columns of padding on its left.
    """

    owners: tuple[int, ...]
    firsts: tuple[int, ...]
    shared: tuple[int, ...]
    padding: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, inputs: VLMInputs, sizes: Sequence[int], until: Sequence[int]) -> "Split | None":
        """Groups of `sizes` rows that follow one another. None where a picture, or nothing at all, would be left over.

        until: for each row, the first position that must belong to its own end.
        """
        n_padding = (inputs.tensors["attention_mask"] == 0).sum(1).tolist()
        ids = [row[start:] for row, start in zip(inputs.input_ids.tolist(), n_padding, strict=True)]
        owners = tuple(group for group, size in enumerate(sizes) for _ in range(size))
        firsts = tuple(accumulate(sizes, initial=0))[:-1]
        shared = []
        for first, size in zip(firsts, sizes, strict=True):
            rows = range(first, first + size)
            n_alike = _n_alike([ids[row] for row in rows])
            shared.append(min(n_alike, *(until[row] - n_padding[row] for row in rows)))
            if any(max(inputs.layout.images[row], default=0) - n_padding[row] >= shared[-1] for row in rows):
                return None
        return cls(owners, firsts, tuple(shared), tuple(n_padding), inputs.layout.length)

    @property
    def start(self) -> int:
        """The column at which the ends start."""
        return max(self.shared)

    def moved(self, rows: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """Positions of the batch, row by row, as columns of the split forward."""
        shifts = [self.start - self.shared[owner] - n for owner, n in zip(self.owners, self.padding, strict=True)]
        return tuple(tuple(at + shift for at in row) for row, shift in zip(rows, shifts, strict=True))

    def moved_keys(self, values: Float[Tensor, "row position k"]) -> Float[Tensor, "row column k"]:
        """Values over the positions of the batch, as values over the columns of the split forward; 0 where none is."""
        own = [row[n:] for row, n in zip(values, self.padding, strict=True)]
        shifted = [
            pad(row, (0, 0, self.start - self.shared[owner], 0)) for row, owner in zip(own, self.owners, strict=True)
        ]
        return pad_sequence(shifted, batch_first=True)

    @torch.no_grad()
    def run(self, model: Any, inputs: VLMInputs) -> None:
        """Two forwards under the hooks that are attached: of the shared parts, a row for each group, and of the ends.

        inputs: those that were split, encoded. Positions are Hugging Face's, as in its own cached decoding.
        """
        hf_model = model.original_model
        arguments = self._shared_arguments(inputs)
        cache = hf_model(**arguments, use_cache=True, logits_to_keep=1).past_key_values
        owners = torch.tensor(self.owners, device=inputs.device)
        lend(cache, owners)
        ids = self._ends(inputs)
        seen = torch.cat([arguments["attention_mask"][owners], torch.ones_like(ids)], dim=1)
        positions = _positions(hf_model, ids, seen, cache, owners)
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)  # a number would let Gemma 4 skip the other rows
        hf_model(
            input_ids=ids, attention_mask=seen, past_key_values=cache, use_cache=True, logits_to_keep=last, **positions
        )

    def _shared_arguments(self, inputs: VLMInputs) -> dict[str, Any]:
        """What the model's forward takes of the shared parts, padded on the left; one row for each group."""

        def cut(tensor: Tensor, filling: int = 0) -> Tensor:
            parts = [
                pad(tensor[row, self.padding[row] :][:n], (self.start - n, 0), value=filling)
                for row, n in zip(self.firsts, self.shared, strict=True)
            ]
            return torch.stack(parts)

        by_row = inputs.images_by_row()
        images = [by_row[row] for row in self.firsts]
        arguments = {"input_ids": cut(inputs.input_ids, _filling(inputs))}
        for name, tensor in inputs.tensors.items():
            if name == "input_ids":
                continue
            if tensor.shape == inputs.shape:
                arguments[name] = cut(tensor)
            else:
                arguments[name] = tensor[sum(images, []) if name.startswith("image_") else list(self.firsts)]
        return arguments | inputs.features.arguments(images)

    def _ends(self, inputs: VLMInputs) -> Int[Tensor, "row position"]:
        """The ids behind the shared parts, padded on the right."""
        starts = [n + self.shared[owner] for n, owner in zip(self.padding, self.owners, strict=True)]
        ends = [ids[start:] for ids, start in zip(inputs.input_ids, starts, strict=True)]
        return pad_sequence(ends, batch_first=True, padding_value=_filling(inputs))


def _n_alike(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = enumerate(zip(*rows, strict=False))
    return next((index for index, column in columns if len(set(column)) > 1), min(map(len, rows)))


def _filling(inputs: VLMInputs) -> int:
    """The id that fills rows up; nothing that counts sees it."""
    return inputs.tokenizer.pad_token_id or 0


class Lent(CacheLayerMixin):
    """A cache layer that rows share: each update makes copies of it for all `owners`, and leaves it as it is.

    So the keys and values of only one layer at a time are there for every row.
    """

    owners: Int[Tensor, " row"]

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As the layer's own, for a row of new keys and values for each of `owners`."""
        lent = copy.copy(self)
        lent.reorder_cache(self.owners)
        return super(Lent, lent).update(*args, **kwargs)


class LentLayer(Lent, DynamicLayer):
    """All keys and values."""


class LentWindow(Lent, DynamicSlidingWindowLayer):
    """Those in a sliding window, or a chunk."""


LENT = {DynamicLayer: LentLayer, DynamicSlidingWindowLayer: LentWindow}


def lend(cache: Cache, owners: Int[Tensor, " row"]) -> None:
    """Let rows go on from a cache, each from the row that it belongs to; small states of other layers are copied."""
    for layer in cache.layers:
        if type(layer) in LENT:
            layer.__class__ = LENT[type(layer)]
            layer.owners = owners
        else:
            layer.reorder_cache(owners)


def _positions(hf_model: Any, ids: Tensor, seen: Tensor, cache: Cache, owners: Tensor) -> dict[str, Tensor]:
    """Positions behind images that count as fewer than their tokens (M-RoPE), as `generate` has them; else none."""
    inner = getattr(hf_model, "model", None)
    if getattr(inner, "rope_deltas", None) is None:
        return {}
    inner.rope_deltas = inner.rope_deltas[owners]
    known = {"attention_mask": seen, "past_key_values": cache}
    found = hf_model._prepare_position_ids_for_generation(ids, known)
    return {"position_ids": found[..., -ids.shape[1] :]}
