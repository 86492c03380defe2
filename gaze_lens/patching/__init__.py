"""Causal experiments on image and text: patch activations of a clean run into a corrupted one, and what builds on it.

result = gl.patch(model, clean, corrupted, what="z", positions=["panel 4", "last"], metric=metric)
print(result.table()); heads = result.top(5, positions="last")
"""

from gaze_lens.counterfactuals import changes
from gaze_lens.counterfactuals.pair import Pair, counterfactual
from gaze_lens.inputs.alignment import aligned_groups, check_aligned
from gaze_lens.inputs.position_groups import Group, group, groups
from gaze_lens.interventions.ablation import mean_ablate, resample_ablate, zero_ablate
from gaze_lens.interventions.attention_knockout import knockout
from gaze_lens.interventions.direction import Direction, mean_difference
from gaze_lens.patching import metrics
from gaze_lens.patching.attribution import agreement, attribute, attribute_edges
from gaze_lens.patching.band_sweep import sweep_bands
from gaze_lens.patching.effect_ranking import rank_by_effect
from gaze_lens.patching.head_effects import HeadEffects
from gaze_lens.patching.layer_flips import flip_rates
from gaze_lens.patching.path_sweep import path_patch
from gaze_lens.patching.paths import path_hooks
from gaze_lens.patching.question_clusters import QuestionStates, question_states
from gaze_lens.patching.reading_orders import order_rates, sample_orders
from gaze_lens.patching.result import PatchResult
from gaze_lens.patching.sweep import patch
from gaze_lens.patching.two_orders import OrderPrompts, order_prompts

__all__ = [
    "Direction", "Group", "HeadEffects", "OrderPrompts", "Pair", "PatchResult", "QuestionStates", "agreement",
    "aligned_groups", "attribute", "attribute_edges", "changes", "check_aligned", "counterfactual", "flip_rates",
    "group", "groups", "knockout", "mean_ablate", "mean_difference", "metrics", "order_prompts", "order_rates", "patch",
    "path_hooks", "path_patch", "question_states", "rank_by_effect", "resample_ablate", "sample_orders", "sweep_bands",
    "zero_ablate",
]  # fmt: skip
