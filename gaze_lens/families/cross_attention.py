"""Families whose image is reached by cross-attention (Mllama): it has one placeholder in the text, and many keys.

An image is fitted into the upper left of a canvas of square tiles, without stretching it. The keys of the cross layers
are, image by image and tile by tile, a class token and the tile's patches; every image has as many tiles as the model
allows at most. Class tokens, padding and tiles that are not used cover nothing.

Prompt positions before a row's first image attend to every key that there is, as Hugging Face has it: to tiles that are
not used, and to the empty image that pads a row with fewer images than another. Such a row's logits are not those that
it has alone; rows with equally many images are as alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaze_lens.errors import InputError
from gaze_lens.families.features import Part
from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.placement import Axis, blank, even_spans, joined, placed_grid
from gaze_lens.families.tile_canvas import fitted

Arguments = tuple[tuple, dict[str, Any]]  # of a forward: positional and by keyword
PIXELS = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, over its keys; the processor reports how many rows and columns of tiles an image has."""
    _check_rows(processed)
    if not processed.images:
        return []
    vision = processed.config.vision_config
    side, most = processed.tensors["pixel_values"].shape[-1], processed.tensors["pixel_values"].shape[2]
    canvases = _used(processed.tensors, "aspect_ratio_ids").tolist()
    tiles = [vision.supported_aspect_ratios[canvas - 1] for canvas in canvases]
    sized = zip(processed.images, tiles, strict=True)
    return [_map(size, rows, columns, side, vision.patch_size, most) for size, (rows, columns) in sized]


def _check_rows(processed: Processed) -> None:
    """InputError for rows without an image beside others that have one: the model's forward cannot take them."""
    bare = [row for row, images in enumerate(processed.sizes) if not images]
    if bare and processed.images:
        raise InputError(
            f"Rows {bare} have no image and others do; a model with cross-attention takes images in all rows of a "
            "batch or in none. Prepare the rows without an image on their own."
        )


def _used(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """What belongs to images, row by row, of a tensor `[row, image, ...]`; rows with fewer images are padded."""
    return tensors[name][tensors["aspect_ratio_ids"] > 0]


def _map(size: Size, rows: int, columns: int, side: int, patch: int, most: int) -> TokenMap:
    """The keys of one image on a canvas of `rows` x `columns` tiles of `side` pixels."""
    width, height = size
    limits = min(max(height, side), rows * side), min(max(width, side), columns * side)
    drawn = fitted(size, limits)
    across, down = Axis(width, drawn[0]), Axis(height, drawn[1])
    spans = even_spans(side // patch, patch)
    views = []
    for tile in range(rows * columns):
        row, column = divmod(tile, columns)
        x, y = across.original(spans + column * side), down.original(spans + row * side)
        views += [blank(1, tile), placed_grid(size, x, y, tile)]
    unused = [blank(1 + len(spans) ** 2, tile) for tile in range(rows * columns, most)]
    return joined(views + unused)


@torch.no_grad()
def encode(model: nn.Module, tensors: Mapping[str, Tensor], _maps: Any, kept: Sequence[int]) -> list[Part]:
    """The keys' input to the cross layers, `[key, d_model]`, of the images `kept`.

    Where rows have fewer images than others, also that of the empty image which pads them: prompt positions before a
    row's first image attend to all keys.
    """
    chosen = {name: _used(tensors, name)[list(kept)] for name in PIXELS}
    empty = tensors["aspect_ratio_ids"] == 0
    if empty.any():
        chosen = {name: torch.cat([chosen[name], tensors[name][empty][:1]]) for name in PIXELS}
    seen = model.model.vision_model(**{name: tensor[:, None] for name, tensor in chosen.items()}).last_hidden_state
    states = model.model.multi_modal_projector(seen).flatten(1, 3)
    padding = {"padding": states[-1]} if empty.any() else {}
    return [{"tokens": tokens, **padding} for tokens in states[: len(kept)]]


def arrange(parts: Sequence[Part], *, counts: Sequence[int] | None = None) -> dict[str, Any]:
    """All keys, `[row, key, d_model]`. counts: images in each row; one image in each unless given."""
    remaining, most = iter(parts), max(counts or [1])
    rows = [[next(remaining)["tokens"] for _ in range(count)] for count in counts or [1] * len(parts)]
    padded = [row + _paddings(parts, most - len(row)) for row in rows]
    return {"cross_attention_states": torch.stack([torch.cat(row) for row in padded])}


def _paddings(parts: Sequence[Part], n: int) -> list[Float[Tensor, "key d_model"]]:
    """The features of `n` empty images."""
    if n == 0:
        return []
    found = [part["padding"] for part in parts if "padding" in part]
    if not found:
        raise InputError(
            "These rows have different numbers of images, and the images were encoded with inputs whose rows did not: "
            "what pads the shorter rows is missing. Encode these inputs without reuse=."
        )
    return found[:1] * n


def attach(model: nn.Module) -> None:
    """Let a Hugging Face model's forward take encoded images in `generate`, and show its cross layers whole rows."""
    model.register_forward_pre_hook(_see_once, with_kwargs=True)
    model.get_decoder().register_forward_pre_hook(_row_by_row, with_kwargs=True)


def _row_by_row(_text_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Arguments | None:
    """All keys of a row together, `[row, key, d_model]`: from pixels they come tile by tile, and so would `hook_v`."""
    states = kwargs.get("cross_attention_states")
    if states is None:
        return None
    given = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
    return args, {**kwargs, "cross_attention_states": states.reshape(len(given), -1, states.shape[-1])}


def _see_once(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Arguments | None:
    """After the prefill, the keys are in the cache.

    Hugging Face's `generate` hands `cross_attention_states` to every step, and the layers would append them each time.
    """
    cache, states = kwargs.get("past_key_values"), kwargs.get("cross_attention_states")
    if states is None or cache is None:
        return None
    if int(cache.get_seq_length()) > 0:
        return args, {**kwargs, "cross_attention_states": None}
    layer = cache.layers[model.config.text_config.cross_attention_layers[0]] if cache.is_compileable else None
    if layer is not None and layer.max_cache_len < states.shape[1]:
        raise InputError(
            f"The static cache has room for {layer.max_cache_len} image keys, and these encoded images have "
            f"{states.shape[1]}: Hugging Face sizes it by the pixels. Generate from the inputs as they were before "
            "model.encode, or with the default cache."
        )
    return None
