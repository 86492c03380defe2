"""Reads a generation's exposure: sums of two patterns over groups of keys, for every step and every edited head."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.attention.edit_reader import EditReader
from gaze_lens.attention.forward_state import ForwardState
from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.attention.score_edit import ScoreEdit
from gaze_lens.attention.switchable_bias import SwitchableBias
from gaze_lens.errors import InputError
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.edit_checks import edited_layers
from gaze_lens.model.exposure import GROUPS, Exposure
from gaze_lens.model.generation import option
from gaze_lens.model_protocol import Model
from gaze_lens.regions.layout import Layout

Hooks = list[tuple[Any, Callable]]
Sums = Float[Tensor, "2 entry group"]  # with the edits, and without


@dataclass(eq=False)
class ExposureReader:
    """Reads one generation.

    edits: on which layers each edit, or switch of edits, is attached. names: of the targets -> their index.
    sums: what was read: where, and the mass on each group of keys.
    """

    layout: Layout
    edits: dict[ScoreEdit | SwitchableBias, set[int]]
    names: dict[str, int] = field(default_factory=dict)
    sums: list[tuple[Int[Tensor, "entry 5"], Sums]] = field(default_factory=list)
    _groups: list[tuple[QueryKeyPositions, dict[ScoreEdit, Tensor | None]]] = field(default_factory=list)

    def around(self, hooks: Hooks) -> Hooks:
        """The hooks, with those that read before the first edit among them and after the last."""
        reader = EditReader(Positions.since(self.layout.length - 1), self._read)
        layers = sorted(set().union(*self.edits.values()))
        at = [index for index, (_, function) in enumerate(hooks) if isinstance(function, ScoreEdit | SwitchableBias)]
        first, end = at[0], at[-1] + 1
        return [*hooks[:first], *reader.before(layers), *hooks[first:end], *reader.after(layers), *hooks[end:]]

    def result(self, tokens: Int[Tensor, "sequence step"], ends: Int[Tensor, " end"], pad: int | None) -> Exposure:
        """What was read, up to the end of each text. What a model read anew counts as it was read last."""
        if not self.sums:
            nothing = np.zeros((0, len(GROUPS)))
            return Exposure(np.zeros((0, 5), int), nothing, nothing, ())
        places = torch.cat([places for places, _ in self.sums]).numpy()
        masses, without = torch.cat([sums.cpu() for _, sums in self.sums], 1).double().numpy()
        _, from_end = np.unique(places[::-1], axis=0, return_index=True)
        kept = len(places) - 1 - from_end
        kept = kept[places[kept, 1] < lengths_of(tokens.cpu(), ends.cpu(), pad).numpy()[places[kept, 0]]]
        return Exposure(places[kept], masses[kept], without[kept], tuple(self.names))

    def _read(
        self, without: Tensor, edited: Tensor, positions: list[int], place: QueryKeyPositions, layer: int,
        state: ForwardState | None,
    ) -> None:  # fmt: skip
        for attached, layers in self.edits.items():
            edit = attached.current
            if edit is None or layer not in layers or not edit.heads_in(layer):
                continue
            groups = self._groups_of(edit, place, edited.device)
            if groups is not None:
                acts = _acts(edit, place, positions, len(edited), state)
                self._sum(edit, groups, torch.stack([edited, without]), acts, positions, layer, place)

    def _sum(
        self, edit: ScoreEdit, groups: Tensor, patterns: Float[Tensor, "2 batch head query key"],
        acts: Bool[Tensor, "batch query"], positions: list[int], layer: int, place: QueryKeyPositions,
    ) -> None:  # fmt: skip
        """Keep the sums over groups of keys in the rows and queries on which an edit acts."""
        batch, heads = patterns.shape[1], torch.tensor(edit.heads_in(layer))
        rows, queries = acts.nonzero(as_tuple=True)
        if not len(rows):
            return
        own = patterns.index_select(2, heads.to(patterns.device))
        sums = own @ groups[place.rows_of(batch, len(groups))][None, :, None]
        sums[..., GROUPS.index("sink")] += 1 - own.sum(-1)  # a learned one's; rounding where there is none
        sums = sums.permute(1, 3, 0, 2, 4)[rows.to(sums.device), queries.to(sums.device)]  # [place, 2, head, group]
        steps = torch.tensor(positions)[queries] - (self.layout.length - 1)
        target = self.names.setdefault(_name_of(edit), len(self.names))
        columns = torch.broadcast_tensors(
            rows[:, None], steps[:, None], torch.tensor(layer), heads[None], torch.tensor(target)
        )
        self.sums.append((torch.stack(columns, -1).flatten(0, 1), sums.transpose(0, 1).flatten(1, 2)))

    def _groups_of(self, edit: ScoreEdit, place: QueryKeyPositions, device: Any) -> Tensor | None:
        """The groups of an edit's keys, made once for all layers of a forward that have the same keys."""
        if self._groups and self._groups[0][0].queries != place.queries:
            self._groups.clear()
        of_place = next((groups for known, groups in self._groups if known is place), None)
        if of_place is None:
            of_place = {}
            self._groups.append((place, of_place))
        if edit not in of_place:
            of_place[edit] = self._membership(edit, place)
        groups = of_place[edit]
        return None if groups is None else groups.to(device)

    def _membership(self, edit: ScoreEdit, place: QueryKeyPositions) -> Float[Tensor, "row key group"] | None:
        """1 where a key belongs to a group, each to one, and the target's weights; None where the target has no keys in
        such layers."""
        targets = [keys for keys in edit.targets if keys.cross_attention == place.cross_attention]
        if not targets:
            return None
        remaining = torch.ones(self.layout.n_rows, place.n_keys, dtype=torch.bool)
        groups: dict[str, Tensor] = {}
        for name, keys in (("target", targets), *self._other_groups(edit, place.cross_attention)):
            masks = torch.broadcast_tensors(remaining, *(one.mask(place.keys) for one in keys))[1:]
            groups[name] = remaining & torch.stack([torch.zeros_like(remaining), *masks]).any(0)
            remaining = remaining & ~groups[name]
        weights = [one.values(place.keys) for one in targets]
        groups["weighted"] = torch.stack(torch.broadcast_tensors(remaining.float() * 0, *weights)).amax(0)
        return torch.stack([groups[name].float() for name in GROUPS], -1)

    def _other_groups(self, edit: ScoreEdit, cross_attention: bool) -> list[tuple[str, list[Positions]]]:
        """The groups after the target, in the order in which they take the keys that are left."""
        layout, region = self.layout, edit.steered_to
        around = layout.images if region is None else region.surroundings
        fits = cross_attention == (layout.cross_attention if region is None else region.cross_attention)
        others = [Positions(around)] if fits else []
        if cross_attention:
            return [("others", others), ("sink", []), ("prompt", []), ("generated", [])]
        images = ((),) * layout.n_rows if layout.cross_attention else layout.images
        first = tuple((min(*text, *image, layout.length),) for text, image in zip(layout.text, images, strict=True))
        prompt, generated = Positions.between(0, layout.length), Positions.since(layout.length)
        return [("others", others), ("sink", [Positions(first)]), ("prompt", [prompt]), ("generated", [generated])]


