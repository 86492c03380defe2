"""Causal experiments on image and text: patch activations of a clean run into a corrupted one, and what builds on it.

result = gl.patch(model, clean, corrupted, what="z", positions=["panel 4", "last"], metric=metric)
print(result.table()); heads = result.top(5, positions="last")
"""

from gaze_lens.patching import changes, metrics
from gaze_lens.patching.alignment import aligned_groups, check_aligned
from gaze_lens.patching.counterfactuals import Pair, counterfactual
from gaze_lens.patching.groups import Group, group, groups
from gaze_lens.patching.result import PatchResult
from gaze_lens.patching.sweep import patch

__all__ = [
    "Group", "Pair", "PatchResult", "aligned_groups", "changes", "check_aligned", "counterfactual", "group", "groups",
    "metrics", "patch",
]  # fmt: skip
