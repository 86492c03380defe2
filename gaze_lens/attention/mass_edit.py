"""`MassEdit`: give the keys of a region a chosen share of attention, in chosen heads and from chosen queries.

    edit = MassEdit(HeadSet(["L3H5"]), queries=Positions.everything(), region=Positions.of([7, 8]), mass=0.8)
    model.run_with_hooks(inputs, fwd_hooks=edit.hooks())

A number of logits does more or less according to the scores that it meets; this finds the number, row by row. With p
the region's share, adding b to its scores makes it p e^b / (p e^b + 1 - p). So b = logit(mass) - logit(p), and logit(p)
is the difference of two log-sum-exps, which is exact where p itself is 0 or 1 in the model's precision.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaze_lens.attention.positions import SINKS_KEY, Positions, QueryKeyPositions
from gaze_lens.attention.score_edit import ScoreEdit, check_counts, check_head_weights, column
from gaze_lens.attention.step_condition import check_when
from gaze_lens.errors import HookError, InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.regions.layout import Layout, Region

Scores = Float[Tensor, "batch head query key"]
Sees = Bool[Tensor, "batch #head query key"]


@dataclass(frozen=True, eq=False)
class MassEdit(ScoreEdit):
    """Set the share of attention that the keys of a region get, in the chosen heads only.

    heads: the heads; one object serves all their layers (`.hooks()` gives the list to attach).
    queries: the rows of the pattern. region: the keys; those of cross-attention act in cross-attention layers alone.
    mass: the share, between 0 and 1. Among the region's keys, and among the others, weights keep their proportions.
    pool: where given, keys within which mass is a share: these together keep the attention that they had, and all
        others keep theirs. Else it is a share of all attention, that of an attention sink included.
    floor: act only on rows whose share is smaller.
    layout, rows, required, when: as for `AttentionBias`.
    head_weights: for each head, in their order, a weight w above 0, at most 1: the pattern is w times that with the
        mass set, plus 1 - w times its own. So its share is p + w (mass - p). None for 1.

    steered_to: the region as it was given, with its name; None: what `region` says.

    Where the region's keys have weights (`Positions.weights`), the mass is spread among them in proportion to their
    weight times the row's own attention.
    A row that sees no key of the region, or nothing else, stays as it is, bit for bit. What the model masks (future,
    padding, outside the window) stays masked. On a bridge that publishes none, attention sinks are not known.
    """

    heads: HeadSet
    queries: Positions
    region: Positions
    mass: float
    pool: Positions | None = None
    floor: bool = False
    layout: Layout | None = None
    rows: tuple[bool, ...] | None = None
    required: bool = True
    head_weights: tuple[float, ...] | None = None
    when: Any = None
    steered_to: Region | None = None

    def __post_init__(self) -> None:
        check_mass(self.mass)
        check_head_weights("MassEdit", self.heads, self.head_weights)
        check_when(self.when)
        if min((weight for row in self.region.weights or () for weight in row), default=1.0) <= 0:
            raise InputError("MassEdit got keys of weight 0 or less; leave them out of its region.")
        groups = [self.queries, self.region, *([] if self.pool is None else [self.pool])]
        check_counts("MassEdit", *groups, rows=self.rows)
        if self.pool is not None and self.pool.cross_attention != self.region.cross_attention:
            raise InputError(
                "MassEdit got a region and a pool of which one is of cross-attention; give keys of one kind."
            )

    @property
    def targets(self) -> tuple[Positions, ...]:
        """The keys that it is for."""
        return (self.region,)

    @property
    def acts_on(self) -> str:
        """The keys that it is for, in words."""
        return str(self.region)

    def edited(self, scores: Tensor, visible: Tensor, positions: QueryKeyPositions, hook: Any) -> Tensor | None:
        """The hook's scores with the mass set, less the largest of each row: half precision is finest around 0."""
        sinks = hook.ctx.get(SINKS_KEY)
        sinks = None if sinks is None else sinks[list(self.heads_in(hook.layer()))]
        share = self.share(positions, visible, has_sink=sinks is not None)
        if share is None:
            return None
        wide = scores.float() if scores.dtype != torch.float64 else scores
        edited, acts = share.set(wide, sinks, self.weights_in(hook.layer()))
        if sinks is None:
            edited = edited - edited.masked_fill(~visible, -math.inf).amax(-1, keepdim=True).clamp(min=-1e30)
        return torch.where(acts & visible, edited.to(scores.dtype), scores)

    def share(
        self, positions: QueryKeyPositions, visible: Sees, rows: Any = slice(None), *, has_sink: bool = False
    ) -> "Share | None":
        """What it does in the layers with one mask; None where no query sees both the region and something else.

        visible: what (some `rows` of) the queries may see. has_sink: an attention sink is something else, too.
        """
        self.check_layout(positions)
        if self.region.cross_attention != positions.cross_attention:
            return None
        gate = self.gate(positions)[:, rows]
        if not gate.any():
            return None
        inside = self._members(self.region, positions, visible)
        outside = ~inside if self.pool is None else self._members(self.pool, positions, visible) & ~inside
        meant = self._by_row(gate, positions, visible)[:, None, :, None]
        spread = None
        if self.region.weights is not None:
            values = self._by_row(self.region.values(positions.keys), positions, visible)[:, None, None, :]
            spread = values.where(values > 0, 1.0).log()
        share = Share(visible & inside, visible & outside, meant, self, has_sink, spread)
        return share if bool(share.acts.any()) else None

    def _members(self, keys: Positions, positions: QueryKeyPositions, visible: Sees) -> Bool[Tensor, "row 1 1 key"]:
        return self._by_row(keys.mask(positions.keys), positions, visible)[:, None, None, :]

    @staticmethod
    def _by_row(values: Tensor, positions: QueryKeyPositions, visible: Sees) -> Tensor:
        """Values of prompt rows for the batch's rows, on its device."""
        rows = positions.rows_of(visible.shape[0], len(values)) if len(values) > 1 else [0]
        return values[rows].to(visible.device)


