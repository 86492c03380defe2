"""Families that stretch an image to a grid of its own aspect ratio (LightOnOCR), with a break after each row (Pixtral,
Mistral3).

The breaks are text tokens with their own ids, so the image tokens are the grid alone. `image_sizes` is the size of the
resized image.
"""

from gaze_lens.errors import ImageError
from gaze_lens.families.geometry import Processed, TokenMap, stretched_grid


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, from the resized size that the processor reports.

    Where that is no multiple of a token's side, the model drops the patches at the right and lower ends.
    """
    side = processed.processor.patch_size * processed.processor.spatial_merge_size
    resized = processed.tensors["image_sizes"].tolist() if processed.images else []
    for size, sides in zip(processed.images, resized, strict=True):
        if min(sides) < side:
            raise ImageError(
                f"A picture of {size[0]} x {size[1]} pixels makes no image token: one is {side} pixels to a side, and "
                f"the processor resizes the picture to {sides[1]} x {sides[0]}. Crop, pad or resize it."
            )
    return [
        stretched_grid(
            (size[0] * (width // side * side / width), size[1] * (height // side * side / height)),
            height // side,
            width // side,
        )
        for size, (height, width) in zip(processed.images, resized, strict=True)
    ]


def token_maps_of_several(processed: Processed) -> list[TokenMap]:
    """As `token_maps`; ImageError for a picture of one token, of which Hugging Face's Mistral3 loses a dimension."""
    maps = token_maps(processed)
    for size, token_map in zip(processed.images, maps, strict=True):
        if len(token_map) < 2:
            raise ImageError(
                f"A picture of {size[0]} x {size[1]} pixels becomes a single image token, which Hugging Face's model "
                "of this family cannot take; give a larger picture."
            )
    return maps
