"""Edits of a running model: steering, knockout, ablation, and directions in the residual stream."""

from gaze_lens.interventions import when

__all__ = ["when"]
