"""Tracking: where chosen heads look while the model writes, and whether that is what it writes about.

    trajectory = gl.track(model, inputs, heads, max_new_tokens=100)
    told = trajectory.described_by_markers()          # "Panel 4:" in the text begins what is told about panel 4
    print(trajectory.agreement(told), trajectory.lag(told))
    gl.show.staircase(trajectory, described=told)

Gandikota and Bau 2026, "Tracking".
"""

from gaze_lens.tracking.recorder import track
from gaze_lens.tracking.schedule_agreement import Agreement
from gaze_lens.tracking.trajectory import Trajectory

__all__ = ["Agreement", "Trajectory", "track"]
