"""Positions of images, regions and text in one batch of prompts, bound to the layout of that batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from gaze_lens.deprecation import renamed_attribute, renamed_fields
from gaze_lens.errors import RegionError

Rows = tuple[tuple[int, ...], ...]  # some positions for each batch row: columns of the padded prompt


@renamed_fields(crossed="cross_attention")
@dataclass(frozen=True)
class Layout:
    """The positions of images and text in a batch of prompts. A position is a column of the padded prompt.

    length: columns of the padded prompt.
    images: for each batch row, the positions of all its image tokens.
    text: for each batch row, all other positions that are not padding.
    sizes: for each batch row, (width, height) of each of its images, in original pixels.
    cross_attention: the model reads the images by cross-attention. `images` then holds indices of keys of the
        cross-attention layers, and `text` every position that is not padding.
    placeholders: with cross-attention, for each batch row, the positions of its image placeholder tokens.
    segments: for each batch row, the positions of each of its passages of text; () where no row has passages.
    Layouts are compared by value. Raises RegionError where the numbers of rows differ or a position lies outside the
    prompt.
    """

    length: int
    images: Rows
    text: Rows
    sizes: tuple[tuple[tuple[int, int], ...], ...]
    cross_attention: bool = False
    placeholders: Rows = ()
    segments: tuple[Rows, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.text) == len(self.sizes) or len(self.segments) not in (0, len(self.text)):
            raise RegionError(
                f"A layout has images for {len(self.images)} rows, text for {len(self.text)} and sizes for "
                f"{len(self.sizes)}: expected one entry for each batch row in all three, and in segments "
                "if there are any."
            )
        columns = self.text + (self.placeholders if self.cross_attention else self.images) + self.all_segments
        outside = sorted({p for row in columns for p in row if not 0 <= p < self.length})
        if outside:
            raise RegionError(
                f"Positions {_few(outside)} lie outside a prompt of {self.length} columns: expected columns of the "
                f"padded prompt, 0 to {self.length - 1}."
            )

    @property
    def n_rows(self) -> int:
        """Batch rows."""
        return len(self.images)

    @property
    def n_keys(self) -> int:
        """The number of keys in the layers that read images: the prompt's columns, or the keys of its images."""
        return 1 + max((key for row in self.images for key in row), default=-1) if self.cross_attention else self.length

    @property
    def after_images(self) -> tuple[int, ...]:
        """For each batch row, the first position after its last image; 0 where it has no image."""
        return tuple(1 + max(row, default=-1) for row in (self.placeholders if self.cross_attention else self.images))

    @property
    def all_segments(self) -> Rows:
        """For each batch row, the positions of all its passages; () where no row has passages."""
        return tuple(tuple(position for segment in row for position in segment) for row in self.segments)

    behind_images = renamed_attribute("behind_images", "after_images")

    def __repr__(self) -> str:
        kind = "image keys" if self.cross_attention else "image tokens"
        images = f"{sum(map(len, self.sizes))} images, {_count(self.images)} {kind}"
        segments = f", {sum(map(len, self.segments))} segments of text" if self.segments else ""
        return f"Layout of {self.n_rows} rows x {self.length} positions, {images}{segments}"


