"""The check that the attention matrices which a run would keep fit into memory.

check_memory(model, inputs, max_bytes, names_filter="blocks.20.attn.hook_pattern")
"""

import math
from typing import Any

import numpy as np
import psutil
import torch
from transformer_lens.utilities import Slice

from gaze_lens.errors import InputError, MemoryLimitError
from gaze_lens.model.live_hooks import filter_function
from gaze_lens.model_protocol import Model

MATRICES = ("hook_pattern", "hook_attn_scores")


def check_memory(
    model: Model,
    tokens: Any,
    max_bytes: float | None,
    *,
    names_filter: Any = None,
    pos_slice: Any = None,
    stop_at_layer: int | None = None,
    incl_bwd: bool = False,
    copies: int = 1,
    **_others: Any,
) -> None:
    """MemoryLimitError where the attention matrices that `run_with_cache` would keep exceed the limit.

    copies: how often every row is run.
    """
    shape = getattr(tokens, "shape", None)
    if shape is None or len(shape) != 2:
        return
    limit = free_memory(model) / 2 if max_bytes is None else max_bytes
    if math.isnan(limit) or limit < 0:
        raise InputError(f"max_bytes={max_bytes} was given; give a number of bytes, or math.inf for no limit.")
    n_layers = model.cfg.n_layers
    stop = n_layers if stop_at_layer is None else stop_at_layer + n_layers * (stop_at_layer < 0)
    keep = filter_function(model, names_filter)
    names = [name for name in model.hook_dict if name.startswith("blocks.") and name.endswith(MATRICES)]
    layers = [int(name.split(".")[1]) for name in names if keep(name)]
    cached = [layer for layer in layers if layer < stop] * (2 if incl_bwd else 1)
    queries = np.size(Slice.unwrap(pos_slice).indices(shape[1]))
    n_rows = copies * shape[0]
    needed = sum(_matrix_bytes(model, tokens, n_rows, layer, queries) for layer in cached)
    if needed > limit:
        raise MemoryLimitError(
            f"Caching {len(cached)} attention matrices of {n_rows} x {model.cfg.n_heads} heads x {queries} queries "
            f"would take {needed:,} bytes, and {int(limit):,} are allowed. Name what you need, for example "
            'names_filter="blocks.20.attn.hook_pattern" or names_filter=lambda name: "attn.hook_" not in name; read '
            "single rows with gl.RowReader; or lift the limit with max_bytes=math.inf."
        )


def _matrix_bytes(model: Model, tokens: Any, n_rows: int, layer: int, queries: int) -> int:
    """What the scores or the pattern of a layer take; the keys of a cross-attention layer are the image's."""
    keys = tokens.shape[1]
    if model.blocks[layer].attn.is_cross_attention and hasattr(tokens, "layout"):
        keys = tokens.layout.n_keys
    return n_rows * model.cfg.n_heads * queries * keys * model.original_model.dtype.itemsize


def free_memory(model: Model) -> int:
    """Bytes available on the model's device."""
    device = torch.device(model._input_device())
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
