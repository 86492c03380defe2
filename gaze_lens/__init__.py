"""Find, watch and steer the attention heads that track what a vision-language model is describing.

import gaze_lens as gl
model = gl.load_tiny()      # or gl.HookedVLM.from_pretrained("Qwen/Qwen3-VL-2B-Instruct", device="cuda")
model = gl.load_smollm2()   # a language model; or gl.HookedVLM.from_pretrained("meta-llama/Llama-3.2-1B-Instruct")
"""

import sys
from importlib import import_module
from typing import Any

from gaze_lens import comics
from gaze_lens.attention.attention_bias import AttentionBias
from gaze_lens.attention.positions import Positions, QueryKeyPositions
from gaze_lens.attention.row_reader import RowReader
from gaze_lens.counterfactuals import changes
from gaze_lens.deprecation import MovedModules, warn_renamed
from gaze_lens.errors import GazeLensError
from gaze_lens.heads.comparison import compare_heads, compare_rankings
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.heads.head_set import Head, HeadSet
from gaze_lens.inputs.vlm_inputs import VLMInputs
from gaze_lens.interventions.attention_knockout import knockout
from gaze_lens.interventions.steering import (
    Mode,
    boost_and_suppress,
    max_suppress_all,
    steer,
    suppress_all,
    suppress_image,
)
from gaze_lens.model.hooked_vlm import HookedVLM
from gaze_lens.patching import (
    Direction,
    Group,
    Pair,
    PatchResult,
    attribute,
    attribute_edges,
    counterfactual,
    mean_ablate,
    mean_difference,
    metrics,
    patch,
    path_hooks,
    path_patch,
    resample_ablate,
    sweep_bands,
    zero_ablate,
)
from gaze_lens.regions.image_tokens import ImageTokens
from gaze_lens.regions.layout import Region
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.segments import Passages, passages
from gaze_lens.regions.shapes import Box, Mask, Polygon, Union
from gaze_lens.scoring.gaze_score import score_heads
from gaze_lens.tiny import load_tiny
from gaze_lens.tiny.smollm2 import load_smollm2
from gaze_lens.tracking import Trajectory, track

__version__ = "0.2.0"
__all__ = [
    "AttentionBias", "Box", "Direction", "GazeLensError", "Group", "Head", "HeadScores", "HeadSet", "HookedVLM",
    "ImageTokens", "Mask", "Mode", "Pair", "Passages", "PatchResult", "Picture", "Polygon", "Positions",
    "QueryKeyPositions", "Region", "RowReader", "Trajectory", "Union", "VLMInputs", "attribute", "attribute_edges",
    "boost_and_suppress", "changes", "comics", "compare_heads", "compare_rankings", "counterfactual", "evaluate",
    "knockout", "load_smollm2", "load_tiny", "max_suppress_all", "mean_ablate", "mean_difference", "metrics",
    "panels", "passages", "patch", "path_hooks", "path_patch", "rejudge", "resample_ablate", "score_heads", "steer",
    "suppress_all", "suppress_image", "sweep_bands", "track", "zero_ablate",
]  # fmt: skip
RENAMED = {"Place": "QueryKeyPositions"}
sys.meta_path.append(MovedModules())


def __getattr__(name: str) -> Any:
    """`gl.data`, `gl.evaluation`, `gl.show` and `gl.testing` are imported when they are first used."""
    if name in ("data", "evaluation", "show", "testing"):
        return import_module(f"gaze_lens.{name}")
    if name in ("evaluate", "rejudge"):
        return getattr(import_module("gaze_lens.evaluation"), name)
    if name in RENAMED:
        warn_renamed(f"gaze_lens.{name}", RENAMED[name])
        return globals()[RENAMED[name]]
    raise AttributeError(f"module 'gaze_lens' has no attribute {name!r}")
