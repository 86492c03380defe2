"""Activations of a clean run, taken at groups of positions and put into another run.

donor = Donor(site_of("z"), pairs)
with donor.taking(model, cells):
    model(clean)
with donor.giving(model, [Cell(3, 5, "last"), Cell(3, 6, "last")]):
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
from gaze_lens.patching.cells import Cell
from gaze_lens.patching.image_features import at_border
from gaze_lens.patching.sites import Site

Flat = tuple[Int[Tensor, " position"], Int[Tensor, " position"]]


@dataclass(frozen=True, eq=False)
class Donor:
    """The clean activations of one sweep, only those at its groups' positions.

    pairs: (group in the clean inputs, the same in the corrupted ones).
    kept: by hook name and group name, `[position, ...]`, row after row.
    """

    site: Site
    pairs: Sequence[tuple[Group, Group]]
    kept: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)  # TransformerLens prints hooks

    def taking(self, model: Any, cells: Sequence[Cell]) -> Any:
        """A context in which a run of the clean inputs leaves what these cells need."""
        layers: dict[int | None, set[str]] = {}
        for cell in cells:
            layers.setdefault(cell.layer, set()).add(cell.positions)
        return self._attached(model, {layer: partial(self._take, names) for layer, names in layers.items()})

    def giving(self, model: Any, cells: Sequence[Cell]) -> Any:
        """A context in which a run of the corrupted inputs, with as many copies as cells of one layer, is patched."""
        (layer,) = {cell.layer for cell in cells}
        n_heads = self.site.heads_in(model, layer) if self.site.heads else 0
        return self._attached(model, {layer: partial(self._give, cells, n_heads)})

    def starts(self, _model: Any, cell: Cell) -> int | None:
        """The layer of a cell."""
        return cell.layer

    @contextmanager
    def _attached(self, model: Any, functions: Mapping[int | None, Callable[[Tensor, Any], Any]]) -> Iterator[None]:
        if self.site.point is None:
            with at_border(model, functions[None]):
                yield
        else:
            with model.hooks([(self.site.hook_name(layer), function) for layer, function in functions.items()]):
                yield

    def _take(self, names: set[str], tensor: Tensor, hook: Any) -> None:
        by_position = tensor.movedim(self.site.position, 1)
        for clean, _ in self.pairs:
            if clean.name in names:
                self.kept[hook.name, clean.name] = by_position[flat(clean)]

    def _give(self, cells: Sequence[Cell], n_heads: int, tensor: Tensor, hook: Any) -> Tensor:
        patched = tensor.clone()
        by_position = patched.movedim(self.site.position, 1)
        corrupted = {clean.name: theirs for clean, theirs in self.pairs}
        for copy, cell in enumerate(cells):
            rows, positions = flat(corrupted[cell.positions])
            rows, given = rows * len(cells) + copy, self.kept[hook.name, cell.positions]
            if cell.head is None:
                by_position[rows, positions] = given
            else:  # where queries come with gates, a head has two parts: its query, and its gate, which stays
                parts = by_position.unflatten(2, (n_heads, -1))
                parts[rows, positions, cell.head, 0] = given.unflatten(1, (n_heads, -1))[:, cell.head, 0]
        return patched


def flat(group: Group) -> Flat:
    """A group's rows and positions, one entry for each position, row after row."""
    rows = [row for row, positions in enumerate(group.rows) for _ in positions]
    return torch.tensor(rows), torch.tensor([position for positions in group.rows for position in positions])
