"""What edits of pre-softmax scores that the attention function knows have in common: `AttentionBias`, `MassEdit`.

Any other function on `hook_attn_scores` has the whole matrices built; these act beside the model's own kernel.
"""

from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention.positions import Positions, QueryKeyPositions, forward_state_of
from gaze_lens.errors import HookError, InputError, RegionError
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.regions.layout import Layout, Region

Edit = TypeVar("Edit", bound="ScoreEdit")


class ScoreEdit:
    """An edit of the scores of chosen heads, as a TransformerLens hook function.

    heads: the heads; one object serves all their layers. queries: the rows that it acts on. layout: where given,
    running other inputs under it is a RegionError. rows: for each batch row, whether it acts there. required: an error
    at the end of a run in which it never acted. head_weights: how strongly it acts in each of the heads, in their
    order; None: in all of them fully. when: the steps and rows in which it acts; see `step_condition.py`. steered_to:
    the region that it is for, where it is known.
    """

    heads: HeadSet
    queries: Positions
    layout: Layout | None
    rows: tuple[bool, ...] | None
    required: bool
    head_weights: tuple[float, ...] | None = None
    when: Any = None
    steered_to: Region | None = None

    @cached_property
    def _weights_by_layer(self) -> dict[int, tuple[float, ...]]:
        """The weights of the chosen heads of each layer in which it does not act fully in all of them."""
        weight_of = dict(zip(self.heads, self.head_weights or (), strict=self.head_weights is not None))
        by_layer = {
            layer: tuple(weight_of.get(Head(layer, head), 1.0) for head in heads)
            for layer, heads in self._by_layer.items()
        }
        return {layer: weights for layer, weights in by_layer.items() if set(weights) != {1.0}}

    def weights_in(self, layer: int) -> tuple[float, ...] | None:
        """How strongly it acts in the chosen heads of a layer; None where it acts fully in all of them."""
        return self._weights_by_layer.get(layer)

    @cached_property
    def _by_layer(self) -> dict[int, tuple[int, ...]]:
        return self.heads.by_layer()

    @property
    def current(self: Edit) -> Edit:
        """The edit that acts now: this one. A `SwitchableBias` has others."""
        return self

    def heads_in(self, layer: int) -> tuple[int, ...]:
        """The chosen heads of a layer; empty where it has none."""
        return self._by_layer.get(layer, ())

    def hooks(self: Edit) -> list[tuple[str, Edit]]:
        """`(hook name, function)` for every layer that has a chosen head: goes to `run_with_hooks` and `hooks()`."""
        return [(f"blocks.{layer}.attn.hook_attn_scores", self) for layer in self._by_layer]

    def __call__(self, scores: Tensor, hook: Any) -> Tensor:
        """The hook function: scores `[batch, head, query, key]` (or without batch) in, edited scores out."""
        if not str(hook.name).endswith("hook_attn_scores"):
            raise HookError(
                f"An {type(self).__name__} is attached to {hook.name}; it edits pre-softmax scores and belongs on "
                "blocks.L.attn.hook_attn_scores. Attach the list that its .hooks() returns."
            )
        batched = scores if scores.ndim == 4 else scores[None]
        heads = list(self.heads_in(hook.layer()))
        selected = batched[:, heads]
        visible = selected > torch.finfo(selected.dtype).min / 2
        edited = self.edited(selected, visible, QueryKeyPositions.of(scores, hook), hook) if heads else None
        if edited is None:
            return scores
        state = forward_state_of(hook)
        if state is None and self.when is not None:
            raise HookError("An edit with when= needs a HookedVLM, which knows what chose the newest token.")
        if state is not None:
            active = state.active(self, *batched.shape[:1], batched.device)
            state.note(self, hook.layer())
            edited = edited if active is None else torch.where(active[:, None, None, None], edited, selected)
        result = batched.clone()
        result[:, heads] = edited
        return result if scores.ndim == 4 else result[0]

    def edited(self, scores: Tensor, visible: Tensor, positions: QueryKeyPositions, hook: Any) -> Tensor | None:
        """The scores of this edit's heads in one layer, edited; None where it has nothing to act on."""
        raise NotImplementedError

    @property
    def targets(self) -> tuple[Positions, ...]:
        """The keys whose attention it is meant to change, for reports."""
        region = self.steered_to
        if region is None:
            return ()
        return (Positions(region.positions, cross_attention=region.cross_attention, weights=region.weights),)

    @property
    def acts_on(self) -> str:
        """The keys that it is for, in words."""
        raise NotImplementedError

    def check_layout(self, positions: QueryKeyPositions) -> None:
        """RegionError where other inputs are run than the edit was made for."""
        if self.layout is not None and positions.layout is not None and self.layout != positions.layout:
            raise RegionError(
                f"This attention edit is for a {self.layout}, and the inputs being run are a {positions.layout}. Make "
                "its regions with inputs.region(...) on the inputs that you run."
            )

    def gate(self, positions: QueryKeyPositions) -> Tensor:
        """Which queries it acts on: bool, `[row, query]`, on the CPU."""
        return self.queries.mask(positions.queries) & torch.tensor(self.rows or (True,))[:, None]


def check_head_weights(owner: str, heads: HeadSet, weights: tuple[float, ...] | None) -> None:
    """InputError unless there is a number above 0, at most 1, for each head, or None."""
    if weights is None:
        return
    if len(weights) != len(heads):
        raise InputError(f"{owner} got {len(weights)} weights for {len(heads)} heads; give one for each.")
    for head, weight in zip(heads, weights, strict=True):
        if isinstance(weight, bool) or not isinstance(weight, Real) or not 0 < float(weight) <= 1:
            raise InputError(
                f"The weight {weight!r} was given for head {head}; give a number above 0, at most 1. Leave out "
                "heads that are not to be steered."
            )


def column(values: Sequence[float], like: Tensor) -> Float[Tensor, "head 1 1"]:
    """A number for each head, to multiply scores with."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def check_counts(owner: str, *groups: Positions, rows: tuple[bool, ...] | None) -> None:
    """InputError where positions and rows are given for different numbers of batch rows."""
    counts = {len(positions.rows) for positions in groups} | {len(rows or (True,))}
    if len(counts - {1}) > 1:
        raise InputError(
            f"{owner} got queries, keys and rows for {sorted(counts - {1})} rows; give each for one row (it "
            "then holds for all) or for the same number of rows."
        )
    if groups[0].cross_attention:
        raise InputError(
            f"{owner} got cross_attention=True for its queries; queries are positions of the prompt in every "
            "layer, and only keys can be those of cross-attention."
        )
