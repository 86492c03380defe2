"""Tracking: where chosen heads look while the model writes.

    trajectory = gl.track(model, inputs, heads, max_new_tokens=100)
    gl.show.staircase(trajectory)

Gandikota and Bau 2026, "Tracking": per decode step, the heads' attention summed by region.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaze_lens.attention_hooks import Place, Positions, RowReader
from gaze_lens.errors import InputError
from gaze_lens.generation import Generation
from gaze_lens.heads import HeadSet
from gaze_lens.inputs import VLMInputs
from gaze_lens.regions import Region


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What the heads looked at, token by token.

    mass: attention on each region by the query that produced each token, 0-1 (or scaled by value norms).
    heads, regions: names along the axes. tokens: the text of each generated token. generation: the whole record.
    weighted: whether attention was weighted by the norm of each token's value vector.
    """

    mass: Float[Tensor, "step head region"]
    heads: HeadSet
    regions: tuple[str, ...]
    tokens: tuple[str, ...]
    generation: Generation
    weighted: bool = False

    @property
    def mean(self) -> Float[Tensor, "step region"]:
        """The mean over heads."""
        return self.mass.mean(1)

    @property
    def looked_at(self) -> tuple[str, ...]:
        """For each token, the region with the largest mean mass."""
        return tuple(self.regions[index] for index in self.mean.argmax(-1).tolist())

    def __str__(self) -> str:
        return str(self.generation)


def track(
    model: Any,
    inputs: VLMInputs,
    heads: HeadSet | Sequence[Any],
    *,
    regions: Sequence[Any] | None = None,
    weighted: bool = False,
    **options: Any,
) -> Trajectory:
    """Generate, and record at every step how much attention the heads pay to each region.

    inputs: one row. heads: a HeadSet, or what makes one. regions: names, shapes, boxes in original
        pixels, or `Region`s of these inputs; all named ones by default.
    weighted: multiply each image token's attention by the norm of its value vector in the head's KV group
        (Kobayashi et al. 2020): a token may be looked at and have nothing to give.
    options: handed to `model.generate` (fwd_hooks, max_new_tokens, ...). The masses are reduced inside the hook.
    Raises InputError for several rows, beams or return sequences, for no heads, and for inputs without regions.
    """
    if not isinstance(inputs, VLMInputs):
        raise InputError(f"track takes what model.prepare returns, not {type(inputs).__name__}.")
    heads = heads if isinstance(heads, HeadSet) else HeadSet(heads)
    if not len(heads):
        raise InputError("The set of heads is empty; choose at least one head, for example scores.top(10).")
    heads.check(model.cfg.n_layers, model.cfg.n_heads)
    found = _regions(inputs, regions)
    member = torch.zeros(inputs.layout.n_keys, len(found))
    for index, region in enumerate(found):
        member[list(region.positions[0]), index] = 1.0
    recorder = _Recorder(heads, member, model.cfg.n_heads, last=inputs.last_position, crossed=inputs.layout.crossed)
    hooks = list(options.pop("fwd_hooks", ())) + recorder.hooks(weighted)
    generation = model.generate(inputs, fwd_hooks=hooks, **options)
    ids = generation.tokens[0].tolist()
    tokens = tuple(inputs.tokenizer.decode(token) for token in ids)
    mass = recorder.mass(len(ids))
    return Trajectory(mass, heads, tuple(region.name for region in found), tokens, generation, weighted)


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
    return found


class _Recorder:
    """Hooks that add up one row of attention by region, step by step, and keep value norms of the prompt."""

    def __init__(
        self, heads: HeadSet, member: Float[Tensor, "key region"], n_heads: int, *, last: int, crossed: bool
    ) -> None:
        self.heads, self.member, self.n_heads, self.last, self.crossed = heads, member, n_heads, last, crossed
        self.masses: list[dict[int, Tensor]] = []
        self.norms: dict[int, Tensor] = {}

    def hooks(self, weighted: bool) -> list[tuple[str, Any]]:
        """The hooks to generate with."""
        reader = RowReader(Positions.since(self.last), self._read)
        layers = self.heads.by_layer()
        hooks: list[tuple[str, Any]] = [(f"blocks.{layer}.attn.hook_pattern", reader) for layer in layers]
        if weighted:
            hooks += [(f"blocks.{layer}.attn.hook_v", self._keep_norms) for layer in layers]
        return hooks

    def _keep_norms(self, values: Tensor, hook: Any) -> None:
        """Values `[batch, pos, kv_head, d_head]` of the prefill; later forwards hold generated tokens only."""
        norms = values[0].float().norm(dim=-1).T
        self.norms.setdefault(hook.layer(), norms.repeat_interleave(self.n_heads // norms.shape[0], 0))

    def _read(self, weights: Tensor, _positions: list[int], place: Place, layer: int) -> None:
        if len(weights) != 1:
            raise InputError(
                f"track follows one text, and {len(weights)} are generated together; leave out num_beams and "
                "num_return_sequences."
            )
        chosen = list(self.heads.by_layer()[layer])
        # Without the image among its keys, a layer shows none of it.
        shown = [key for key in place.keys if key < len(self.member)] if place.crossed == self.crossed else []
        attention = weights[0, chosen, -1, : len(shown)].float()
        if layer in self.norms:
            attention = attention * self.norms[layer][chosen][:, shown]
        if not self.masses or layer in self.masses[-1]:
            self.masses.append({})
        self.masses[-1][layer] = (attention @ self.member[shown].to(attention.device)).cpu()

    def mass(self, n_steps: int) -> Float[Tensor, "step head region"]:
        """All steps, heads in the order of the set."""
        rows = []
        for step in self.masses[:n_steps]:
            by_head = {
                (layer, head): mass[index]
                for layer, mass in step.items()
                for index, head in enumerate(self.heads.by_layer()[layer])
            }
            rows.append(torch.stack([by_head[tuple(head)] for head in self.heads]))
        return torch.stack(rows)
