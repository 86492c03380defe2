"""What tests of attention compare with: Hugging Face's eager attention, and computations written out slowly."""

import contextlib
import copy

import numpy as np
import torch
from PIL import Image

# Families of the detailed tests; what holds of every family is tested in test_every_family.py and test_bridges.py.
QWENS = ("Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE")
POINTS = ("hook_attn_scores", "hook_pattern")
SLIDING = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def padded(model):
    """Two rows: one image and a short text, two images and a longer text; the first is padded on the left."""
    first, second = picture(96, 64), picture(64, 64, seed=1)
    return model.prepare([first, [second, first]], ["What?", "a longer question"])


@contextlib.contextmanager
def tower_runs(model):
    """A list that grows by one whenever a Qwen model's vision tower runs."""
    runs = []
    handle = model.original_model.model.visual.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    handle.remove()


def look(tensor, hook):
    """A full hook that changes nothing."""


def full(layers=range(4), function=look):
    return [(f"blocks.{layer}.attn.{point}", function) for layer in layers for point in POINTS]


def eager(model):
    """An untouched copy whose language model runs Hugging Face's eager attention."""
    model = copy.deepcopy(model)
    model.set_attn_implementation({"text_config": "eager"})
    return model


def at_real(logits, inputs):
    return logits[inputs.tensors["attention_mask"].bool()]


def visible(inputs, window=10**9):
    """[row, query, key]: what a causal model lets see, written out from the attention mask."""
    attended = inputs.tensors["attention_mask"].bool()
    length = attended.shape[1]
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    return (distance >= 0) & (distance < window) & attended[:, None, :]


def slow_attention(query, key, value, seen, added=None):
    """[row, position, head, d_head], one query at a time; `added` [row, head, query, key] goes onto the scores."""
    groups = query.shape[2] // key.shape[2]
    mixed = torch.zeros_like(query)
    for row, head, position in np.ndindex(query.shape[0], query.shape[2], query.shape[1]):
        keys = torch.nonzero(seen[row, position])[:, 0]
        if len(keys):
            scores = key[row, keys, head // groups] @ query[row, position, head] / query.shape[-1] ** 0.5
            scores = scores if added is None else scores + added[row, head, position, keys]
            mixed[row, position, head] = scores.softmax(0) @ value[row, keys, head // groups]
    return mixed


def scale_head(model, layer, head, factor):
    """On an untouched model: what a head hands on, times a factor, where its output is projected."""
    projection = model.model.language_model.layers[layer].self_attn.o_proj

    def scale(_, args):
        factors = torch.ones(4, 16, dtype=args[0].dtype)
        factors[head] = factor
        return (args[0] * factors.flatten(),)

    projection.register_forward_pre_hook(scale)
    return model


def slow_bias(shape, heads, queries, groups, seen):
    """[row, head, query, key], in float64, relative to the largest bias that each query sees.

    heads: of this layer. queries: for each row, a set of positions. groups: (for each row a set, value).
    """
    added = torch.zeros(shape, dtype=torch.float64)
    for row, head, query, key in np.ndindex(*shape):
        if head in heads and query in queries[row]:
            values = [max(-1e9, min(1e9, value)) for keys, value in groups if key in keys[row]]
            added[row, head, query, key] = sum(values)
    for row, query in np.ndindex(shape[0], shape[2]):
        if seen[row, query].any():
            added[row, :, query] -= added[row, :, query][:, seen[row, query]].amax(-1, keepdim=True)
    return added
