"""The time to patch all heads with `gl.patch`, compared with TransformerLens' loop, which encodes the image every time.

python benchmarks/patching.py

Both patch `z` of every head of the embedded model at four groups of positions, in one process, taking turns.
"""

from functools import partial
from itertools import product

import pandas as pd
import torch
from common import Row, run, time_in_turns
from transformer_lens.patching import generic_activation_patch

import gaze_lens as gl

BATCH_SIZES = (1, 16, 64)


def inputs_of(model):
    """Clean and corrupted prompts about two strips, and four groups of positions."""
    first, second = gl.comics.synthetic(2, seed=1)
    clean, corrupted = (model.prepare(strip, "What is in the fourth panel?") for strip in (first, second))
    return clean, corrupted, ["panel 1", "panel 4", clean.span("fourth"), "last"]


def plain_loop(model, clean, corrupted, groups, metric):
    """One forward from the pixels for every head and group."""
    _, cache = model.run_with_cache(clean, names_filter=lambda name: name.endswith("attn.hook_z"))

    def put(activation, index, clean_activation):
        _layer, head, number = index
        columns = list(groups[number].rows[0])
        activation[:, columns, head] = clean_activation[:, columns, head]
        return activation

    cells = list(product(range(model.cfg.n_layers), range(model.cfg.n_heads), range(len(groups))))
    index = pd.DataFrame(cells, columns=["layer", "head", "group"])
    return generic_activation_patch(model, corrupted, cache, metric, put, "z", index_df=index)


@torch.no_grad()
def main(size: str = "embedded", device: str = "cpu", rounds: int = 1) -> list[Row]:
    """A row for each batch size: seconds of ours and of the plain loop. The model is always the embedded one."""
    del size
    model = gl.load_tiny(device=device)
    clean, corrupted, positions = inputs_of(model)
    groups = gl.patching.groups(clean, positions)
    token = int(model(clean)[0, -1].argmax())
    runs = {"plain": lambda: plain_loop(model, clean, corrupted, groups, lambda logits: logits[0, -1, token])}
    for batch in BATCH_SIZES:
        options = {"what": "z", "positions": positions, "batch_size": batch, "progress": False}
        runs[f"{batch} rows at once"] = lambda options=options: gl.patch(
            model, clean, corrupted, metric=lambda logits: logits[:, -1, token], **options
        )
    results = {}

    def run_and_store(name: str) -> None:
        results[name] = runs[name]()

    times = time_in_turns({name: partial(run_and_store, name) for name in runs}, rounds=rounds, warm=0)
    rows = []
    for name in list(runs)[1:]:
        difference = float((results[name].values[:, 0] - results["plain"]).abs().max())
        case, note = f"{len(results['plain'])} cells, {name}", f"largest difference {difference:.1g}"
        target = 4.0 if name.startswith("16") else None
        rows.append(Row.of_seconds("gl.patch", case, times[name], times["plain"], target=target, note=note))
    return rows


if __name__ == "__main__":
    run(main)
