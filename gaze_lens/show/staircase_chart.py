"""Where heads look, token by token, while the model writes.

gl.show.staircase(trajectory)
gl.show.staircase(trajectory, schedule=[(0, r4), (50, r2)])
gl.show.staircase(trajectory, described=trajectory.described_by_markers())
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from gaze_lens.errors import InputError
from gaze_lens.regions.layout import Region
from gaze_lens.show.labels import heads_look, token_ticks, unit
from gaze_lens.show.plot import ACCENT, INK, MASS, Plot, figure_style, new_figure, set_title, shorten
from gaze_lens.tracking import Trajectory
from gaze_lens.tracking.schedule_agreement import intervals


def staircase(
    trajectory: Trajectory,
    *,
    schedule: Sequence[tuple[int, str | Region]] | None = None,
    described: Sequence[str | None] | None = None,
) -> Plot:
    """`gl.show.staircase(gl.track(model, inputs, heads))`: the heads' mean attention by region, token by token.

    The line runs through the region with the most attention, and is faint where that is little.
    schedule: what the text was steered by, [(step, region or its name), ...]. Every switch is a dashed line, and the
        target's row is framed until the next one. Switches after the end of the text are left out.
    described: the region that each token is about, or None, as `trajectory.described_by_markers()` gives it: a bar at
        the bottom of its row.
    data: "mass" [step, region], attention mass, 0-1 (times value norms where weighted); "looked_at" [step], index of
        the region; "regions"; "tokens"; "switches", the steps drawn; "described", if given.
    Raises InputError for a trajectory without steps or with steps that have no data, RegionError for a schedule with
    other regions, and both as `trajectory.agreement` does for `described`.
    """
    mass = trajectory.mean.numpy()
    if not mass.size or not np.isfinite(mass).all():
        raise InputError(
            f"The trajectory has {len(mass)} steps of {len(trajectory.regions)} regions: expected at least one of "
            "each, and no NaN. Make it with gl.track."
        )
    entries = [turn for turn in intervals(schedule or (), trajectory.regions, len(mass)) if turn[0] < len(mass)]
    described = () if described is None else tuple(described)
    title = f"Where {heads_look(trajectory)} while the model writes"
    with figure_style():
        figure = new_figure(float(np.clip(0.32 * mass.shape[1] + 1.5, 2.4, 8.0)))
        axes = figure.subplots()
        image = axes.imshow(mass.T, cmap=MASS, vmin=0, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=axes, label=unit(trajectory), fraction=0.03, pad=0.01)
        _line(axes, mass, mass.argmax(1))
        _targets(axes, entries, len(mass))
        _bars(axes, trajectory, described)
        _ticks(axes, trajectory)
        note = "mean over heads; line: the region looked at most, fainter where little"
        note += "; frames: the region steered to" * bool(entries) + "; bars: the region described" * bool(described)
        set_title(axes, title, note)
    data = {"mass": mass, "looked_at": mass.argmax(1), "regions": trajectory.regions, "tokens": trajectory.tokens}
    data |= {"switches": tuple(start for start, _, _ in entries)} | ({"described": described} if described else {})
    return Plot(figure, data, _words(trajectory, title))


def _line(axes: Axes, mass: Float[np.ndarray, "step region"], looked_at: Int[np.ndarray, " step"]) -> None:
    """A horizontal line for every step, joined by vertical ones; the less the heads look there, the fainter."""
    steps, most = np.arange(len(looked_at)), mass.max(1) / (mass.max() or 1.0)
    horizontal = [[(step - 0.5, region), (step + 0.5, region)] for step, region in zip(steps, looked_at, strict=True)]
    vertical = [[before[1], after[0]] for before, after in itertools.pairwise(horizontal)]
    strength = np.concatenate([most, np.minimum(most[1:], most[:-1])]).clip(0.06, 1)
    axes.add_collection(LineCollection(horizontal + vertical, colors=ACCENT, linewidths=2.0, alpha=strength))


def _targets(axes: Axes, entries: list[tuple[int, int, int]], n_steps: int) -> None:
    for start, end, region in entries:
        if start:
            axes.axvline(start - 0.5, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        frame: dict[str, Any] = {"fill": False, "edgecolor": INK, "linewidth": 1.1}
        axes.add_patch(Rectangle((start - 0.5, region - 0.46), end - start, 0.92, **frame))
    axes.set_xlim(-0.5, n_steps - 0.5)


def _bars(axes: Axes, trajectory: Trajectory, described: Sequence[str | None]) -> None:
    """A bar at the bottom of a region's row for each segment of text about it."""
    if not described:
        return
    segments = trajectory.segments(described)
    rows = zip(segments["region"], segments["start"], segments["stop"], strict=True)
    ends = [(trajectory.regions.index(name) + 0.36, start - 0.4, stop - 0.6) for name, start, stop in rows]
    lines = [[(start, y), (stop, y)] for y, start, stop in ends]
    for colour, width in (("white", 5.0), (INK, 2.5)):  # so that it is visible on dark cells, too
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, capstyle="butt"))


def _ticks(axes: Axes, trajectory: Trajectory) -> None:
    token_ticks(axes, trajectory.tokens)
    axes.set_yticks(range(len(trajectory.regions)), [shorten(name, 1.6, size=8) for name in trajectory.regions])
    axes.tick_params(axis="y", length=0)


def _words(trajectory: Trajectory, title: str) -> str:
    """The text, cut where the heads turn to another region."""
    lines = [title]
    pairs = zip(trajectory.looked_at, trajectory.tokens, strict=True)
    for region, part in itertools.groupby(pairs, key=lambda pair: pair[0]):
        lines.append(f"  {region}: {''.join(token for _, token in part)!r}")
    return "\n".join(lines)
