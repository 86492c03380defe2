"""Families with two views: the whole image, then a grid of tiles put together again (LLaVA-NeXT, LLaVA-OneVision).

View 0 is the image stretched to one square. View 1 is the image with its aspect ratio, padded to the grid of tiles that
fits best. Rows and columns of tokens in the padding are removed, and each row ends in a token that covers nothing but
has the image's id. Where the patch size does not divide the tile, no token covers the strip at the right and lower side
of each tile.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gaze_lens.errors import ModelError
from gaze_lens.families.features import EncodedImage, encode_each, image_by_image
from gaze_lens.families.geometry import FramesMap, Processed, Size, TokenMap
from gaze_lens.families.placement import Axis, blank, concatenated, even_spans, placed_grid, with_row_ends

LARGEST = 1.1  # OneVision shrinks a grid if its side is larger than this times the limit


@dataclass(frozen=True)
class Tile:
    """A square view, the vision tower's input: `pixels` to a side, in patches of `patch` pixels, one token each."""

    pixels: int
    patch: int

    @property
    def side(self) -> int:
        """Tokens to a side."""
        return self.pixels // self.patch

    @property
    def spans(self) -> Float[Tensor, "token 2"]:
        """The spans of a row's tokens, in pixels of the tile."""
        return even_spans(self.side, self.patch)

    def spans_between(self, edges: Float[Tensor, " edge"]) -> Float[Tensor, "token 2"]:
        """Spans between `edges` (in tokens), in pixels of a row of tiles; strips between tiles belong to no token."""
        starts, ends = edges[:-1], edges[1:]
        left, right = (starts / self.side).floor(), (ends / self.side).ceil() - 1
        return torch.stack([self._pixel(left, starts), self._pixel(right, ends)], dim=-1)

    def _pixel(self, tile: Tensor, edge: Tensor) -> Tensor:
        return tile * self.pixels + (edge - tile * self.side) * self.patch


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image; LLaVA-NeXT."""
    tile = _tile(processed)
    return [_anyres(processed, size, tile, most=None) for size in processed.images]


def token_maps_by_sample(processed: Processed) -> list[TokenMap]:
    """One map per image; LLaVA-OneVision. It shrinks large grids. An image of a prompt with several images has only one
    view, padded to a square."""
    tile = _tile(processed)
    most = int(processed.processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    alone = _alone(processed.tensors) if processed.images else []
    return [
        _anyres(processed, size, tile, most=most) if single else _padded(size, tile)
        for size, single in zip(processed.images, alone, strict=True)
    ]


def frame_maps(processed: Processed) -> list[list[FramesMap]]:
    """For each video of LLaVA-OneVision a map of every sampled frame, which is stretched to one square view.

    The model interpolates the features of a frame to half the side. The last frame has a token more, which covers
    nothing.
    """
    if not processed.videos:
        return []
    tile, side = _tile(processed), processed.processor.video_processor.size
    if (
        dict(side) != {"height": tile.pixels, "width": tile.pixels}
        or processed.processor.video_processor.do_center_crop
    ):
        raise ModelError(
            f"The video processor has size={dict(side)}, the vision tower an image size of {tile.pixels}: expected the "
            "same for both sides, and no crop. Load the processor of this checkpoint."
        )
    edges = torch.linspace(0, tile.side, math.ceil(tile.side / 2) + 1, dtype=torch.double)
    spans = tile.patch * torch.stack([edges[:-1], edges[1:]], dim=-1)
    return [_frames(size, n_frames, spans, tile, video) for video, (size, n_frames) in enumerate(processed.videos)]


def _frames(size: Size, n_frames: int, spans: Float[Tensor, "token 2"], tile: Tile, video: int) -> list[FramesMap]:
    across, down = (Axis(length, tile.pixels).original(spans) for length in size)
    frame = placed_grid(size, across, down)
    maps = [frame] * (n_frames - 1) + [concatenated([frame, blank(1)])]
    return [FramesMap((n,), replace(one, moment=(video, n))) for n, one in enumerate(maps)]


def _alone(tensors: Mapping[str, Tensor]) -> list[bool]:
    """For each image of the batch, whether it is the only one of its prompt."""
    return [count == 1 for count in tensors["batch_num_images"].tolist() for _ in range(count)]


def _tile(processed: Processed) -> Tile:
    """The tile; ModelError where the processor resizes or crops tiles to another size than the tower's image size."""
    vision = processed.config.vision_config
    settings = {name: dict(processed.setting(name) or {}) for name in ("size", "crop_size")}
    if {side for sides in settings.values() for side in sides.values()} != {vision.image_size}:
        raise ModelError(
            f"The image processor has {settings}, the vision tower an image size of {vision.image_size}: expected the "
            "same number throughout, so that tiles are seen as they were cut. Load the processor of this checkpoint."
        )
    return Tile(vision.image_size, vision.patch_size)


def _anyres(processed: Processed, size: Size, tile: Tile, *, most: int | None) -> TokenMap:
    """The image stretched to one tile, then its grid of tiles with a token at the end of each row.

    most: the grid is shrunk to the tokens of so many tiles; None leaves it as it is.
    """
    width, height = size
    whole = placed_grid(
        size,
        Axis(width, tile.pixels).original(tile.spans),
        Axis(height, tile.pixels).original(tile.spans),
    )
    resolution = _best_resolution(size, processed.setting("image_grid_pinpoints"))
    row_range, column_range = _without_padding(size, resolution, tile)
    rows, columns = _shrunk(len(row_range), len(column_range), tile, most)
    across, down = _on_canvas(size, resolution)
    grid = placed_grid(
        size,
        across.original(tile.spans_between(_edges(column_range, columns))),
        down.original(tile.spans_between(_edges(row_range, rows))),
        view=1,
    )
    return concatenated([whole, with_row_ends(grid, rows, view=1)])


