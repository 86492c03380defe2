"""A picture with its named regions.

gl.show.picture(strip)
"""

from typing import Any

import numpy as np

from gaze_lens.regions.picture import Picture
from gaze_lens.regions.reading import read_image
from gaze_lens.show.picture_axes import Sheet
from gaze_lens.show.plot import WIDTH, Plot, axes_at, figure_style, new_figure

MAX_HEIGHT = 6.0  # inches


def picture(picture: Any) -> Plot:
    """`gl.show.picture(strip)`: the picture with the borders and names of its regions.

    picture: a `Picture`, or whatever `model.prepare` reads as an image.
    data: "names"; "boxes" [region, x0 y0 x1 y1], the regions' bounds in original pixels; "size" [width, height].
    Raises ImageError for an image that cannot be read.
    """
    picture = picture if isinstance(picture, Picture) else Picture(read_image(picture))
    sheet = Sheet.of([picture])
    width = min(WIDTH - 0.1, MAX_HEIGHT * sheet.aspect)
    height, room = width / sheet.aspect, sheet.head_room + 0.05
    with figure_style():
        figure = new_figure(height + room + 0.05, width=width + 0.1, layout=None)
        axes = axes_at(figure, 0.05, room, width=width, height=height)
        sheet.draw(axes)
        sheet.outline(axes)
        sheet.label(axes, [""] * len(picture.regions), width=width)
    bounds = [shape.bounds for shape in picture.regions.values()]
    boxes = np.array([(box.x0, box.y0, box.x1, box.y1) for box in bounds]).reshape(-1, 4)
    lines = [repr(picture), *(f"  {name}: {line}" for name, line in picture.captions.items())]
    data = {"names": tuple(picture.regions), "boxes": boxes, "size": np.array(picture.image.size)}
    return Plot(figure, data, "\n".join(lines))
