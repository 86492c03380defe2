"""Attention to image tokens, or to text, while the model read a prompt and wrote an answer, a byte for each value.

recording = record(model, inputs, heads, max_new_tokens=100)
recording.attention()                           # [head, word, key], close to the pattern's rows
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gaze_lens.attention.positions import Positions
from gaze_lens.attention.region_reader import RegionReader
from gaze_lens.attention.value_norms import ValueNorms
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.continuation import refuse_held
from gaze_lens.model_protocol import Model
from gaze_lens.show.interactive.keys import Keys, keys_of

LEVELS = 72  # a multiple of what `packing` makes of them in large recordings
MAX_VALUES = 100_000_000  # each is a byte in the browser


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """Rows of attention patterns over a prompt's keys (`keys_of`), quantised.

    levels, scales: attention is `scales * levels ** 2`. Steps are fine where attention is small, as it mostly is, and
        each row's sum is exact.
    norms: of every key's value vector, for weighted attention; None where they cannot be read, for the reason
        in `unweighted`.
    queries: for each word, the position whose row it is. keys: positions of the image tokens, or with cross-attention
        the indices of their keys; then positions of text, if its attention was recorded.
    answer: ids of the answer's tokens. start: the position of the first.
    """

    heads: HeadSet
    levels: UInt8[np.ndarray, "head word key"]
    scales: Float[np.ndarray, "head word"]
    norms: Float[np.ndarray, "head key"] | None
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    answer: tuple[int, ...]
    start: int
    unweighted: str = ""

    def attention(self, *, weighted: bool = False) -> Float[np.ndarray, "head word key"]:
        """Attention mass, 0-1, or where weighted times value norms; as exact as the levels are."""
        values = self.scales[..., None] * self.levels.astype(np.float32) ** 2
        if not weighted:
            return values
        if self.norms is None:
            raise InputError(f"This recording has no value norms: {self.unweighted}.")
        return values * self.norms[:, None]

    def mean(self) -> Float[np.ndarray, "word key"]:
        """The mean over all heads of `attention()`, which is not made for all heads at once."""
        total = np.zeros(self.levels.shape[1:], np.float32)
        for scales, levels in zip(self.scales, self.levels, strict=True):
            total += scales[:, None] * np.square(levels, dtype=np.float32)
        return total / len(self.levels)


@torch.no_grad()
def record(
    model: Model,
    inputs: VLMInputs,
    heads: HeadSet | Sequence[Any],
    *,
    keys: Keys | None = None,
    fwd_hooks: Sequence[tuple[Any, Any]] = (),
    prompt_words: int = 64,
    **options: Any,
) -> Recording:
    """Run once, and record the attention of heads from each word to the image tokens, or to the prompt's text.

    inputs: one prompt. An answer is generated, unless the prompt was prepared with `answers=`: then that one is read.
    keys: as `keys_of` makes them, without spans unless given.
    prompt_words: how many of the prompt's last text tokens are recorded, besides the answer.
    options: for `model.generate` (max_new_tokens, ...). No whole pattern is computed.
    Raises HeadError for no heads or heads outside the model; InputError for several rows, beams or return sequences,
    options together with `answers=`, and more values than a browser can hold.
    """
    check(inputs, options)
    refuse_held(model, options, "What a recording shows")
    heads, keys = HeadSet.of(heads, model), keys_of(inputs) if keys is None else keys
    start, recorder = inputs.answers[0], _Recorder(model, inputs, heads, keys)
    first = keys.text[0] - 1 if keys.text else _first_image(inputs)
    candidates = [p for p in inputs.text_positions[0] if first < p < start]
    prompt = candidates[max(0, len(candidates) - prompt_words) :]
    if start < inputs.layout.length:
        hooks = [*fwd_hooks, *recorder.hooks(Positions.of([*prompt, *inputs.answer_positions[0]]))]
        model.run_with_hooks(inputs, fwd_hooks=hooks, return_type=None, use_cache=False)
        answer = inputs.input_ids[0, start:]
    else:
        hooks = [*fwd_hooks, *recorder.hooks(Positions((tuple(prompt),), start - 1))]
        if prompt:  # later layers of some models compute only the queries whose logits are requested
            options = {"logits_to_keep": start - prompt[0], **options}
        answer = model.generate(inputs, fwd_hooks=hooks, **options).tokens[0]
    return recorder.recording(tuple(answer.tolist()), start)


def check(inputs: VLMInputs, options: dict[str, Any]) -> None:
    """Raise InputError for inputs that cannot be recorded, or not with these options."""
    if not isinstance(inputs, VLMInputs):
        raise InputError(f"The viewer takes what model.prepare returns, not {type(inputs).__name__}.")
    if inputs.n_rows != 1:
        raise InputError(f"The viewer shows one prompt; these inputs have {inputs.n_rows} rows. Prepare one prompt.")
    if options and inputs.answers[0] < inputs.layout.length:
        raise InputError(
            f"These inputs hold an answer, so nothing is generated, and {', '.join(options)} would do nothing. Leave "
            "it out, or prepare the prompt without answers=."
        )


def _first_image(inputs: VLMInputs) -> int:
    layout = inputs.layout
    return min((layout.placeholders if layout.cross_attention else layout.images)[0])


def quantised(
    rows: Float[Tensor, "head query token"],
) -> tuple[UInt8[np.ndarray, "head query token"], Float[np.ndarray, "head query"]]:
    """Levels and scales: `rows` is about `scales * levels ** 2`, and so is the sum of each row, exactly."""
    roots = rows.sqrt()
    levels = (LEVELS * roots / roots.amax(-1, keepdim=True).clamp(min=1e-12)).round()
    scales = rows.sum(-1) / levels.square().sum(-1).clamp(min=1)
    return levels.to(torch.uint8).cpu().numpy(), scales.cpu().numpy()


class _Recorder:
    """Hooks that read and quantise attention to keys, and read the norms of the prompt's values."""

    def __init__(self, model: Model, inputs: VLMInputs, heads: HeadSet, keys: Keys) -> None:
        self.heads, self.keys = heads, keys
        purpose = "The viewer shows one answer"
        self.reader = RegionReader(heads, keys.positions, keys.cross_attention, self._quantise, purpose=purpose)
        crossing = {layer: model.blocks[layer].attn.is_cross_attention for layer in heads.by_layer()}
        self.present = {layer: keys.cross_attention == crosses for layer, crosses in crossing.items()}
        layers = {
            crosses: [layer for layer in crossing if crossing[layer] == crosses and self.present[layer].any()]
            for crosses in (False, True)
        }
        n_keys = {False: inputs.layout.length, True: inputs.layout.n_keys}
        norms = [ValueNorms(model, layers[crosses], n_keys=n_keys[crosses]) for crosses in (False, True)]
        self.norms = {layer: one for one in norms for layer in one.points}
        silent = [pair for one in norms for pair in one.silent.items()]
        self.unweighted = "; ".join(f"blocks.{layer}.attn.hook_v: {reason}" for layer, reason in silent)
        self.norm_hooks = [] if self.unweighted else [hook for one in norms for hook in one.hooks()]

    def hooks(self, queries: Positions) -> list[tuple[str, Any]]:
        """The hooks to run with."""
        return self.reader.hooks(queries) + self.norm_hooks

    def _quantise(self, _layer: int, rows: Float[Tensor, "head query token"]) -> tuple[Tensor, ...]:
        self._check_size(self.reader.n_queries)
        levels, scales = quantised(rows)
        return torch.from_numpy(levels), torch.from_numpy(scales)

    def _check_size(self, n_words: int) -> None:
        if len(self.heads) * n_words * len(self.keys.positions) > MAX_VALUES:
            raise InputError(
                f"{len(self.heads)} heads x {n_words} words x {len(self.keys.positions)} tokens are more than the "
                f"{MAX_VALUES:,} values that a browser can hold. Give fewer heads, prompt_words or max_new_tokens."
            )

    def recording(self, answer: tuple[int, ...], start: int) -> Recording:
        """The recording, heads in the order of the set, words that every layer had a query for."""
        queries = self.reader.queries
        self._check_size(len(queries))
        levels, scales = (values.numpy() for values in self.reader.values(queries))
        norms = None if self.unweighted else np.stack([self._norms_of(head) for head in self.heads])
        positions = tuple(queries), tuple(self.keys.positions.tolist())
        return Recording(self.heads, levels, scales, norms, *positions, answer, start, self.unweighted)

    def _norms_of(self, head: Any) -> Float[np.ndarray, " key"]:
        """Of the keys that the head's layer has; 0 of the others."""
        present = self.present[head.layer]
        if not present.any():
            return np.zeros(len(present), np.float32)
        of_keys = self.norms[head.layer].of(head.layer)[head.head].cpu()
        return of_keys[self.keys.positions.where(present, 0)].where(present, 0.0).numpy()
