"""Measuring: does steering make the model describe the region that was chosen?"""

from gaze_lens.evaluation.accuracy import Accuracy, accuracy
from gaze_lens.evaluation.answers import Answer, answer
from gaze_lens.evaluation.protocols import random_order
from gaze_lens.evaluation.question_steering import ask_every_panel, steer_to_every_panel
from gaze_lens.evaluation.schedules import judge_pieces, switch_at_panel_ends

__all__ = [
    "Accuracy", "Answer", "accuracy", "answer", "ask_every_panel", "judge_pieces", "random_order",
    "steer_to_every_panel", "switch_at_panel_ends",
]  # fmt: skip