@dataclass(frozen=True, repr=False)
class Region:
    """`inputs.region("panel 4")`: some image tokens of every prompt in a batch; or some tokens of its text:
    `inputs.region(inputs.span("a cat"))`.

    name: for messages and figures.
    positions: for each batch row, its tokens' columns in the padded prompt (with cross-attention, their keys);
        converted to ascending order without duplicates.
    layout: of the batch that it belongs to; use with another layout raises an error.
    around: for each batch row, the positions that the region is a part of; None for those of the row's images.
    weights: for each batch row, how much each of its positions is meant, above 0 and at most 1, where it was made from
        a `HeatMap`; None where all count fully.
    `|`, `-` and `&` unite, subtract and intersect regions of one layout and kind. Of weights a and b, of which one is 0
    outside of its region, they take max(a, b), min(a, 1 - b) and min(a, b). Raises RegionError where a row has no
    token, a position is not one of `around`, or the numbers of rows differ.
    """

    name: str
    positions: Rows
    layout: Layout
    around: Rows | None = None
    weights: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is None:
            object.__setattr__(self, "positions", tuple(tuple(sorted(set(row))) for row in self.positions))
        else:
            self._sort_weights()
        if len(self.positions) != self.layout.n_rows:
            raise RegionError(
                f"Region '{self.name}' has positions for {len(self.positions)} rows, its layout has "
                f"{self.layout.n_rows}: expected one entry for each batch row."
            )
        kind = "image token" if self.around is None else "token"
        for i, (row, surroundings) in enumerate(zip(self.positions, self.surroundings, strict=True)):
            if not row:
                raise RegionError(
                    f"Region '{self.name}' holds no {kind} in batch row {i}: expected at least one in every row. "
                    "Give a larger region, or select with rule='overlap'."
                )
            if not set(row) <= set(surroundings):
                unknown = _few(sorted(set(row) - set(surroundings)))
                raise RegionError(
                    f"Region '{self.name}' names positions {unknown} in batch row {i}, which are not {kind}s of what "
                    "it is a part of: expected positions out of inputs.image_tokens, or of around=."
                )

    def _sort_weights(self) -> None:
        """Positions in ascending order with their weights; RegionError for too many, too few or wrong weights."""
        weights = self.weights or ()
        if list(map(len, weights)) != list(map(len, self.positions)) or any(
            len(set(p)) < len(p) for p in self.positions
        ):
            raise RegionError(
                f"Region '{self.name}' has {_count(self.positions)} positions and {sum(map(len, weights))} weights: "
                "expected one weight for each position, and each position once."
            )
        wrong = [weight for row in weights for weight in row if not 0 < weight <= 1]
        if wrong:
            raise RegionError(
                f"Region '{self.name}' has the weight {wrong[0]}: expected weights above 0, at most 1. Leave out "
                "positions of weight 0."
            )
        pairs = [sorted(zip(*row, strict=True)) for row in zip(self.positions, weights, strict=True)]
        object.__setattr__(self, "positions", tuple(tuple(position for position, _ in row) for row in pairs))
        object.__setattr__(self, "weights", tuple(tuple(weight for _, weight in row) for row in pairs))

    @property
    def weight_of(self) -> tuple[dict[int, float], ...]:
        """For each batch row, the weight of each of its positions: 1 where the region has no weights."""
        weights = self.weights or tuple((1.0,) * len(row) for row in self.positions)
        return tuple(dict(zip(*row, strict=True)) for row in zip(self.positions, weights, strict=True))

    def refuse_weights(self, use: str) -> None:
        """RegionError where the region has weights and something reads positions alone."""
        if self.weights is not None:
            raise RegionError(
                f"Region '{self.name}' has weights, of a heat map, and {use} reads whole tokens only. Give a region "
                "without weights, such as inputs.region(gl.Mask(array > 0.5))."
            )

    @property
    def surroundings(self) -> Rows:
        """For each batch row, the positions that the region is a part of: those of its images, or of a text."""
        return self.layout.images if self.around is None else self.around

    @property
    def cross_attention(self) -> bool:
        """Whether its positions are keys of cross-attention layers."""
        return self.around is None and self.layout.cross_attention

    @cached_property
    def others(self) -> Rows:
        """For each batch row, the surroundings without the region, such as the rest of the image; may be empty."""
        rows = zip(self.positions, self.surroundings, strict=True)
        return tuple(tuple(sorted(set(surroundings) - set(row))) for row, surroundings in rows)

    @property
    def rest_of_text(self) -> Rows:
        """For each batch row, the positions of text that are neither in the region nor in its surroundings."""
        if self.around is None:
            return self.layout.text
        rows = zip(self.layout.text, self.around, strict=True)
        return tuple(tuple(sorted(set(text) - set(surroundings))) for text, surroundings in rows)

    @property
    def after(self) -> tuple[int, ...]:
        """For each batch row, the first position after the surroundings, or after the row's images."""
        return self.layout.after_images if self.around is None else tuple(1 + max(row) for row in self.around)

    def check(self, layout: Layout) -> None:
        """`region.check(inputs.layout)`: raises RegionError unless the region was made for this layout."""
        if layout is self.layout or layout == self.layout:
            return
        raise RegionError(
            f"Region '{self.name}' was made for {self.layout}, and is used on {layout}. Its positions would point at "
            "other tokens there: call inputs.region(...) on the inputs that are run."
        )

    def __or__(self, other: "Region") -> "Region":
        return self._combine(other, "|", max)

    def __and__(self, other: "Region") -> "Region":
        return self._combine(other, "&", min)

    def __sub__(self, other: "Region") -> "Region":
        return self._combine(other, "-", lambda mine, theirs: min(mine, 1 - theirs))

    def _combine(self, other: "Region", sign: str, operation: Callable[[float, float], float]) -> "Region":
        """The positions whose weight, of one made from those in both regions (0 where it is outside), is above 0."""
        if not isinstance(other, Region):
            return NotImplemented
        self.check(other.layout)
        if self.around != other.around:
            raise RegionError(
                f"Regions '{self.name}' and '{other.name}' are parts of different things (images, or other texts) and "
                "cannot be combined. Make both with the same around=."
            )
        rows = []
        for mine, theirs in zip(self.weight_of, other.weight_of, strict=True):
            weights = {p: operation(mine.get(p, 0.0), theirs.get(p, 0.0)) for p in (*mine, *theirs)}
            rows.append({position: weight for position, weight in weights.items() if weight > 0})
        weighted = self.weights is not None or other.weights is not None
        return Region(
            f"{self.name} {sign} {other.name}", tuple(map(tuple, rows)), self.layout, self.around,
            tuple(tuple(row.values()) for row in rows) if weighted else None,
        )  # fmt: skip

    def __len__(self) -> int:
        return _count(self.positions)

    def __repr__(self) -> str:
        rows = f" in {self.layout.n_rows} rows" if self.layout.n_rows > 1 else ""
        kind = "image tokens" if self.around is None else "tokens"
        weights = "" if self.weights is None else f", weights adding up to {sum(map(sum, self.weights)):.4g}"
        return f"Region '{self.name}': {len(self)} of {_count(self.surroundings)} {kind}{rows}{weights}"


