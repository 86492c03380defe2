"""Families that read the image by cross-attention (Mllama): it has one placeholder in the text, and many keys.

An image is fitted into the upper left of a canvas of square tiles, without stretching it. The keys of the
cross-attention layers are, for each tile of each image, a class token and the tile's patches. Every image has the
largest number of tiles that the model allows. Class tokens, padding and unused tiles cover nothing.

In Hugging Face's model, prompt positions before a row's first image attend to all keys: also to unused tiles, and to
the empty images that pad rows with fewer images. So the logits of such a row differ from those that it has alone. Rows
with equally many images have the same logits as alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaze_lens.errors import InputError
from gaze_lens.families.cache_argument import cache_in
from gaze_lens.families.features import EncodedImage
from gaze_lens.families.geometry import Processed, Size, TokenMap
from gaze_lens.families.placement import Axis, blank, concatenated, even_spans, placed_grid
from gaze_lens.families.tile_canvas import fitted

Arguments = tuple[tuple, dict[str, Any]]  # of a forward: args and kwargs
PIXELS = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, over its keys; the processor reports the rows and columns of tiles of each image."""
    _check_rows(processed)
    if not processed.images:
        return []
    vision = processed.config.vision_config
    side, most = processed.tensors["pixel_values"].shape[-1], processed.tensors["pixel_values"].shape[2]
    canvas_ids = _of_images(processed.tensors, "aspect_ratio_ids").tolist()
    canvases = [vision.supported_aspect_ratios[canvas_id - 1] for canvas_id in canvas_ids]
    pairs = zip(processed.images, canvases, strict=True)
    return [_map(size, rows, columns, side, vision.patch_size, most) for size, (rows, columns) in pairs]


def _check_rows(processed: Processed) -> None:
    """InputError where some rows have images and others have none: the model's forward cannot take them."""
    without = [row for row, images in enumerate(processed.sizes) if not images]
    if without and processed.images:
        raise InputError(
            f"Rows {without} have no image and others do; a model with cross-attention takes images in all rows of a "
            "batch or in none. Prepare the rows without an image on their own."
        )


def _of_images(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """The entries of a tensor `[row, image, ...]` that belong to images, row by row, without the padding of rows."""
    return tensors[name][tensors["aspect_ratio_ids"] > 0]


def _map(size: Size, rows: int, columns: int, side: int, patch: int, most: int) -> TokenMap:
    """The keys of one image on a canvas of `rows` x `columns` tiles of `side` pixels."""
    width, height = size
    limits = min(max(height, side), rows * side), min(max(width, side), columns * side)
    resized = fitted(size, limits)
    across, down = Axis(width, resized[0]), Axis(height, resized[1])
    spans = even_spans(side // patch, patch)
    views = []
    for tile in range(rows * columns):
        row, column = divmod(tile, columns)
        x, y = across.original(spans + column * side), down.original(spans + row * side)
        views += [blank(1, tile), placed_grid(size, x, y, tile)]
    unused = [blank(1 + len(spans) ** 2, tile) for tile in range(rows * columns, most)]
    return concatenated(views + unused)


@torch.no_grad()
def encode(model: Any, tensors: Mapping[str, Tensor], _maps: Any, selected: Sequence[int]) -> list[EncodedImage]:
    """The input of the cross-attention layers' keys, `[key, d_model]`, for the images `selected`.

    Where rows have different numbers of images, "padding" is the same for the empty image that pads the shorter rows:
    prompt positions before a row's first image attend to all keys.
    """
    pixels = {name: _of_images(tensors, name)[list(selected)] for name in PIXELS}
    empty = tensors["aspect_ratio_ids"] == 0
    if empty.any():
        pixels = {name: torch.cat([pixels[name], tensors[name][empty][:1]]) for name in PIXELS}
    hidden = model.model.vision_model(**{name: tensor[:, None] for name, tensor in pixels.items()}).last_hidden_state
    states = model.model.multi_modal_projector(hidden).flatten(1, 3)
    padding = {"padding": states[-1]} if empty.any() else {}
    return [{"tokens": tokens, **padding} for tokens in states[: len(selected)]]


def to_forward_kwargs(images: Sequence[EncodedImage], *, counts: Sequence[int] | None = None) -> dict[str, Any]:
    """All keys, `[row, key, d_model]`. counts: the number of images in each row; one in each by default."""
    remaining, most = iter(images), max(counts or [1])
    rows = [[next(remaining)["tokens"] for _ in range(count)] for count in counts or [1] * len(images)]
    padded = [row + _paddings(images, most - len(row)) for row in rows]
    return {"cross_attention_states": torch.stack([torch.cat(row) for row in padded])}


def _paddings(images: Sequence[EncodedImage], n: int) -> list[Float[Tensor, "key d_model"]]:
    """The features of `n` empty images."""
    if n == 0:
        return []
    paddings = [image["padding"] for image in images if "padding" in image]
    if not paddings:
        raise InputError(
            "These rows have different numbers of images, and the images were encoded with inputs whose rows did not: "
            "what pads the shorter rows is missing. Encode these inputs without reuse=."
        )
    return paddings[:1] * n


def attach(model: Any) -> None:
    """Let a Hugging Face model's `generate` take encoded images, and give its cross-attention layers whole rows."""
    model.register_forward_pre_hook(_only_in_prefill, with_kwargs=True)
    model.get_decoder().register_forward_pre_hook(_row_by_row, with_kwargs=True)


def _row_by_row(_text_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Arguments | None:
    """Join all keys of a row, `[row, key, d_model]`: from pixels they come tile by tile, and so would `hook_v`."""
    states = kwargs.get("cross_attention_states")
    if states is None:
        return None
    rows = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
    return args, {**kwargs, "cross_attention_states": states.reshape(len(rows), -1, states.shape[-1])}


def _only_in_prefill(model: Any, args: tuple, kwargs: dict[str, Any]) -> Arguments | None:
    """Drop `cross_attention_states` after the prefill, when their keys are in the cache.

    Hugging Face's `generate` passes them to every step, and the layers would append their keys each time.
    """
    cache, states = cache_in(kwargs), kwargs.get("cross_attention_states")
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
