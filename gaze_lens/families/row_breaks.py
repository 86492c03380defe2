"""Families that stretch an image to a grid of its own aspect ratio, with a break after each row (Pixtral, Mistral3).

The breaks are text tokens with their own ids, so the image tokens are the grid alone. `image_sizes` is the size of the
resized image.
"""

from gaze_lens.families.geometry import Processed, TokenMap, stretched_grid


def token_maps(processed: Processed) -> list[TokenMap]:
    """One map per image, from the resized size that the processor reports."""
    side = processed.processor.patch_size * processed.processor.spatial_merge_size
    resized = processed.tensors["image_sizes"].tolist() if processed.images else []
    return [
        stretched_grid(size, height // side, width // side)
        for size, (height, width) in zip(processed.images, resized, strict=True)
    ]