@renamed_fields(crossed="cross_attention")
@dataclass(frozen=True, repr=False)
class Group:
    """`inputs.span("fourth")`, `gl.patching.group(inputs, "last")`: some positions of every prompt in a batch.

    name: for tables and messages.
    rows: for each batch row, columns of the padded prompt; converted to ascending order without duplicates. Rows may
        have different lengths.
    layout: of the batch that it belongs to; use with another layout raises an error.
    cross_attention: `rows` are keys of the cross-attention layers, as those of a region in a layout of cross-attention.
    Raises RegionError where a row has no position, a position lies outside, or the numbers of rows differ.
    """

    name: str
    rows: Rows
    layout: Layout
    cross_attention: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(tuple(sorted(set(row))) for row in self.rows))
        if len(self.rows) != self.layout.n_rows:
            raise RegionError(
                f"Group '{self.name}' has positions for {len(self.rows)} rows, its layout has {self.layout.n_rows}: "
                "expected one entry for each batch row."
            )
        end = self.layout.n_keys if self.cross_attention else self.layout.length
        for i, row in enumerate(self.rows):
            if not row:
                raise RegionError(
                    f"Group '{self.name}' is empty in batch row {i}: expected at least one position in every row. "
                    "Leave the row out of the batch, or choose other positions."
                )
            if row[0] < 0 or row[-1] >= end:
                raise RegionError(
                    f"Group '{self.name}' has positions {row[0]} to {row[-1]} in batch row {i}: expected 0 to "
                    f"{end - 1}."
                )

    def check(self, layout: Layout) -> None:
        """`group.check(inputs.layout)`: raises RegionError unless the group was made for this layout."""
        if layout is not self.layout and layout != self.layout:
            raise RegionError(
                f"Group '{self.name}' was made for {self.layout}, and is used on {layout}. Its positions would be "
                "other tokens there: make it from the inputs that are run."
            )

    def __len__(self) -> int:
        return _count(self.rows)

    def __repr__(self) -> str:
        kind = "image keys" if self.cross_attention else "positions"
        return f"Group '{self.name}': {len(self)} {kind} in {len(self.rows)} rows"


def _count(rows: Rows) -> int:
    return sum(map(len, rows))


def _few(positions: list[int]) -> str:
    """The first positions of a long list, for an error message."""
    return ", ".join(map(str, positions[:5])) + (", ..." if len(positions) > 5 else "")
