"""Staircases side by side, on one colour scale: heads and their control, forward and in reverse.

gl.show.staircases({"gaze heads": trajectory, "random heads": control})
gl.show.staircases({"forward": one, "in reverse": other})
"""

from collections.abc import Mapping

import numpy as np

from gaze_lens.errors import InputError
from gaze_lens.show.labels import token_ticks, unit
from gaze_lens.show.plot import MASS, Plot, figure_style, new_figure, set_title, shorten
from gaze_lens.tracking import Trajectory

MOST = 6  # trajectories in one figure


def staircases(trajectories: Mapping[str, Trajectory]) -> Plot:
    """`gl.show.staircases({"gaze heads": trajectory, "random heads": control})`: attention by region, token by token.

    trajectories: by name, of up to six texts about the same regions, all weighted or none; one under another, in one
    colour scale, so that a control that does not look at the picture is pale.
    data: for each name "NAME mass" [step, region]; "regions"; "names"; "largest", the end of the scale.
    Raises InputError for no trajectories or too many, for other regions, and for steps without data.
    """
    if not 0 < len(trajectories) <= MOST:
        raise InputError(f"{len(trajectories)} trajectories were given; give 1 to {MOST}, by name.")
    first, *others = trajectories.values()
    kinds = {(one.regions, one.weighted) for one in (first, *others)}
    mass = {name: one.mean.numpy() for name, one in trajectories.items()}
    if len(kinds) > 1 or not all(one.size and np.isfinite(one).all() for one in mass.values()):
        raise InputError(
            "Trajectories that can be compared have the same regions in the same order, are all weighted or none, and "
            "have numbers for every step. Make them with gl.track, on pictures with equally named regions."
        )
    largest = max(float(one.max()) for one in mass.values())
    with figure_style():
        height = float(np.clip(0.2 * len(first.regions) + 0.9, 1.6, 4.0))
        figure = new_figure(0.3 + height * len(mass))
        rows = figure.subplots(len(mass), 1, squeeze=False)[:, 0]
        for axes, (name, values) in zip(rows, mass.items(), strict=True):
            options = {"aspect": "auto", "interpolation": "nearest", "vmin": 0, "vmax": largest or 1.0}
            image = axes.imshow(values.T, cmap=MASS, **options)
            token_ticks(axes, trajectories[name].tokens)
            axes.set_yticks(range(len(first.regions)), [shorten(region, 1.6, size=8) for region in first.regions])
            axes.tick_params(axis="y", length=0)
            set_title(axes, f"{name}: mean of {len(trajectories[name].heads)} heads")
        figure.colorbar(image, ax=rows, label=unit(first), fraction=0.03, pad=0.01)
    data = {"names": tuple(mass), "regions": first.regions, "largest": largest}
    lines = [f"{name}: up to {values.max():.3g}" for name, values in mass.items()]
    data |= {f"{name} mass": values for name, values in mass.items()}
    return Plot(figure, data, "\n".join(["Attention by region, token by token", *lines]))