@dataclass(frozen=True, eq=False)
class Share:
    """A `MassEdit` in the layers of a forward that have one mask.

    inside, outside: the keys that each query sees, in the region and beside it (in the pool, where there is one).
    gate: the queries that are meant. has_sink: an attention sink is something else that they see.
    spread: the logarithm of each key's weight in the region, where these differ.
    """

    inside: Sees
    outside: Sees
    gate: Bool[Tensor, "row 1 query 1"]
    edit: MassEdit
    has_sink: bool
    spread: Float[Tensor, "#batch 1 1 key"] | None = None

    @cached_property
    def acts(self) -> Bool[Tensor, " batch #head query 1"]:
        """The queries that are meant and see a key of the region, and something else."""
        others = self.outside.any(-1, keepdim=True) | (self.has_sink and self.edit.pool is None)
        return self.gate & self.inside.any(-1, keepdim=True) & others

    @cached_property
    def hidden(self) -> Bool[Tensor, "2 batch #head query key"]:
        """What is left out of the log-sum-exps of the region and of the others.

        Nothing where the edit does not act: that would be the logarithm of 0, and gradients that are not a number.
        """
        return torch.stack([self.acts & ~self.inside, self.acts & ~self.outside])

    @cached_property
    def set_inside(self) -> Sees:
        """The keys to which something is added, where it acts."""
        return self.acts & self.inside

    def up_to(self, n_keys: int) -> "Share":
        """The same without the keys after the first so many."""
        if n_keys == self.inside.shape[-1]:
            return self
        spread = None if self.spread is None else self.spread[..., :n_keys]
        return replace(self, inside=self.inside[..., :n_keys], outside=self.outside[..., :n_keys], spread=spread)

    def set(
        self, scores: Scores, sinks: Float[Tensor, " head"] | None, weights: tuple[float, ...] | None
    ) -> tuple[Scores, Bool[Tensor, " batch #head query 1"]]:
        """Scores with the mass set, and the rows in which it is; what the model masks must hold the lowest value.

        weights: of the heads, or None.
        """
        acts, mass = self.acts, self.edit.mass
        own, of_others = scores.masked_fill(self.hidden, -math.inf).logsumexp(-1, keepdim=True)
        of_region = own
        if sinks is not None and self.edit.pool is None:
            of_others = torch.logaddexp(of_others, sinks.to(scores)[None, :, None, None])
        logit = math.log(mass) - math.log1p(-mass)
        if self.edit.floor:
            acts = acts & (own - of_others < logit)
        meant = scores
        if self.spread is not None:
            meant = scores + self.spread
            of_region = meant.masked_fill(self.hidden[0], -math.inf).logsumexp(-1, keepdim=True)
        if self.edit.pool is None and weights is None:
            inside = acts & self.inside if self.edit.floor else self.set_inside
            return torch.where(inside, meant + (logit - (of_region - of_others)), scores), acts
        together = torch.logaddexp(own, of_others)
        raised = (meant - scores) + (math.log(mass) + together - of_region)
        lowered = math.log1p(-mass) + together - of_others
        if weights is not None:
            raised, lowered = (_mixed(column(weights, scores), change) for change in (raised, lowered))
        if self.edit.pool is None:  # a sink among the others cannot be lowered
            return torch.where(acts & self.inside, scores + (raised - lowered), scores), acts
        edited = torch.where(self.inside, scores + raised, torch.where(self.outside, scores + lowered, scores))
        return torch.where(acts, edited, scores), acts


def _mixed(weights: Float[Tensor, "head 1 1"], change: Tensor) -> Tensor:
    """What is added to scores where a pattern is mixed with one to whose scores `change` was added, by weight."""
    return torch.logaddexp(torch.log1p(-weights), weights.log() + change)


def check_mass(mass: Any) -> None:
    """InputError unless a share lies between 0 and 1."""
    if isinstance(mass, bool) or not isinstance(mass, Real) or not 0 < float(mass) < 1:
        raise InputError(
            f"mass={mass!r} was given; give the region's share of attention, a number between 0 and 1, such as 0.8. To "
            "take it all away use gl.knockout, to leave nothing else mode=gl.max_suppress_all()."
        )


def refuse_conflicts(edits: Sequence[Any], positions: QueryKeyPositions) -> None:
    """HookError where a mass would not be what was asked for: it is set twice on a head and row, or a bias comes after.

    edits: the functions on the scores of a layer, in the order in which they act.
    """
    for index, edit in enumerate(edits):
        if not isinstance(edit, MassEdit):
            continue
        for other in edits[index + 1 :]:
            shared = sorted(set(edit.heads) & set(other.heads)) if isinstance(other, ScoreEdit) else []
            if shared and bool((edit.gate(positions) & other.gate(positions)).any()):
                twice = isinstance(other, MassEdit)
                what = "its mass is set twice" if twice else "a bias is added after its mass is set"
                raise HookError(
                    f"Head {shared[0]}: {what}, so that the mass would be another one. Set it once for each head and "
                    "row, and put the hooks that set it last."
                )
