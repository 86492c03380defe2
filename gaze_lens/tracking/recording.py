"""`gl.track`: generate, and keep of every step how much attention the heads pay to each region.

Per step and head a few numbers are kept: bytes in place of the matrices' gigabytes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaze_lens.attention_hooks import Place, Positions, RowReader
from gaze_lens.errors import InputError
from gaze_lens.heads import HeadSet
from gaze_lens.inputs import VLMInputs
from gaze_lens.regions import Region
from gaze_lens.token_texts import pieces
from gaze_lens.tracking.trajectory import Trajectory
from gaze_lens.value_norms import ValueNorms

BLOCK = 4_000_000  # numbers that wait to be summed together, at most: one sum for many steps spares time


def track(
    model: Any,
    inputs: VLMInputs,
    heads: HeadSet | Sequence[Any],
    *,
    regions: Sequence[Any] | None = None,
    weighted: bool = False,
    **options: Any,
) -> Trajectory:
    """`trajectory = gl.track(model, inputs, heads)`: generate, and record what the heads look at, token by token.

    inputs: one row. heads: a HeadSet, or what makes one.
    regions: names, shapes, boxes in original pixels, or `Region`s of these inputs; all named ones by default.
    weighted: multiply each image token's attention by the norm of its value vector in the head's KV group (Gandikota
        and Bau 2026, after Kobayashi et al. 2020): a token may be looked at and have nothing to give. The norm is that
        of the vector that attention mixes, before the output projection.
    options: handed to `model.generate` (fwd_hooks, max_new_tokens, ...). Rows are read as other hooks leave them, and
        no whole pattern is built or kept.
    Raises InputError for several rows, beams or return sequences, for no heads, and for inputs without regions;
    HeadError for heads outside the model; HookError for layers without attention heads, and where `weighted` for
    layers that take their values from an earlier one.
    """
    if not isinstance(inputs, VLMInputs):
        raise InputError(f"track takes what model.prepare returns, not {type(inputs).__name__}.")
    heads = heads if isinstance(heads, HeadSet) else HeadSet(heads)
    if not len(heads):
        raise InputError("The set of heads is empty; choose at least one head, for example scores.top(10).")
    heads.check(model.cfg.n_layers, model.cfg.n_heads)
    found = _regions(inputs, regions)
    norms = ValueNorms(model, heads.by_layer(), n_keys=inputs.layout.n_keys) if weighted else None
    recorder = _Recorder(inputs, heads, found, norms)
    hooks = [*options.pop("fwd_hooks", ()), *recorder.hooks()]
    generation = model.generate(inputs, fwd_hooks=hooks, **options)
    captions = {name: line for picture in inputs.pictures[0] for name, line in picture.captions.items()}
    names = tuple(region.name for region in found)
    return Trajectory(
        **recorder.numbers(generation.n_steps),
        heads=heads,
        regions=names,
        tokens=tuple(pieces(inputs.tokenizer, generation.tokens[0].tolist())),
        generation=generation,
        weighted=weighted,
        captions={name: captions[name] for name in names if name in captions},
    )


def _regions(inputs: VLMInputs, regions: Sequence[Any] | None) -> list[Region]:
    if inputs.n_rows != 1:
        raise InputError(f"track follows one text; these inputs have {inputs.n_rows} rows. Prepare one prompt.")
    if regions is None:
        regions = [name for picture in inputs.pictures[0] for name in picture.regions]
    regions = [regions] if isinstance(regions, str | Region) else regions
    if not len(regions):
        raise InputError("There is no region to track; name regions in a gl.Picture, or pass regions=[...].")
    found = [region if isinstance(region, Region) else inputs.region(region) for region in regions]
    for region in found:
        region.check(inputs.layout)
    names = [region.name for region in found]
    if len(set(names)) < len(names):
        raise InputError(f"Two of the regions {names} have one name; give each once, or name them in a gl.Picture.")
    return found


class _Recorder:
    """Hooks that cut each step's row to the image tokens and the sink, and in blocks of steps add it up.

    keys: of the image tokens, and last the position of the first text token. member: image tokens' regions, and a last
    column for all of them.
    """

    def __init__(self, inputs: VLMInputs, heads: HeadSet, regions: list[Region], norms: ValueNorms | None) -> None:
        layout = inputs.layout
        image = torch.tensor(layout.images[0])
        self.keys: Int[Tensor, " key"] = torch.tensor([*layout.images[0], min(layout.text[0])])
        self.member = torch.ones(len(image), len(regions) + 1)
        for index, region in enumerate(regions):
            self.member[:, index] = torch.isin(image, torch.tensor(region.positions[0])).float()
        self.behind = int(self.keys.max()) + 1
        self.heads, self.norms, self.crossed, self.last = heads, norms, layout.crossed, inputs.last_position
        self.chosen = {layer: torch.tensor(among)[:, None] for layer, among in heads.by_layer().items()}
        self.columns: dict[Any, tuple[Int[Tensor, " key"], Bool[Tensor, " key"] | None]] = {}
        self.waiting: dict[int, dict[int, Tensor]] = {layer: {} for layer in self.chosen}
        self.sums: dict[int, dict[int, Tensor]] = {layer: {} for layer in self.chosen}
        self.n_waiting, self.blind = 0, set()  # blind: layers that do not see images

    def hooks(self) -> list[tuple[str, Any]]:
        """The hooks to generate with."""
        reader = RowReader(Positions.since(self.last), self._read)
        hooks: list[tuple[str, Any]] = [(f"blocks.{layer}.attn.hook_pattern", reader) for layer in self.chosen]
        return hooks + (self.norms.hooks() if self.norms else [])

    def _read(self, weights: Tensor, positions: list[int], place: Place, layer: int) -> None:
        if len(weights) != 1:
            raise InputError(
                f"track follows one text, and {len(weights)} are generated together; leave out num_beams and "
                "num_return_sequences."
            )
        columns, seen = self._columns(place, layer, weights.device)
        if self.chosen[layer].device != weights.device:
            self.chosen[layer] = self.chosen[layer].to(weights.device)
        kept = weights[0][self.chosen[layer], :, columns]  # [head, key, query]
        if seen is not None:
            kept = kept * seen[:, None]
        self.waiting[layer].update(zip(positions, kept.unbind(-1), strict=True))
        self.n_waiting += kept.numel()
        if self.n_waiting > BLOCK:
            self._add_up()

    def _columns(
        self, place: Place, layer: int, device: torch.device
    ) -> tuple[Int[Tensor, " key"], Bool[Tensor, " key"] | None]:
        """Where the keys are in a row, and which of them are there; None where all are."""
        about = place.crossed, place.key_start, min(place.n_keys, self.behind), device
        if place.crossed != self.crossed:
            self.blind.add(layer)
        if about not in self.columns:
            if len(self.columns) > 8:  # a sliding window is elsewhere in every step
                self.columns.clear()
            columns = self.keys - place.key_start
            seen = (columns >= 0) & (columns < place.n_keys)
            seen[:-1] &= place.crossed == self.crossed
            seen[-1] &= not place.crossed
            seen_or_all = None if seen.all() else seen.to(device)
            self.columns[about] = columns.where(seen, 0).to(device), seen_or_all
        return self.columns[about]

    def _add_up(self) -> None:
        """Sums of the steps that wait: mass by region and on the image, entropy, sink."""
        for layer, rows in self.waiting.items():
            if rows:
                summed = self._summed(torch.stack(list(rows.values())).float(), layer)
                self.sums[layer].update(zip(rows, summed.unbind(), strict=True))
                rows.clear()
        self.n_waiting = 0

    def _summed(self, rows: Float[Tensor, "step head key"], layer: int) -> Float[Tensor, "step head number"]:
        on_image, sink = rows[..., :-1], rows[..., -1:]
        if self.norms and layer not in self.blind:
            norms = self.norms.of(layer).to(rows.device)
            on_image = on_image * norms[self.chosen[layer], self.keys[:-1].to(rows.device)]
        mass = on_image @ self.member.to(rows.device)
        total = mass[..., -1:]
        bits = torch.special.xlogy(on_image, on_image).sum(-1, keepdim=True) / math.log(2)
        entropy = (total.log2() - bits / total).clamp(min=0)  # NaN where nothing is on the image
        return torch.cat([mass, entropy, sink], -1).cpu()

    def numbers(self, n_steps: int) -> dict[str, Tensor]:
        """The fields of a Trajectory, heads in the order of the set."""
        self._add_up()
        steps = range(self.last, self.last + n_steps)
        found = torch.cat([torch.stack([sums[step] for step in steps]) for sums in self.sums.values()], 1)
        order = [(layer, head) for layer, among in self.heads.by_layer().items() for head in among]
        found = found[:, [order.index(tuple(head)) for head in self.heads]]
        mass, (on_image, entropy, sink) = found[..., :-3], found[..., -3:].unbind(-1)
        return {"mass": mass.contiguous(), "on_image": on_image, "entropy": entropy, "sink": sink}
