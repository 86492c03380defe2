"""The time of a full head sweep with `gl.patch`, against TransformerLens' plain loop that encodes the image every time.

OMP_NUM_THREADS=1 python benchmarks/patching.py

Both patch `z` of every head of the embedded model at four groups of positions, in one process, one after the other.
"""

import time
from itertools import product

import pandas as pd
import torch
from transformer_lens.patching import generic_activation_patch

import gaze_lens as gl

BATCH_SIZES = (1, 16, 64)


def inputs_of(model):
    """Clean and corrupted prompts about two strips, and four groups of positions."""
    first, second = gl.comics.synthetic(2, seed=1)
    clean, corrupted = (model.prepare(strip, "What is in the fourth panel?") for strip in (first, second))
    return clean, corrupted, ["panel 1", "panel 4", clean.span("fourth"), "last"]


def plain_loop(model, clean, corrupted, groups, metric):
    """One run of everything, from the pixels, for every head and group."""
    _, cache = model.run_with_cache(clean, names_filter=lambda name: name.endswith("attn.hook_z"))

    def put(activation, index, clean_activation):
        _layer, head, number = index
        columns = list(groups[number].rows[0])
        activation[:, columns, head] = clean_activation[:, columns, head]
        return activation

    cells = list(product(range(model.cfg.n_layers), range(model.cfg.n_heads), range(len(groups))))
    index = pd.DataFrame(cells, columns=["layer", "head", "group"])
    return generic_activation_patch(model, corrupted, cache, metric, put, "z", index_df=index)


def timed(function):
    """What a call returns, and its seconds: by the clock, and of this process's processor."""
    wall, processor = time.perf_counter(), time.process_time()
    value = function()
    return value, time.perf_counter() - wall, time.process_time() - processor


@torch.no_grad()
def main():
    """Print a row for each way: seconds, and how many times faster than the plain loop."""
    torch.set_num_threads(1)
    model = gl.load_tiny()
    clean, corrupted, positions = inputs_of(model)
    groups = gl.patching.groups(clean, positions)
    token = int(model(clean)[0, -1].argmax())
    plain, wall, processor = timed(
        lambda: plain_loop(model, clean, corrupted, groups, lambda logits: logits[0, -1, token])
    )
    rows = [("TransformerLens, plain loop", len(plain), wall, processor, 1.0, 1.0, 0.0)]
    for size in BATCH_SIZES:
        options = {"what": "z", "positions": positions, "batch_size": size, "progress": False}
        result, ours, busy = timed(
            lambda options=options: gl.patch(
                model, clean, corrupted, metric=lambda logits: logits[:, -1, token], **options
            )
        )
        apart = float((result.values[:, 0] - plain).abs().max())
        rows.append(
            (f"gl.patch, {size} rows at once", len(result.values), ours, busy, wall / ours, processor / busy, apart)
        )
    columns = ["way", "cells", "seconds", "processor s", "times faster", "by processor", "largest difference"]
    print(pd.DataFrame(rows, columns=columns).to_string(index=False, float_format="%.3g"))  # noqa: T201


if __name__ == "__main__":
    main()
