"""What strips tell about the whole image, put together: mass by question, and one mean map."""

from collections import Counter
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from gaze_lens.runs.processes import gathered

Grid = tuple[int, int]


class ImageReadings:
    """Collects the image's mass of each strip, and the sum of the strips' maps; single maps are not kept."""

    def __init__(self) -> None:
        self.masses: dict[int, Tensor | None] = {}
        self.sums: dict[Grid, Tensor] = {}
        self.counts: Counter[Grid | None] = Counter()

    def add(
        self,
        index: int,
        image_mass: Float[Tensor, "layer head asked"] | None,
        mean_map: Float[Tensor, "layer head row column"] | None,
    ) -> None:
        """Add a strip, by its index; None for what was not read of it."""
        self.masses[index] = image_mass
        grid = None if mean_map is None else (mean_map.shape[-2], mean_map.shape[-1])
        self.counts[grid] += 1
        if grid is not None and mean_map is not None:
            before = self.sums.get(grid)
            self.sums[grid] = mean_map.double() if before is None else before + mean_map

    def of_all_ranks(self) -> "ImageReadings":
        """Those of all processes of a launch together; in a single process the same."""
        parts = gathered((self.masses, self.sums, self.counts))
        if len(parts) == 1:
            return self
        together = ImageReadings()
        for masses, sums, counts in parts:
            together.masses |= masses
            together.counts += counts
            for grid, total in sums.items():
                together.sums[grid] = together.sums.get(grid, 0) + total
        return together

    def image_mass(self, n_panels: int) -> Float[Tensor, "strip layer head asked"] | None:
        """In the order of the strips' indices, filled up with NaN; None where a strip has none."""
        masses = [self.masses[index] for index in sorted(self.masses)]
        present = [mass for mass in masses if mass is not None]
        if not present or len(present) < len(masses):
            return None
        filled = torch.full((len(present), *present[0].shape[:2], n_panels), torch.nan)
        for row, mass in zip(filled, present, strict=True):
            row[..., : mass.shape[-1]] = mass
        return filled

    def mean_map(self) -> Float[Tensor, "layer head row column"] | None:
        """The mean over strips, on the grid that most of them have; None where a strip has no map.

        Maps on another grid are resized to it, bilinearly, with their values scaled by the ratio of the cells' areas,
        so that a map's sum stays attention mass.
        """
        if None in self.counts or not self.sums:
            return None
        grid = max(self.sums, key=lambda one: (self.counts[one], one[0] * one[1], one))
        resized = (_resized(total, grid) for total in _in_order(self.sums))
        return (sum(resized, torch.zeros(())) / self.counts.total()).float()


def _in_order(sums: dict[Grid, Tensor]) -> Iterable[Tensor]:
    return (sums[grid] for grid in sorted(sums))


def _resized(total: Float[Tensor, "layer head _ _"], grid: Grid) -> Float[Tensor, "layer head row column"]:
    height, width = total.shape[-2:]
    if (height, width) == grid:
        return total
    return interpolate(total, size=grid, mode="bilinear") * (height * width / (grid[0] * grid[1]))
