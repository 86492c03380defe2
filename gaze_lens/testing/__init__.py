"""Tiny models with random weights for tests, built from each family's config and processor classes; needs no network.

    hf_model, processor = testing.tiny("Qwen3-VL", seed=0)
    model = HookedVLM.wrap(hf_model, processor)

The keys of `testing.BUILDERS` are families, and variants of some ("PaliGemma 2", "LLaVA padded"); those of
`testing.LANGUAGE_MODELS` are classes of language models without vision ("LlamaForCausalLM"), which have a tokenizer.
"Gemma 3n" is there where the package timm is installed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.utils import is_timm_available

from gaze_lens.errors import ModelError
from gaze_lens.testing import (
    anyres,
    documents,
    frames,
    gemma3n,
    grids,
    omni,
    others,
    ovis,
    rows,
    single_views,
    tiles,
    view_grids,
)
from gaze_lens.testing.language_models import LANGUAGE_MODELS

__all__ = ["BUILDERS", "LANGUAGE_MODELS", "tiny"]

Builder = Callable[[dict[str, Any]], tuple[nn.Module, Any]]  # changes to the text config -> model and processor
BUILDERS: dict[str, Builder] = {
    **grids.BUILDERS, **others.BUILDERS, **single_views.BUILDERS, **rows.BUILDERS, **anyres.BUILDERS, **tiles.BUILDERS,
    **omni.BUILDERS, **documents.BUILDERS, **ovis.BUILDERS, **view_grids.BUILDERS, **frames.BUILDERS,
    **(gemma3n.BUILDERS if is_timm_available() else {}),
}  # fmt: skip


def tiny(family: str, *, seed: int = 0, scale: float = 0.12, **text: Any) -> tuple[nn.Module, Any]:
    """A tiny random model of a family (a key of `BUILDERS`) in eval mode and float32, and its processor; or a language
    model (a key of `LANGUAGE_MODELS`) and its tokenizer.

    scale: the standard deviation of the weights; large enough that outputs differ between tokens.
    text: changes to the text config (sliding_window=8, num_hidden_layers=2, ...).
    """
    builders = {**BUILDERS, **LANGUAGE_MODELS}
    if family in gemma3n.BUILDERS and not is_timm_available():
        raise ModelError('The vision tower of Gemma 3n needs the package timm: pip install "gaze-lens[gemma3n]".')
    if family not in builders:
        raise ModelError(f"There is no tiny model of {family!r}; there are {', '.join(builders)}.")
    torch.manual_seed(seed)
    model, processor = builders[family](text)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=scale)
    model.config.architectures = [type(model).__name__]
    return model.eval(), processor
