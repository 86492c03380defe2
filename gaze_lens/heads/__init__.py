"""Attention heads: names and ranked sets of them, their scores, and whether a model has gaze heads at all."""

from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.heads.verdict import Verdict

__all__ = ["Head", "HeadScores", "HeadSet", "Verdict"]
