"""Prompts with the same beginning: the shared prefix is run once, and each prompt goes on from there.

    batch = SharedPrefixBatch.of(inputs, 6, until=positions)   # None where a picture comes after the first difference
    batch.run(model, inputs, readers)

It is exact where no token reads a later one; a family says where that is not so (`Family.prefix_sharing_blocker`). The
rows that go on are short ends, padded on the right: causal attention never sees that padding, so that ends of different
lengths need no mask of their own.
"""

import copy
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from gaze_lens.attention.backend import n_hooks
from gaze_lens.attention.positions import Positions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.attention.shared_keys import side_by_side
from gaze_lens.families.cache_argument import cache_argument
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model_protocol import Model


def cannot_share(model: Model) -> str:
    """Why prompts with the same beginning are run whole all the same; empty where the prefix can be shared."""
    if any(n_hooks(point) for point in model.hook_dict.values()):
        return "hooks are attached, which see whole prompts"
    return model.family.prefix_sharing_blocker


def _last_of_sources(inputs: VLMInputs, row: int) -> int:
    """The last position of a row's pictures and passages, at which its prompts may begin to differ."""
    segments = inputs.layout.all_segments[row] if inputs.passages else ()
    return max((*inputs.layout.images[row], *segments), default=0)


class Finished(Exception):
    """The last layer that is wanted has been read; what the model would compute after it is not needed."""


