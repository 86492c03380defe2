"""Gaze scores: which heads look at the region that a question is about."""

from gaze_lens.scoring.gaze_score import score_heads

__all__ = ["score_heads"]
