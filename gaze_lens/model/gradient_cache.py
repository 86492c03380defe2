"""A cache of gradients, as attribution patching has it, read by the parts that a cache of activations is read by.

    gradients = ActivationCache(grad_dict, model)        # what backward hooks saw
    (gradients.decompose_resid() * (clean.decompose_resid() - corrupted.decompose_resid())).sum((1, 2, 3))

What a part adds to the residual stream has the gradient of the stream where it is added. Sums of gradients mean
nothing: nothing here is divided by the scale of a norm.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor

from gaze_lens.errors import InputError


def holds_gradients(cache: Any) -> bool:
    """Whether a cache holds gradients: then an MLP's output and the stream that it is added to have the same one."""
    for layer in reversed(range(cache.model.cfg.n_layers)):
        try:
            output, stream = cache["mlp_out", layer], cache["resid_post", layer]
        except KeyError:
            continue
        return torch.equal(output, stream)
    return False


def refuse_gradients(what: str, instead: str) -> NoReturn:
    """InputError for what makes no sense of gradients."""
    raise InputError(f"This cache holds gradients, and {what} is of activations. {instead}")


def check_gradients(cache: Any, depth: int, mlp_input: bool) -> None:
    """InputError where what attention and MLP put out is not what a block adds to the stream."""
    for block in range(depth + mlp_input):
        parallel = f"blocks.{block}.hook_resid_mid" not in cache.model.hook_dict
        entered = cache._kept("resid_post" if parallel else "resid_mid", block)
        same = torch.equal(cache._kept("attn_out", block), entered)
        if block < depth:
            same = same and torch.equal(cache._kept("mlp_out", block), cache._kept("resid_post", block))
        if not same:
            raise InputError(
                f"The gradients cannot be taken apart: block {block} does more than add its attention and MLP outputs "
                "to the stream. cache.accumulated_resid() gives the stream's gradient at every layer."
            )


def injection_gradients(cache: Any, depth: int) -> tuple[list[Tensor], list[str]]:
    """The gradients of what an image adds: "image", and "0_deepstack", ... where the prompts have images."""
    parts, labels = [cache._kept("resid_pre", 0)], ["image"]
    if not cache.model.family.deepstack or torch.equal(cache._kept("embed"), parts[0]):
        return parts, labels  # embeddings of text alone reach the stream as they are
    levels = len(cache.model.config.vision_config.deepstack_visual_indexes)
    for block in range(min(depth, cache.model.cfg.n_layers - 1, levels)):
        parts.append(cache._kept("resid_pre", block + 1))
        labels.append(f"{block}_deepstack")
    return parts, labels


def head_gradients(cache: Any, depth: int, incl_remainder: bool, pos_slice: Any) -> tuple[Tensor, list[str]]:
    """The gradient of every head's result: that of the sum of a layer's heads. The rest has that of the stream."""
    n_heads, parts, labels = cache.model.cfg.n_heads, [], []
    for layer in range(depth):
        entered = pos_slice.apply(cache._kept("attn_out", layer), dim=-2)
        parts.append(entered.expand(n_heads, *entered.shape))
        labels += [f"L{layer}H{head}" for head in range(n_heads)]
    if incl_remainder:
        parts.append(pos_slice.apply(cache._kept("resid_post", depth - 1), dim=-2)[None])
        labels.append("remainder")
    return torch.cat(parts), labels
