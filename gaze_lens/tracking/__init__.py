"""Tracking: where selected heads look while the model writes, and whether it writes about the same region.

    trajectory = gl.track(model, inputs, heads, max_new_tokens=100)
    described = trajectory.described_by_markers()     # from "Panel 4:" on, the text describes panel 4
    print(trajectory.agreement(described), trajectory.lag(described))
    gl.show.staircase(trajectory, described=described)

Gandikota and Bau 2026, "Tracking".
"""

from gaze_lens.tracking.attention_maps import AttentionMaps, SpanMaps, track_maps
from gaze_lens.tracking.recorder import track
from gaze_lens.tracking.schedule_agreement import Agreement
from gaze_lens.tracking.trajectory import Trajectory

__all__ = ["Agreement", "AttentionMaps", "SpanMaps", "Trajectory", "track", "track_maps"]
