"""Measure whether steering makes the model describe the target.

results = gl.evaluate(model, strips, conditions(model, heads, scores=scores), out="out")
results = gl.rejudge("out", judges.CaptionMatch(score="f1"))
"""

from gaze_lens.evaluation import judges
from gaze_lens.evaluation.condition import Condition, conditions, head_counts, masses, strengths
from gaze_lens.evaluation.generate import generate_answers
from gaze_lens.evaluation.judging import rejudge
from gaze_lens.evaluation.listed_objects import in_parts, objects_named
from gaze_lens.evaluation.narration_order import NarrationOrders, narrate_in_order
from gaze_lens.evaluation.paired_tests import McNemar
from gaze_lens.evaluation.protocols import (
    Protocol,
    answering,
    asking,
    dynamic_narration,
    question,
    random_order,
    regions,
    static_narration,
)
from gaze_lens.evaluation.quick import (
    Accuracy,
    Answer,
    accuracy,
    answer,
    ask_every_panel,
    judge_pieces,
    steer_to_every_panel,
    switch_at_panel_ends,
)
from gaze_lens.evaluation.records import Generations, Record
from gaze_lens.evaluation.results import Results
from gaze_lens.evaluation.runner import evaluate
from gaze_lens.evaluation.shifts import ScoreShift, score_shift
from gaze_lens.evaluation.size_classes import accuracy_by_size

__all__ = [
    "Accuracy", "Answer", "Condition", "Generations", "McNemar", "NarrationOrders", "Protocol", "Record", "Results",
    "ScoreShift", "accuracy", "accuracy_by_size", "answer", "answering", "ask_every_panel", "asking", "conditions",
    "dynamic_narration", "evaluate", "generate_answers", "head_counts", "in_parts", "judge_pieces", "judges",
    "masses", "narrate_in_order", "objects_named", "question", "random_order", "regions", "rejudge", "score_shift",
    "static_narration", "steer_to_every_panel", "strengths", "switch_at_panel_ends",
]  # fmt: skip
