"""What the attention calls of one forward share, carried by the arguments of the calls themselves.

    state = ForwardState(layout, n_seen)
    text_model.forward(..., **{STATE: state})      # Hugging Face hands it on to every attention call

Why an argument, and neither a global nor something found by the identity of a module: gradient checkpointing runs a
layer again, after the forward has ended and, on a GPU, in another thread. It keeps the arguments of the call. A state
that travels with them is the right one there, too, and two forwards at one time cannot see one another's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.call import Call, Rows
from gaze_lens.attention.mass_edit import MassEdit, Share, refuse_conflicts
from gaze_lens.attention.positions import QueryKeyPositions
from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.attention.split_keys import SplitKeys
from gaze_lens.attention.step_condition import NewestTokens
from gaze_lens.errors import HookError
from gaze_lens.regions.layout import Layout

STATE = "gaze_lens_forward"  # the keyword argument
# For each edit and each layer, in how many forwards it changed scores. Under a condition, numbers on the device until
# `settle`: to look at them would wait for it.
Acted = dict[ScoreEdit, dict[int, Any]]


@dataclass(eq=False)
class SharedMask:
    """One mask of a forward, with everything that is derived from it once and used in all layers that have it.

    mask: as Hugging Face made it, or None. Layers with the same mask have the same object, so that it is compared with
        `is`; it is kept here for as long as what was derived from it.
    rows: for some query rows (None: all), what they see and the same as a number to add.
    active: the rows in which the condition of an edit holds; see `ForwardState.active`.
    bias_matrices: what each bias adds, in one precision. sums: the mask plus some of these.
    """

    mask: Tensor | None
    positions: QueryKeyPositions
    causal: bool
    device: torch.device  # layers may be spread over several
    active: Callable[[ScoreEdit, int, torch.device], Tensor | None]
    rows: dict[tuple[int, ...] | None, tuple[Tensor, Tensor]] = field(default_factory=dict)
    hidden: Tensor | None = None  # what the queries do not see, where it was asked for
    bias_matrices: dict[tuple[AttentionBias, torch.dtype], Tensor | None] = field(default_factory=dict)
    sums: dict[tuple[AttentionBias, ...], Tensor] = field(default_factory=dict)
    shares: dict[tuple[MassEdit, Sequence[int]], Share | None] = field(default_factory=dict)
    splits: dict[tuple[Share, torch.dtype], SplitKeys | None] = field(default_factory=dict)

    def fits(self, call: Call) -> bool:
        """Whether this is the mask of a call."""
        same = self.mask is call.mask and self.positions is call.positions and self.causal == call.causal
        return same and self.device == call.query.device

    def of_rows(self, call: Call, rows: Rows = slice(None)) -> tuple[Tensor, Tensor]:
        """What (some rows of) the queries see, and it as a number to add: `[batch, #head, query, key]`."""
        key = None if isinstance(rows, slice) else tuple(rows)
        if key not in self.rows:
            batch = call.query.shape[0]
            seen, added = call.visible(rows).expand(batch, -1, -1, -1), call.additive(rows).expand(batch, -1, -1, -1)
            self.rows[key] = seen, added
        return self.rows[key]

    def unseen(self, call: Call) -> Bool[Tensor, " batch #head query key"]:
        """What the queries do not see."""
        if self.hidden is None:
            self.hidden = ~self.of_rows(call)[0]
        return self.hidden

    def bias_matrix(self, bias: AttentionBias, call: Call) -> Float[Tensor, "#batch #head query key"] | None:
        """What a bias adds to the scores of its heads; None where it has nothing to act on."""
        key = bias, call.query.dtype
        if key not in self.bias_matrices:
            matrix = bias.bias_matrix(call.positions, self.of_rows(call)[0], call.query.dtype)
            if matrix is not None and (active := self._active(bias, call)) is not None:
                matrix = torch.where(active, matrix, 0.0)
            self.bias_matrices[key] = matrix
        return self.bias_matrices[key]

    def with_biases(self, biases: Sequence[AttentionBias], call: Call) -> Float[Tensor, " batch #head query key"]:
        """The additive mask with what some biases add, for heads in which all of them act."""
        key = tuple(biases)
        if key not in self.sums:
            added = (matrix for bias in biases if (matrix := self.bias_matrix(bias, call)) is not None)
            self.sums[key] = sum(added, self.of_rows(call)[1])
        return self.sums[key]

    def share(self, edit: MassEdit, call: Call, rows: Rows) -> Share | None:
        """What an edit does to some query rows; None where it has nothing to act on."""
        n_queries = call.positions.n_queries
        key = edit, (tuple(rows) if isinstance(rows, list) else range(*rows.indices(n_queries)))
        if key not in self.shares:
            visible = call.visible(rows).expand(call.query.shape[0], -1, -1, -1)
            share = edit.share(call.positions, visible, rows, has_sink=call.sinks is not None)
            if share is not None and (active := self._active(edit, call)) is not None:
                share = replace(share, gate=share.gate & active)
            self.shares[key] = share
        return self.shares[key]

    def split(self, share: Share, call: Call) -> SplitKeys | None:
        """The keys of a region and the others apart; None where attention to each does not say all."""
        key = share, call.query.dtype
        if key not in self.splits:
            self.splits[key] = SplitKeys.of(share, call.query.dtype)
        return self.splits[key]

    def _active(self, edit: ScoreEdit, call: Call) -> Bool[Tensor, "batch 1 1 1"] | None:
        active = self.active(edit, call.query.shape[0], call.query.device)
        return None if active is None else active[:, None, None, None]


@dataclass(eq=False)
class ForwardState:
    """One forward of a language model.

    layout: that of the inputs being run; None for raw tokens, and for a layer that is called by itself.
    n_seen: tokens that the model has seen when the forward ends: what its cache held, and its input.
    acted: where each edit changed scores.
    hooks: for each layer that has run, what was attached to its attention.
    newest: what conditions on the newest token are asked about; None where no run keeps it.
    """

    layout: Layout | None
    n_seen: int
    acted: Acted = field(default_factory=dict)
    hooks: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    newest: NewestTokens | None = None
    _active: dict[ScoreEdit, Tensor] = field(default_factory=dict)
    _positions: dict[tuple[int, int, bool], QueryKeyPositions] = field(default_factory=dict)
    _masks: list[SharedMask] = field(default_factory=list)
    _triangles: dict[tuple[int, int, torch.device], Tensor] = field(default_factory=dict)
    _compatible: set[tuple[Any, ...]] = field(default_factory=set)
    _joined: "ForwardState | None" = None
    _joined_masks: list[tuple[Tensor | None, int, Tensor]] = field(default_factory=list)

    @classmethod
    def of_shapes(cls, n_queries: int, n_keys: int, *, cross_attention: bool) -> "ForwardState":
        """The state of a layer that is called by itself: its queries are the last of its keys."""
        return cls(None, n_queries if cross_attention else n_keys)

    def clear(self) -> None:
        """When the forward has ended: free the matrices. A layer that is recomputed later makes its own again."""
        self._masks.clear()
        self._triangles.clear()
        self._joined_masks.clear()
        self._joined = None

    def positions(self, n_queries: int, n_keys: int, cross_attention: bool) -> QueryKeyPositions:
        """The positions of a layer's matrix, the same object for all layers with the same shape.

        The queries are the last ones: where only the last logits are asked for, later layers may leave out the others.
        A sliding cache drops its oldest keys; a static one has empty slots after the last.
        """
        key = n_queries, n_keys, cross_attention
        if key not in self._positions:
            start = 0 if cross_attention else max(0, self.n_seen - n_keys)
            self._positions[key] = QueryKeyPositions(
                self.n_seen - n_queries, n_queries, start, n_keys, self.layout, cross_attention
            )
        return self._positions[key]

    def triangle(self, query: Tensor, key: Tensor) -> Bool[Tensor, "1 1 query key"]:
        """What the last queries see, where later layers leave out the others and there is no mask.

        SDPA's own triangle would begin at the first key. Layers with the same shape have the same object.
        """
        shape = query.shape[-2], key.shape[-2], query.device
        if shape not in self._triangles:
            positions = self.positions(*shape[:2], cross_attention=False)
            keys = positions.key_start + torch.arange(positions.n_keys, device=query.device)
            queries = positions.query_start + torch.arange(positions.n_queries, device=query.device)
            self._triangles[shape] = (keys[None, :] <= queries[:, None])[None, None]
        return self._triangles[shape]

    def mask_of(self, call: Call) -> SharedMask:
        """The mask of a call; a forward has two or three, for full, sliding and cross-attention."""
        shared = next((mask for mask in self._masks if mask.fits(call)), None)
        if shared is None:
            shared = SharedMask(call.mask, call.positions, call.causal, call.query.device, self.active)
            self._masks.append(shared)
        return shared

    def note(self, edit: ScoreEdit, layer: int) -> None:
        """Remember that an edit changed the scores of a layer."""
        self.acted.setdefault(edit, {})[layer] = 1 if edit.when is None else self._active[edit].any().long()

    def active(self, edit: ScoreEdit, n_rows: int, device: torch.device) -> Bool[Tensor, " row"] | None:
        """The rows of the batch in which an edit's condition holds; None where it has none.

        HookError where nobody keeps what the condition is asked about.
        """
        if edit.when is None:
            return None
        if self.newest is None:
            raise HookError(
                "An edit with when= is attached by itself; hand it to run_with_hooks, generate or gl.steering, which "
                "keep the logits that it decides by."
            )
        gate = self.newest.gate(edit.when, n_rows, device)
        meant = torch.tensor(edit.rows or (True,)).repeat_interleave(n_rows // len(edit.rows or (True,)))
        self._active[edit] = gate & meant.to(device, non_blocking=True)
        return gate

    def check_hooks(self, layer: int, hooks: tuple[Any, ...]) -> None:
        """HookError where a layer is recomputed under other hooks than it had in the forward: its gradients would be
        those of another computation."""
        before = self.hooks.setdefault(layer, hooks)
        if len(before) != len(hooks) or any(a is not b for a, b in zip(before, hooks, strict=True)):
            raise HookError(
                f"Layer {layer} is recomputed (gradient checkpointing), and its attention hooks are not those of the "
                f"forward: {len(before)} were attached then, {len(hooks)} are now. Call backward() inside the same "
                "`with model.hooks(...)` block as the forward."
            )

    def check_masses(self, functions: Sequence[Any], positions: QueryKeyPositions) -> None:
        """HookError where edits of a layer would change one another's masses; the same edits are looked at once."""
        edits = tuple(getattr(function, "current", function) for function in functions)
        if len(edits) > 1 and edits not in self._compatible:
            refuse_conflicts(edits, positions)
            self._compatible.add(edits)

    def joined(self, n_rows: int, length: int) -> "ForwardState":
        """The same forward, with `n_rows` rows of `length` queries put side by side; see `shared_keys.py`."""
        if self._joined is None:
            newest = NewestTokens(missing="prompts that share a beginning are run in one row; run them apart")
            n_seen = self.n_seen + (n_rows - 1) * length
            self._joined = ForwardState(self.layout, n_seen, self.acted, self.hooks, self.newest and newest)
        return self._joined

    def joined_mask(self, mask: Tensor | None, n_keys: int, make: Callable[[], Tensor]) -> Tensor:
        """The mask of joined rows for that of the rows, made once for all layers with the same one."""
        for rows_mask, n_rows_keys, joined in self._joined_masks:
            if rows_mask is mask and n_rows_keys == n_keys:
                return joined
        self._joined_masks.append((mask, n_keys, make()))
        return self._joined_masks[-1][2]


def add_up(acted: Acted, more: Acted) -> None:
    """Add what acted in one forward to what acted before."""
    for bias, layers in more.items():
        counts = acted.setdefault(bias, {})
        for layer, n in layers.items():
            counts[layer] = counts.get(layer, 0) + n


def settle(acted: Acted) -> None:
    """When a run has ended: look up the numbers on the device, and forget the edits whose condition never held."""
    for edit in [edit for edit in acted if edit.when is not None]:
        counts = {layer: int(n) for layer, n in acted[edit].items()}
        acted[edit] = {layer: n for layer, n in counts.items() if n}
        if not acted[edit]:
            del acted[edit]
