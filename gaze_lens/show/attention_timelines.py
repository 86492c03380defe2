"""How much heads attend to the image, how narrowly, and how much to the first text token (the sink), token by token.

gl.show.attention_over_time(trajectory)
gl.show.attention_over_time(trajectory, described=trajectory.described_by_markers())
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from gaze_lens.errors import InputError
from gaze_lens.show.labels import heads_look, token_ticks, unit
from gaze_lens.show.plot import ACCENT, BLUES, FAINT, Plot, figure_style, new_figure, set_title
from gaze_lens.tracking import Trajectory


def attention_over_time(trajectory: Trajectory, *, described: Sequence[str | None] | None = None) -> Plot:
    """`gl.show.attention_over_time(gl.track(...))`: attention on the image, its entropy, and the sink, by token.

    Lines are means over heads, bands reach from the lowest to the highest head.
    described: the region that each token is about, or None, as `trajectory.described_by_markers()` gives it: the
        attention to that region is drawn, too.
    data: "on_image", "entropy" (bits, NaN where a head does not look at the image), "sink" [step, head]; "described"
        [step, head], where given, NaN at tokens about none; "tokens".
    Raises InputError for a trajectory without steps, and as `trajectory.agreement` does for `described`.
    """
    if not trajectory.tokens:
        raise InputError("The trajectory has no steps to show: expected at least one. Make it with gl.track.")
    data = {name: getattr(trajectory, name).numpy() for name in ("on_image", "entropy", "sink")}
    if described is not None:
        data["described"] = _on_described(trajectory, described)
    with figure_style():
        figure = new_figure(4.6)
        upper, middle, lower = figure.subplots(3, sharex=True)
        _draw(upper, data["on_image"], BLUES[2], "on the image")
        if described is not None:
            _draw(upper, data["described"], ACCENT, "on the region described")
            upper.legend(loc="upper right", ncols=2, frameon=False, fontsize=7.5)
        _draw(middle, data["entropy"], BLUES[2], "")
        _draw(lower, data["sink"], FAINT, "")
        for axes, label in zip((upper, middle, lower), (unit(trajectory), "entropy, bits", "sink, 0-1"), strict=True):
            axes.set_ylabel(label, fontsize=7.5)
            axes.set_ylim(bottom=0)
        token_ticks(lower, trajectory.tokens)
        lower.set_xlim(-0.5, len(trajectory.tokens) - 0.5)
        title = f"How {heads_look(trajectory)} while the model writes"
        set_title(
            upper, title, "mean, lowest and highest head: on the image; among its tokens; on the first text token"
        )
    means = {name: np.nanmean(values) for name, values in data.items() if np.isfinite(values).any()}
    text = "\n".join([title, *(f"  {name}: {mean:.2f} on average" for name, mean in means.items())])
    return Plot(figure, {**data, "tokens": trajectory.tokens}, text)


def _on_described(trajectory: Trajectory, described: Sequence[str | None]) -> Float[np.ndarray, "step head"]:
    trajectory.agreement(described)  # its checks
    mass = np.full(trajectory.on_image.shape, np.nan, np.float32)
    for step, name in enumerate(described):
        if name is not None:
            mass[step] = trajectory.mass[step, :, trajectory.regions.index(name)]
    return mass


def _draw(axes: Axes, values: Float[np.ndarray, "step head"], colour: str, label: str) -> None:
    """The mean of the heads that have a value; nothing where none has."""
    masked = np.ma.masked_invalid(values)
    steps = np.arange(len(values))
    axes.fill_between(steps, masked.min(1), masked.max(1), color=colour, alpha=0.18, linewidth=0)
    axes.plot(steps, masked.mean(1), color=colour, linewidth=1.4, marker=".", markersize=3, label=label)
