"""Pages of the image-attention viewer from made-up data, and a browser without a network to open them in."""

from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from gaze_lens import HeadSet
from gaze_lens.show.interactive.page import _data_address, arrays_of, packing_of, page
from gaze_lens.show.interactive.recording import Recording, quantised

CELL = 16  # pixels


@contextmanager
def opened(browser, path, *, theme="light", size=(1000, 1000), **options):
    """A page from a file with the network cut off; a request to another address or an error fails the test."""
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(color_scheme=theme, offline=True, viewport=viewport, **options)
    tab = context.new_page()
    requests, failed = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: failed.append(str(error)))
    tab.on("console", lambda message: message.type == "error" and failed.append(message.text))
    try:
        tab.goto(path.as_uri())
        tab.wait_for_selector(".gaze-viewer .strip", timeout=30_000)
        yield tab
        assert not failed
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    finally:
        context.close()


def header_for(n_heads, n_words, grid, *, regions=()):
    """A header as `header_of` makes them: one image of `grid` rows and columns of tokens, after ten prompt tokens."""
    rows, columns = grid
    boxes = [[x * CELL, y * CELL, (x + 1) * CELL, (y + 1) * CELL] for y in range(rows) for x in range(columns)]
    image = Image.fromarray(np.full((rows * CELL, columns * CELL, 3), 220, np.uint8))
    return {
        "heads": [(i // 8, i % 8) for i in range(n_heads)],
        "shape": (n_heads, n_words, rows * columns),
        "weighted": True,
        "unweighted": "",
        "grid": (max(1, -(-n_heads // 8)), 8),
        "scores": None,
        "words": [{"text": f" w{i}", "kind": "answer", "row": i, "special": False} for i in range(n_words)],
        "text": [],
        "subject": {"name": "the image", "measured": list(range(len(boxes))), "scaled": list(range(len(boxes)))},
        "tokens": {"keys": list(range(10, 10 + len(boxes))), "boxes": boxes, "image": [0] * len(boxes)},
        "images": [{"size": image.size, "alt": "Grey.", "src": _data_address(image)}],
        "regions": list(regions),
        "cross_attention": False,
        "steering": None,
    }


def recording_for(n_heads, n_words, grid, *, kind="attention", seed=0):
    """Made-up attention: "attention" as softmax of scores, "even" as flat and as hard to compress as can be."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(n_heads, n_words, grid[0] * grid[1], generator=generator)
    if kind == "even":
        rows = noise.square()  # every level as often as any other
    else:
        rows = (3 * torch.erfinv(0.999 * (2 * noise - 1))).softmax(-1) * torch.rand(
            n_heads, n_words, 1, generator=generator
        )
    levels, scales = quantised(rows / rows.sum(-1, keepdim=True) if kind == "even" else rows)
    norms = 0.5 + torch.rand(n_heads, grid[0] * grid[1], generator=generator).numpy()
    heads = HeadSet([(i // 8, i % 8) for i in range(n_heads)])
    keys = tuple(range(10, 10 + grid[0] * grid[1]))
    return Recording(heads, levels, scales, norms, tuple(range(n_words)), keys, tuple(range(n_words)), n_words)


def page_of(n_heads, n_words, grid, *, kind="attention", seed=0, **changes):
    """The HTML of a page with made-up attention."""
    recording = recording_for(n_heads, n_words, grid, kind=kind, seed=seed)
    return made_page({**header_for(n_heads, n_words, grid), **changes}, recording)


def made_page(header, recording, *, title="made up"):
    """The HTML of a page with a made-up header and recording."""
    header = {**header, **packing_of(recording)}
    return page(header, arrays_of(header, recording), title=title)
