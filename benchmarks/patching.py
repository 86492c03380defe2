"""The time of a full head sweep with `gl.patch`, against TransformerLens' plain loop that encodes the image every time.

python benchmarks/patching.py

Both patch `z` of every head of the embedded model at four groups of positions, in one process, by turns.
"""

from functools import partial
from itertools import product

import pandas as pd
import torch
from common import Row, by_turns, run
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


@torch.no_grad()
def main(size: str = "embedded", device: str = "cpu", rounds: int = 1) -> list[Row]:
    """A row for each batch size: seconds, ours and the plain loop's. The model is the embedded one, whatever `size`."""
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
    found = {}

    def keeping(name: str) -> None:
        found[name] = runs[name]()

    best = by_turns({name: partial(keeping, name) for name in runs}, rounds=rounds, warm=0)
    rows = []
    for name in list(runs)[1:]:
        apart = float((found[name].values[:, 0] - found["plain"]).abs().max())
        case, note = f"{len(found['plain'])} cells, {name}", f"largest difference {apart:.1g}"
        target = 4.0 if name.startswith("16") else None
        rows.append(Row.of_seconds("gl.patch", case, best[name], best["plain"], target=target, note=note))
    return rows


if __name__ == "__main__":
    run(main)