def _best_resolution(size: Size, choices: Sequence[Sequence[int]]) -> Size:
    """(width, height) of the choice that keeps most of the image's pixels; of several such, the smallest choice.

    choices: (height, width) each.
    """
    width, height = size

    def merit(choice: Sequence[int]) -> tuple[int, int]:
        scale = min(choice[1] / width, choice[0] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, pixels - choice[0] * choice[1]

    best = max(choices, key=merit)  # the first of equals
    return best[1], best[0]


def _on_canvas(size: Size, resolution: Size) -> tuple[Axis, Axis]:
    """The image on its canvas: as large as possible, in the middle."""
    (width, height), (full_width, full_height) = size, resolution
    by_width, by_height = full_width / width, full_height / height
    if by_width < by_height:
        resized = full_width, min(math.ceil(height * by_width), full_height)
    else:
        resized = min(math.ceil(width * by_height), full_width), full_height
    across, down = (
        Axis(length, new, (full - new) // 2) for length, new, full in zip(size, resized, resolution, strict=True)
    )
    return across, down


def _without_padding(size: Size, resolution: Size, tile: Tile) -> tuple[range, range]:
    """The rows and columns of tokens that remain when the padding is removed, as many at one side as at the other; part
    of an edge row may still be padding."""
    (width, height), (full_width, full_height) = size, resolution
    rows, columns = full_height // tile.pixels * tile.side, full_width // tile.pixels * tile.side
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return range(padding, rows - padding), range(columns)
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return range(rows), range(padding, columns - padding)


def _shrunk(rows: int, columns: int, tile: Tile, most: int | None) -> tuple[int, int]:
    """Rows and columns after the features of a large grid are interpolated to a smaller one."""
    ratio = math.sqrt(rows * columns / (most * tile.side**2)) if most else 0
    return (int(rows // ratio), int(columns // ratio)) if ratio > LARGEST else (rows, columns)


def _edges(rows: range, count: int) -> Float[Tensor, " edge"]:
    """The edges of `count` equal parts of a range of rows or columns, in tokens of the whole grid."""
    return rows.start + torch.arange(count + 1).double() * len(rows) / max(count, 1)


def _padded(size: Size, tile: Tile) -> TokenMap:
    """The image in the middle of one square view, and a token at the end."""
    square = max(size)
    across, down = (
        Axis(length, length * tile.pixels / square, (square - length) // 2 * tile.pixels / square) for length in size
    )
    return concatenated([placed_grid(size, across.original(tile.spans), down.original(tile.spans)), blank(1)])


def encode_by_sample(
    model: Any, tensors: Mapping[str, Tensor], maps: Any, selected: Sequence[int]
) -> list[EncodedImage]:
    """As `encode_each`, for a model that encodes an image differently where its prompt has others.

    The model counts the images of each prompt. So an image that shares its prompt with others, but is the only one of
    them to be encoded, is passed twice, and one of the two results is used.
    """
    alone = _alone(tensors)
    indices, counts = [], []
    for single, run in groupby(selected, key=lambda index: alone[index]):
        images = list(run)
        padded = images * 2 if len(images) == 1 and not single else images
        indices += padded
        counts += [1] * len(padded) if single else [len(padded)]
    numbers = tensors["batch_num_images"].new_tensor(counts)
    outputs = encode_each(model, tensors, maps, indices, batch_num_images=numbers)
    by_index = dict(zip(indices, outputs, strict=True))
    return [by_index[index] for index in selected]


def encode_with_videos(
    model: Any, tensors: Mapping[str, Tensor], maps: Sequence[TokenMap], selected: Sequence[int]
) -> list[EncodedImage]:
    """As `encode_by_sample`, also for frames of videos, each of which is an image of its own."""
    numbers = {index: n for n, index in enumerate(i for i, one in enumerate(maps) if one.moment is None)}
    images = [index for index in selected if index in numbers]
    of_images = encode_by_sample(model, tensors, maps, [numbers[index] for index in images]) if images else []
    encoded = dict(zip(images, of_images, strict=True))
    for index in selected:
        moment = maps[index].moment
        if moment is not None:
            frame = tensors["pixel_values_videos"][moment[0], moment[1]][None, None]
            (tokens,) = model.get_video_features(frame, return_dict=True).pooler_output
            last = bool(maps[index].boxes[-1].isnan().all())  # the token at the end of a video
            encoded[index] = {"tokens": tokens if last else tokens[:-1], "of_video": True, "last": last}
    return [encoded[index] for index in selected]


def to_forward_kwargs(images: Sequence[EncodedImage]) -> dict[str, Any]:
    """One tensor per image; and of videos one with a row for each, which have equally many frames in one batch."""
    outputs = image_by_image([image for image in images if not image.get("of_video")])["mm_encoder_outputs"]
    outputs = outputs if outputs["image"].pooler_output else {}
    frames, videos = [image for image in images if image.get("of_video")], list[Tensor]()
    start = 0
    for end, frame in enumerate(frames, 1):
        if frame["last"]:
            videos.append(torch.cat([one["tokens"] for one in frames[start:end]]))
            start = end
    if videos:
        outputs["video"] = BaseModelOutputWithPooling(pooler_output=torch.stack(videos))
    return {"mm_encoder_outputs": outputs}