def exposure_reader(model: Model, hooks: Hooks, inputs: VLMInputs | None, options: dict[str, Any]) -> ExposureReader:
    """A reader for a generation under some hooks. InputError where there is nothing to read, and for beams."""
    edits: dict[ScoreEdit | SwitchableBias, set[int]] = {}
    for name, function in hooks:
        if isinstance(function, ScoreEdit | SwitchableBias):
            edits.setdefault(function, set()).update(edited_layers(name, function))
    if not edits:
        raise InputError("exposure=True was given without an edit of scores; give fwd_hooks=gl.steer(...) with it.")
    if inputs is None:
        raise InputError("exposure=True was given for raw tokens, which have no regions; give model.prepare(...).")
    beams = option("num_beams", options, options.get("generation_config"), model.original_model.generation_config)
    if beams not in (None, 1):
        raise InputError(
            f"exposure=True was given with num_beams={beams}: a beam's text comes out of several rows. Generate "
            "without beams."
        )
    return ExposureReader(inputs.layout, edits)


def lengths_of(
    tokens: Int[Tensor, "sequence step"], ends: Int[Tensor, " end"], pad: int | None
) -> Int[Tensor, " sequence"]:
    """How many tokens each text has: up to that which ends it, else without padding after it."""
    is_end = torch.isin(tokens, ends).long()
    until_end = (is_end.cumsum(1) - is_end == 0).sum(1)
    if pad is None:
        return until_end
    padding = (tokens == pad).flip(1).long().cumprod(1).sum(1)
    return torch.where(is_end.any(1), until_end, tokens.shape[1] - padding)


def _acts(
    edit: ScoreEdit, place: QueryKeyPositions, positions: list[int], batch: int, state: ForwardState | None
) -> Bool[Tensor, "batch query"]:
    """On which rows of the batch and queries an edit acts in a forward."""
    gate = edit.gate(place)[:, place.rows_at(positions)]
    acts = gate[place.rows_of(batch, len(gate))]
    active = None if state is None else state.active(edit, batch, acts.device)
    return acts if active is None else acts & active[:, None]


def _name_of(edit: ScoreEdit) -> str:
    return edit.acts_on if edit.steered_to is None else edit.steered_to.name
