"""Activations of the clean run, captured at groups of positions and patched into another run.

donor = Donor(site_of("z"), pairs)
with donor.capture(model, cells):
    model(clean)
with donor.patch(model, [Cell(3, 5, "last"), Cell(3, 6, "last")]):
    model(corrupted, copies=2)          # the first copy of every row has head 5 patched, the second head 6
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gaze_lens.inputs.position_groups import Group
from gaze_lens.model_protocol import Model
from gaze_lens.patching.cells import Cell
from gaze_lens.patching.image_features import hook_image_features
from gaze_lens.patching.sites import Site

Indices = tuple[Int[Tensor, " position"], Int[Tensor, " position"]]


@dataclass(frozen=True, eq=False)
class Donor:
    """The clean activations that one sweep patches in.

    pairs: (group of positions in the clean inputs, the same group in the corrupted inputs).
    activations: (hook name, group name) -> `[position, ...]`, row after row, at the group's positions only.
    """

    site: Site
    pairs: Sequence[tuple[Group, Group]]
    activations: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)  # TransformerLens prints hooks

    def capture(self, model: Model, cells: Sequence[Cell]) -> Any:
        """A context: a run of the clean inputs inside stores the activations that the cells need."""
        names: dict[int | None, set[str]] = {}
        for cell in cells:
            names.setdefault(cell.layer, set()).add(cell.positions)
        return self._attached(model, {layer: partial(self._store, groups) for layer, groups in names.items()})

    def patch(self, model: Model, cells: Sequence[Cell]) -> Any:
        """A context: a run of the corrupted inputs inside is patched.

        cells: of one layer. The run has a copy of every row for each of them.
        """
        (layer,) = {cell.layer for cell in cells}
        n_heads = self.site.heads_in(model, layer) if self.site.heads else 0
        return self._attached(model, {layer: partial(self._patched, cells, n_heads)})

    def first_layer(self, _model: Any, cell: Cell) -> int | None:
        """The layer of a cell."""
        return cell.layer

    @contextmanager
    def _attached(self, model: Model, functions: Mapping[int | None, Callable[[Tensor, Any], Any]]) -> Iterator[None]:
        if self.site.point is None:
            with hook_image_features(model, functions[None]):
                yield
        else:
            with model.hooks([(self.site.hook_name(layer), function) for layer, function in functions.items()]):
                yield

    def _store(self, names: set[str], tensor: Tensor, hook: Any) -> None:
        """The hook function of the clean run: store what lies at the groups of these names."""
        by_position = tensor.movedim(self.site.position, 1)
        for clean, _ in self.pairs:
            if clean.name in names:
                self.activations[hook.name, clean.name] = by_position[indices_of(clean)]

    def _patched(self, cells: Sequence[Cell], n_heads: int, tensor: Tensor, hook: Any) -> Tensor:
        """The hook function of the corrupted run: the activation with one cell patched in each copy of a row."""
        patched = tensor.clone()
        by_position = patched.movedim(self.site.position, 1)
        groups = {clean.name: corrupted for clean, corrupted in self.pairs}
        for copy, cell in enumerate(cells):
            rows, positions = indices_of(groups[cell.positions])
            rows, activation = rows * len(cells) + copy, self.activations[hook.name, cell.positions]
            if cell.head is None:
                by_position[rows, positions] = activation
            else:  # where queries come with gates, a head has two parts: its query is patched, its gate is not
                parts = by_position.unflatten(2, (n_heads, -1))
                parts[rows, positions, cell.head, 0] = activation.unflatten(1, (n_heads, -1))[:, cell.head, 0]
        return patched


def indices_of(group: Group) -> Indices:
    """The rows and positions of a group, one entry for each position, row after row: they index an activation."""
    rows = [row for row, positions in enumerate(group.rows) for _ in positions]
    return torch.tensor(rows), torch.tensor([position for positions in group.rows for position in positions])
