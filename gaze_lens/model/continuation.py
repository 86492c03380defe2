"""Going on from a cache: a second turn of a conversation runs only the tokens that the cache does not hold.

    cache = DynamicCache(config=model.config.get_text_config())
    first = model.generate(model.prepare(picture, turns[:1]), past_key_values=cache)
    model.generate(model.prepare(picture, turns), past_key_values=cache)     # the whole conversation, answers included

The second inputs are those of the whole conversation, so that regions and positions are what they are without a cache.
Their first tokens must be those that the cache holds; pictures that it holds are not run again.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from gaze_lens.errors import InputError
from gaze_lens.families.cache_argument import cache_in
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.model.generation import copies_of
from gaze_lens.model.generation_arguments import Prompt

HELD = "gaze_lens_ids"  # the attribute of a cache with the ids that `generate` put into it


def held_tokens(model: Any, options: dict[str, Any]) -> int:
    """How many positions the cache among the options holds; 0 without one."""
    cache = cache_in(options)
    return 0 if cache is None else int(cache.get_seq_length(model.attention_backend.first))


def refuse_held(model: Any, options: dict[str, Any], what: str) -> None:
    """InputError for what reads the whole prompt as it is run, where a cache holds a part of it."""
    held = held_tokens(model, options)
    if held:
        raise InputError(
            f"{what} is read as the prompt is run, and the cache holds its first {held} tokens; run the whole "
            "conversation, without past_key_values=."
        )


def without_held_images(model: Any, prompt: Prompt, options: dict[str, Any]) -> Prompt:
    """The prompt without the pixels of images that the cache holds. InputError where the cache holds something else."""
    held, inputs = held_tokens(model, options), prompt.inputs
    if held == 0 or inputs is None:
        return prompt
    blocker = model.family.prefix_sharing_blocker
    if blocker and not inputs.layout.cross_attention:
        raise InputError(f"{model.family.name} cannot go on from a cache that holds a part of the prompt: {blocker}.")
    _check_held(cache_in(options), held, inputs)
    if not _all_held(model, cache_in(options), held, inputs):
        return prompt
    tensors = {name: tensor for name, tensor in inputs.tensors.items() if name not in model.family.pixel_names}
    return replace(prompt, arguments=replace(inputs, tensors=tensors, features=None).arguments())


def remember(options: dict[str, Any], sequences: Tensor) -> None:
    """Note on the cache which ids it holds; of copies of rows, such as beams, nobody knows."""
    cache = cache_in(options)
    if cache is not None:
        setattr(cache, HELD, sequences if copies_of(options) == 1 else None)


def _check_held(cache: Any, held: int, inputs: VLMInputs) -> None:
    """InputError where the inputs do not go on from what the cache holds, as far as that is known."""
    ids, length = getattr(cache, HELD, None), inputs.layout.length
    if held >= length:
        raise InputError(
            f"The cache holds {held} tokens, and the inputs have {length}; give the whole conversation, with a turn "
            "that the cache does not hold yet."
        )
    if ids is None or ids.shape[1] < held:
        return
    before, given = ids[:, :held], inputs.input_ids[:, :held]
    if before.shape != given.shape or bool((before != given).any()):
        same = int((before == given).all(0).long().cumprod(0).sum()) if before.shape == given.shape else 0
        raise InputError(
            f"The cache holds {held} tokens, and only the first {same} of the inputs are the same. Give the whole "
            "conversation with the answer as it was generated, padded in the same way; or cut the cache: "
            f"cache.crop(-{held - same})."
        )


def _all_held(model: Any, cache: Any, held: int, inputs: VLMInputs) -> bool:
    """Whether the cache holds all images of the inputs rather than none; InputError for some."""
    if inputs.layout.cross_attention:
        layer = model.config.get_text_config().cross_attention_layers[0]
        n_keys = int(cache.layers[layer].get_seq_length())
        if n_keys and n_keys != inputs.layout.n_keys:
            raise InputError(
                f"The cache holds {n_keys} image keys, and the inputs' images have {inputs.layout.n_keys}; generate "
                "without the cache, or with the pictures that it was made with."
            )
        return n_keys > 0
    inside = [position < held for row in inputs.layout.images for position in row]
    if any(inside) and not all(inside):
        raise InputError(
            f"The cache holds {held} tokens: some of the inputs' image tokens, and not all. Generate without the cache."
        )
    return any(inside)