@dataclass(frozen=True)
class SharedPrefixBatch:
    """A batch cut in two: the prefix that the rows of a group share, and for each row its own end.

    A forward over both has other rows and columns than the batch: a row for each group, where the shared part ends in
    the same column for all, and the group's ends start after it, one after the other.

    size: rows in a group; they follow one another. shared: for each group, its shared tokens. padding: for each row of
    the batch, the columns of padding on its left.
    """

    size: int
    shared: tuple[int, ...]
    padding: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, inputs: VLMInputs, size: int, until: Sequence[int]) -> "SharedPrefixBatch | None":
        """Groups of `size` rows that follow one another. None where a picture, a passage, or nothing at all would be
        left over.

        until: for each row, the first position that must belong to its own end.
        """
        n_padding = (inputs.tensors["attention_mask"] == 0).sum(1).tolist()
        ids = [row[start:] for row, start in zip(inputs.input_ids.tolist(), n_padding, strict=True)]
        shared = []
        for first in range(0, inputs.n_rows, size):
            rows = range(first, first + size)
            n_common = _n_common([ids[row] for row in rows])
            shared.append(min(n_common, *(until[row] - n_padding[row] for row in rows)))
            if any(_last_of_sources(inputs, row) - n_padding[row] >= shared[-1] for row in rows):
                return None
        return cls(size, tuple(shared), tuple(n_padding), inputs.layout.length)

    @property
    def firsts(self) -> range:
        """For each group, its first row."""
        return range(0, len(self.padding), self.size)

    @property
    def start(self) -> int:
        """The column at which the ends start."""
        return max(self.shared)

    @property
    def _starts(self) -> list[int]:
        """For each row, the position at which its own end starts."""
        return [n + self.shared[row // self.size] for row, n in enumerate(self.padding)]

    def columns(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Positions in the rows' ends, row by row, as columns of the forward over both parts."""
        longest = self.length - min(self._starts)
        firsts = [self.start + row % self.size * longest for row in range(len(rows))]
        return [
            [first + at - start for at in row] for row, first, start in zip(rows, firsts, self._starts, strict=True)
        ]

    def shared_columns(self, values: Float[Tensor, "row position k"]) -> Float[Tensor, "group column k"]:
        """Values over the positions of the batch, group by group over the columns of the shared prefix."""
        parts = [values[row, self.padding[row] :][:n] for row, n in zip(self.firsts, self.shared, strict=True)]
        return torch.stack([pad(part, (0, 0, self.start - len(part), 0)) for part in parts])

    @torch.no_grad()
    def run(self, model: Model, inputs: VLMInputs, readers: Sequence[tuple[str, RowReader]]) -> None:
        """Two forwards, of the shared parts and of the ends, each as far as the last of `readers`.

        inputs: those that were split, encoded. readers: hooks on layers in their order. Positions are Hugging Face's,
        as in its own cached decoding.
        """
        hf_model = model.original_model
        taken_as = cache_argument(hf_model.forward)
        arguments = self._shared_arguments(inputs)
        cache = DynamicCache(config=hf_model.config.get_text_config(decoder=True))
        finish = RowReader(Positions.of([self.start - 1, self.start]), _finish)  # in either forward
        with model.attention_backend.lock.hold(), model.hooks([*readers, (readers[-1][0], finish)]):
            with suppress(Finished):
                hf_model(**arguments, **{taken_as: cache}, use_cache=True, logits_to_keep=1)
            owners = torch.arange(len(self.shared), device=inputs.device).repeat_interleave(self.size)
            share_cache(cache, owners)
            ids = self._ends(inputs)
            seen = torch.cat([arguments["attention_mask"][owners], torch.ones_like(ids)], dim=1)
            positions = _positions(hf_model, ids, seen, cache, owners)
            with suppress(Finished):
                hf_model(input_ids=ids, attention_mask=seen, **{taken_as: cache}, use_cache=True, **positions)

    def _shared_arguments(self, inputs: VLMInputs) -> dict[str, Any]:
        """The arguments of the model's forward for the shared prefixes, padded on the left; one row for each group."""

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
                arguments[name] = tensor[inputs.entries(name, self.firsts)]
        return arguments | inputs.encoded_features.arguments(images) if inputs.maps else arguments

    def _ends(self, inputs: VLMInputs) -> Int[Tensor, "row position"]:
        """The ids after the shared prefixes, padded on the right."""
        ends = [ids[start:] for ids, start in zip(inputs.input_ids, self._starts, strict=True)]
        return pad_sequence(ends, batch_first=True, padding_value=_filling(inputs))


def _finish(*_read: Any) -> None:
    raise Finished


def _n_common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    columns = enumerate(zip(*rows, strict=False))
    return next((index for index, column in columns if len(set(column)) > 1), min(map(len, rows)))


def _filling(inputs: VLMInputs) -> int:
    """The id that pads rows; no token that is read sees it."""
    return inputs.tokenizer.pad_token_id or 0


class SharedPrefixLayer(DynamicLayer):
    """A cache layer that several rows share: an update returns the shared keys, then those of each row, side by side.

    It leaves the layer as it is, so that keys and values of only one layer at a time are in memory twice.
    """

    keys: Tensor  # it goes on from a forward, and is not empty

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As the layer's own, for new keys and values `[row, head, position, d_head]`; see `shared_keys.py`."""
        n = len(key_states) // len(self.keys)
        new = side_by_side(key_states, n), side_by_side(value_states, n)
        return super(SharedPrefixLayer, copy.copy(self)).update(*new, *args, **kwargs)


class SharedPrefixWindow(SharedPrefixLayer, DynamicSlidingWindowLayer):
    """The same for the keys and values in a sliding window, or a chunk."""


SHARED_LAYERS: dict[type, type] = {DynamicLayer: SharedPrefixLayer, DynamicSlidingWindowLayer: SharedPrefixWindow}


def share_cache(cache: Cache, owners: Int[Tensor, " row"]) -> None:
    """Let rows go on from a cache, each from the cache row of its group; small states of other layers are copied."""
    layers: list[Any] = cache.layers
    for layer in layers:
        if type(layer) in SHARED_LAYERS:
            layer.__class__ = SHARED_LAYERS[type(layer)]
        else:
            layer.reorder_cache(owners)


def _positions(hf_model: Any, ids: Tensor, seen: Tensor, cache: Cache, owners: Tensor) -> dict[str, Tensor]:
    """Positions after images that count as fewer than their tokens (M-RoPE), as `generate` has them; else none."""
    inner: Any = getattr(hf_model, "model", None)
    if getattr(inner, "rope_deltas", None) is None:
        return {}
    inner.rope_deltas = inner.rope_deltas[owners]
    options = {"attention_mask": seen, cache_argument(hf_model.forward): cache}
    positions = hf_model._prepare_position_ids_for_generation(ids, options)
    return {"position_ids": positions[..., -ids.shape[1] :]}
