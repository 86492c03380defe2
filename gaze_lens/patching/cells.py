"""The cells of a sweep: one activation of one layer or head, at one group of positions.

cells_of(model, site_of("z"), HeadSet(["L2H0", "L4H7"]), groups(inputs, ["image", "last"]))     # four cells
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.inputs.position_groups import Group
from gaze_lens.model.projections import n_heads_of
from gaze_lens.model_protocol import Model
from gaze_lens.patching.sites import Site, check_layer, layers_with


class Cell(NamedTuple):
    """What one run patches: a layer, a head in it (a KV head for keys and values), a group of positions.

    layer: None for image features. head: None for what has no heads.
    """

    layer: int | None
    head: int | None
    positions: str


def cells_of(model: Model, site: Site, where: Any, groups: Sequence[Group]) -> list[Cell]:
    """The cells of a sweep, layer by layer; `where` as in `gl.patch`.

    Raises HeadError, HookError and InputError for heads or layers that the model does not have, or that have no such
    activation; RegionError for a group of positions that the activation does not have.
    """
    if site.point is None:
        if where is not None:
            raise InputError(f"what={site.what!r} lies before all layers and heads; leave out where=.")
        _check_image_tokens(model, groups)
        return [Cell(None, None, group.name) for group in groups]
    heads_by_layer = _heads_by_layer(model, site, where)
    cells = [
        Cell(layer, head, group.name)
        for layer, heads in heads_by_layer
        for head in heads
        for group in groups
        if group.cross_attention == site.cross_attention_in(model, layer)
    ]
    _check_coverage(site, groups, cells, [] if where is None else [layer for layer, _ in heads_by_layer])
    return cells


def _heads_by_layer(model: Model, site: Site, where: Any) -> list[tuple[int, Sequence[int | None]]]:
    """The layers that `where` names, with the heads to patch in each; [None] for what has no heads."""
    if where is None:
        where = layers_with(model, site) or [0]  # where no layer has it, the error about the first says why
    where = [where] if isinstance(where, int) else where
    if not len(where) and not isinstance(where, HeadSet):
        raise InputError("where= holds no heads and no layers; leave it out for all.")
    if not isinstance(where, HeadSet) and all(isinstance(layer, int) for layer in where):
        for layer in where:
            check_layer(model, site, layer)
        return [(layer, range(site.heads_in(model, layer)) if site.heads else [None]) for layer in sorted(set(where))]
    if not site.heads:
        raise InputError(f"what={site.what!r} has no heads; give where= a list of layers, or leave it out for all.")
    return _heads_of_set(model, site, HeadSet.of(where, model))


def _heads_of_set(model: Model, site: Site, heads: HeadSet) -> list[tuple[int, Sequence[int | None]]]:
    """The heads of a set, by layer; for keys and values the KV heads that they read."""
    by_layer = heads.by_layer()
    for layer in by_layer:
        check_layer(model, site, layer)
    if not site.kv:
        return list(by_layer.items())
    share = {layer: n_heads_of(model.blocks[layer].attn, "q") // site.heads_in(model, layer) for layer in by_layer}
    return [(layer, sorted({head // share[layer] for head in of_layer})) for layer, of_layer in by_layer.items()]


def _check_image_tokens(model: Model, groups: Sequence[Group]) -> None:
    """Raises RegionError for positions that hold no image feature."""
    for group in groups:
        images = zip(group.rows, group.layout.images, strict=True)
        if group.cross_attention != model.family.cross_attention or any(set(row) - set(image) for row, image in images):
            raise RegionError(
                f"Group '{group.name}' has positions that are no image tokens, and what='image' patches image "
                'features; give "image" or regions.'
            )


def _check_coverage(site: Site, groups: Sequence[Group], cells: Sequence[Cell], layers: Sequence[int]) -> None:
    """Raises RegionError for a group, or a layer of `where`, that has no cell.

    In models with cross-attention the keys of the image are not columns of the prompt, and only some layers have them.
    """
    unused = [group.name for group in groups if group.name not in {cell.positions for cell in cells}]
    empty = sorted(set(layers) - {cell.layer for cell in cells})
    if unused or empty or not cells:
        raise RegionError(
            f"what={site.what!r} has none of the positions {unused or [group.name for group in groups]} in "
            f"{f'layers {empty}' if empty else 'the layers asked for'}. The keys of an image that is reached by "
            "cross-attention are in what='k', 'v' (of the cross-attention layers) and 'image'; everything else has "
            'columns of the prompt: "text", "last", "every".'
        )
