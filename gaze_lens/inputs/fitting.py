"""Pictures as a model's processor gets them: as they are, or stretched so that nothing of them is cut off.

    pictures = fitted(strips, "whole")                # the same strips, each to be seen whole
    image = image_for(processor, pictures[0])         # the image for the processor
    tokens = in_original_pixels(token_map, image.size, pictures[0].image.size)

Some processors scale the short edge of a picture and cut the middle out (LLaVA 1.5): of a strip of 1536 x 256 pixels
the model sees a sixth. The paper stretches strips to the processor's square first (section 3).
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families import Processed, TokenMap
from gaze_lens.families.geometry import Size
from gaze_lens.regions.picture import Fit, Picture, check_fit
from gaze_lens.regions.segments import Passages
from gaze_lens.regions.video import Video

LEAST = 0.999  # of a picture's width or height: less is cut off


def fitted(pictures: Any, fit: Fit | None) -> Any:
    """`fitted(strips, "whole")`: a picture, a list of them or `gl.data` pictures with that `fit`; None: as they are."""
    check_fit(fit)
    if fit is None:
        return pictures
    for one in pictures if isinstance(pictures, list | tuple) else [pictures]:
        if isinstance(one, Passages | Video):
            kind = "passages of text" if isinstance(one, Passages) else "a video"
            raise InputError(f"fit={fit!r} was given for {kind}; it says how a model is to see pictures. Leave it out.")
    if isinstance(pictures, Picture):
        return replace(pictures, fit=fit)
    return pictures.fitted(fit) if hasattr(pictures, "fitted") else [replace(one, fit=fit) for one in pictures]


def image_for(processor: Any, picture: Picture) -> Image.Image:
    """The image that the processor gets."""
    size = _frame(processor) if picture.fit == "whole" else picture.fit
    if size is None or size == picture.image.size:
        return picture.image
    return picture.image.resize(size, Image.Resampling.BICUBIC)


def _frame(processor: Any) -> Size | None:
    """Width and height of what the processor cuts out of the middle of a picture; None where it cuts nothing."""
    settings = Processed((), {}, processor, None)
    if not hasattr(processor.image_processor, "do_center_crop") or not settings.setting("do_center_crop"):
        return None
    crop = dict(settings.setting("crop_size"))
    return crop["width"], crop["height"]


def in_original_pixels(token_map: TokenMap, drawn: Size, original: Size) -> TokenMap:
    """The map of an image that was stretched from `original` to `drawn` (width, height): boxes in original pixels."""
    if drawn == original:
        return token_map
    scale = torch.tensor([new / old for new, old in zip(original, drawn, strict=True)] * 2)
    return TokenMap(token_map.boxes * scale, token_map.cells, token_map.view)


def seen(boxes: Float[Tensor, "token 4"], size: Size) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels of the part of a picture that has image tokens; all of it where no token has a place."""
    boxes = boxes[~boxes[:, 0].isnan()]
    if not len(boxes):
        return 0.0, 0.0, float(size[0]), float(size[1])
    return (*boxes[:, :2].amin(0).tolist(), *boxes[:, 2:].amax(0).tolist())


def check_whole(picture: Picture, token_map: TokenMap) -> None:
    """InputError where a picture is to be seen whole, and the processor cut something off all the same."""
    width, height = picture.image.size
    x0, y0, x1, y1 = seen(token_map.boxes, picture.image.size)
    if picture.fit == "whole" and (x1 - x0 < LEAST * width or y1 - y0 < LEAST * height):
        raise InputError(
            f"fit='whole' cannot be had: of {width} x {height} pixels the processor keeps x {x0:.0f} to {x1:.0f} and "
            f"y {y0:.0f} to {y1:.0f}, whatever the picture's shape. Set the processor's size and crop_size equal, or "
            "do_center_crop=False."
        )
