"""Where heads look in a picture while the model writes each span of its text, as heat maps.

gl.show.span_maps(maps.over(maps.sentences()))
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from gaze_lens.errors import InputError
from gaze_lens.show.map_figure import HEAT, MAX_HEIGHT
from gaze_lens.show.picture_axes import Sheet, step
from gaze_lens.show.plot import WIDTH, Plot, axes_at, figure_style, new_figure, shorten, write_at
from gaze_lens.tracking import SpanMaps

MAX_SPANS = 24


def span_maps(spans: SpanMaps) -> Plot:
    """`gl.show.span_maps(maps.over(maps.sentences()))`: a picture for each span, under the map of its attention.

    All maps have one colour scale. Regions that have names are outlined.
    data: "maps" [span, token]; "boxes" [token, 4], original pixels; "image" [token], the index of the token's picture;
    "spans", their texts. Raises InputError for more than 24 spans.
    """
    if len(spans.spans) > MAX_SPANS:
        raise InputError(f"{len(spans.spans)} spans are too many for a figure; give up to {MAX_SPANS} to maps.over.")
    sheet = Sheet.of(spans.pictures)
    columns = 1 if sheet.aspect > 4 else 2 if sheet.aspect >= 2 else min(4, max(2, len(spans.spans)))
    width = min((WIDTH - 0.1) / columns - 0.2, MAX_HEIGHT * sheet.aspect)
    tile = 0.3 + width / sheet.aspect
    rows = math.ceil(len(spans.spans) / columns)
    maps = spans.maps.numpy()
    scale = ScalarMappable(Normalize(0, float(maps.max()) or 1.0), HEAT)
    weighted = "value-weighted " * spans.weighted
    title = f"Where {len(spans.heads)} heads look while the model writes each part"
    with figure_style():
        figure = new_figure(0.4 + rows * tile + 0.6, width=max(0.1 + columns * (width + 0.2), 5.5), layout=None)
        write_at(figure, 0.05, 0.08, title, fontsize=10, weight="bold")
        for index, span in enumerate(spans.spans):
            row, column = divmod(index, columns)
            x, y = 0.05 + column * (width + 0.2), 0.4 + row * tile
            write_at(figure, x, y, shorten(" ".join(span.text.split()), width, size=8), fontsize=8)
            axes = axes_at(figure, x, y + 0.2, width=width, height=width / sheet.aspect)
            _draw(axes, spans, sheet, index, scale)
        bar = axes_at(figure, 0.2, 0.4 + rows * tile + 0.1, width=3.2, height=0.1)
        figure.colorbar(scale, cax=bar, orientation="horizontal")
        bar.set_xlabel(f"mean {weighted}attention on an image token", fontsize=7.5)
        bar.tick_params(labelsize=7, pad=1)
    boxes = np.concatenate([tokens.boxes.numpy() for tokens in spans.image_tokens])
    image = np.concatenate([np.full(len(tokens), index) for index, tokens in enumerate(spans.image_tokens)])
    texts = tuple(span.text for span in spans.spans)
    table = spans.on_regions()
    lines = [f"{row.text!r}: most on {row.region} ({row.attention:.3g})" for row in table[table.largest].itertuples()]
    return Plot(figure, {"maps": maps, "boxes": boxes, "image": image, "spans": texts}, "\n".join([title, *lines]))


def _draw(axes: Axes, spans: SpanMaps, sheet: Sheet, index: int, scale: ScalarMappable) -> None:
    """The picture, faded, the heat of one span over it, and the outlines of regions."""
    sheet.draw(axes, faded=True)
    parts = spans.maps[index].split([len(tokens) for tokens in spans.image_tokens])
    for number, (part, tokens, picture) in enumerate(zip(parts, spans.image_tokens, sheet.pictures, strict=True)):
        stride = step(picture)
        heat = tokens.heatmap(part)[::stride, ::stride].numpy()
        sheet.draw_array(axes, number, heat, cmap=scale.cmap, norm=scale.norm, interpolation="nearest")
    sheet.outline(axes, width=0.7)
