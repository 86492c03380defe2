"""`gl.track`: generate, and record at every step how much attention the heads pay to each region, or segment of text.

A few numbers are stored for each step and head: bytes, where whole patterns would take gigabytes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaze_lens.attention.positions import Positions
from gaze_lens.attention.region_reader import RegionReader
from gaze_lens.attention.value_norms import ValueNorms
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.region_names import captions_of
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.continuation import refuse_held
from gaze_lens.model_protocol import Model
from gaze_lens.regions.layout import Region
from gaze_lens.text.token_texts import pieces
from gaze_lens.tracking.trajectory import Trajectory


def track(
    model: Model,
    inputs: VLMInputs,
    heads: HeadSet | Sequence[Any],
    *,
    regions: Sequence[Any] | None = None,
    weighted: bool = False,
    **options: Any,
) -> Trajectory:
    """`trajectory = gl.track(model, inputs, heads)`: generate, and record where the heads look, token by token.

    inputs: one row. heads: a HeadSet, or what makes one.
    regions: names, shapes, boxes in original pixels, or `Region`s of these inputs; by default all named ones. Those of
        `gl.passages` are segments of text. All must be parts of the same thing: the images, all segments, or one text.
    weighted: multiply the attention on each image token by the norm of its value vector in the head's KV group
        (Gandikota and Bau 2026, after Kobayashi et al. 2020). A token with much attention and a small value vector adds
        little to the head's output. The vector is that before the output projection.
    options: for `model.generate` (fwd_hooks, max_new_tokens, ...). Attention is read after other hooks have changed it.
        No whole pattern is built or stored.
    Raises InputError for several rows, beams or return sequences, for inputs without regions, and where `weighted` for
        a cache that holds a part of the prompt; HeadError for no
    heads, and for heads of another model; HookError for layers without attention heads, and where `weighted` for
    layers that take their values from an earlier one.
    """
    if not isinstance(inputs, VLMInputs):
        raise InputError(f"track takes what model.prepare returns, not {type(inputs).__name__}.")
    heads = HeadSet.of(heads, model)
    tracked = _regions(inputs, regions)
    if weighted:
        refuse_held(model, options, "The length of value vectors")
    n_keys = inputs.layout.n_keys if tracked[0].cross_attention else inputs.layout.length
    norms = ValueNorms(model, heads.by_layer(), n_keys=n_keys) if weighted else None
    recorder = _Recorder(inputs, heads, tracked, norms)
    hooks = [*options.pop("fwd_hooks", ()), *recorder.hooks()]
    generation = model.generate(inputs, fwd_hooks=hooks, **options)
    captions = captions_of(inputs.sources[0])
    names = tuple(region.name for region in tracked)
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
        regions = inputs.region_names()
    regions = [regions] if isinstance(regions, str | Region) else regions
    if not len(regions):
        raise InputError(
            "There is no region to track; name regions in a gl.Picture, or pass regions=[...], or give gl.passages."
        )
    tracked = [region if isinstance(region, Region) else inputs.region(region) for region in regions]
    for region in tracked:
        region.check(inputs.layout)
        region.refuse_weights("tracking")
        if (region.surroundings, region.cross_attention) != (tracked[0].surroundings, tracked[0].cross_attention):
            raise InputError(
                f"Regions '{tracked[0].name}' and '{region.name}' are parts of different things (images, segments, or "
                "other texts), and mass is compared within one. Give regions= of one kind, spans with the same around=."
            )
    names = [region.name for region in tracked]
    if len(set(names)) < len(names):
        raise InputError(f"Two of the regions {names} have one name; give each once, or name them in a gl.Picture.")
    return tracked


class _Recorder:
    """Hooks that read the attention on image tokens and on the sink at each step, and sum it by region.

    Where the regions are of text, the tokens that they are a part of stand in the place of image tokens.
    keys: the positions of the image tokens, then that of the first text token, which is the sink.
    member: [image token, region], 1 where the token is in the region; the last column is 1 for all tokens.
    """

    def __init__(self, inputs: VLMInputs, heads: HeadSet, regions: list[Region], norms: ValueNorms | None) -> None:
        layout = inputs.layout
        (surroundings,) = regions[0].surroundings
        image = torch.tensor(surroundings)
        self.keys: Int[Tensor, " key"] = torch.tensor([*surroundings, min(layout.text[0])])
        self.member = torch.ones(len(image), len(regions) + 1)
        for index, region in enumerate(regions):
            self.member[:, index] = torch.isin(image, torch.tensor(region.positions[0])).float()
        self.heads, self.norms, self.last = heads, norms, inputs.last_position
        cross_attention = torch.tensor([regions[0].cross_attention] * len(image) + [False])
        purpose = "track follows one text"
        self.reader = RegionReader(heads, self.keys, cross_attention, self._reduce, purpose=purpose)

    def hooks(self) -> list[tuple[str, Any]]:
        """The hooks to generate with."""
        return self.reader.hooks(Positions.since(self.last)) + (self.norms.hooks() if self.norms else [])

    def _reduce(self, layer: int, rows: Float[Tensor, "head step key"]) -> tuple[Tensor, ...]:
        """The numbers of some steps of a layer: mass by region and on the image, entropy, sink."""
        on_image, sink = rows[..., :-1], rows[..., -1]
        if self.norms:
            on_image = self.norms.weigh(layer, self.heads.by_layer()[layer], on_image, self.keys[:-1])
        mass = on_image @ self.member.to(rows.device)
        total = mass[..., -1]
        bits = torch.special.xlogy(on_image, on_image).sum(-1) / math.log(2)
        entropy = (total.log2() - bits / total).clamp(min=0)  # NaN where nothing is on the image
        return mass[..., :-1].cpu(), total.cpu(), entropy.cpu(), sink.cpu()

    def numbers(self, n_steps: int) -> dict[str, Tensor]:
        """The numbers of a Trajectory; heads in the order of the set."""
        values = self.reader.values(range(self.last, self.last + n_steps))
        by_step = [value.transpose(0, 1).contiguous() for value in values]
        return dict(zip(("mass", "on_image", "entropy", "sink"), by_step, strict=True))
