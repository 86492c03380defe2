"""What cannot be run as it was given: a picture, ids whose image is missing, ids of another vocabulary."""

import os
from typing import Any

from PIL import Image
from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families.cache_argument import cache_in
from gaze_lens.regions.picture import Picture


def refuse_unprepared(model: Any, given: Any, options: dict[str, Any]) -> None:
    """InputError for pictures that were not prepared, and for ids that stand for an image which is not there, or for
    no token at all: on a GPU these end the process."""
    if isinstance(given, Picture | Image.Image | os.PathLike):
        raise InputError(
            f"A {type(given).__name__} was given; the model runs on what model.prepare(picture, prompt) returns."
        )
    one_step = cache_in(options) is not None and isinstance(given, Tensor) and given.shape[-1] == 1
    if one_step or model.family.brings_images(options):
        return
    if has_placeholder(given, getattr(model.config, "image_token_id", None), model.tokenizer):
        raise InputError(
            "The tokens hold placeholders of an image, and no image came with them. Run what model.prepare(...) "
            "returned, not its input_ids: they are the text alone. Where a function of TransformerLens took the "
            "ids, hand it the cache of model.run_with_cache(inputs), or do its steps with inputs."
        )
    if isinstance(given, Tensor) and not given.is_floating_point() and given.numel():
        least, most = (int(end) for end in given.aminmax())
        vocabulary = model.config.get_text_config().vocab_size
        if least < 0 or most >= vocabulary:
            raise InputError(
                f"Token ids from {least} to {most} were given; this model's are 0 to {vocabulary - 1}. Make them with "
                "model.to_tokens(text) or model.prepare(...)."
            )


def has_placeholder(given: Any, image_token: int | None, tokenizer: Any) -> bool:
    """Whether a text, texts or token ids hold the token that stands for an image; False of anything else."""
    if image_token is None:
        return False
    if isinstance(given, Tensor):
        return not given.is_floating_point() and bool((given == image_token).any())
    texts = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return tokenizer is not None and any(
        isinstance(text, str) and tokenizer.decode([image_token]) in text for text in texts
    )
