"""The public names of gaze_lens and where they are: read by type checkers, and by `__init__.py` when one is used."""

from . import comics, data, evaluation, paper, show, testing
from .attention.attention_bias import AttentionBias
from .attention.mass_edit import MassEdit
from .attention.positions import Positions, QueryKeyPositions
from .attention.row_reader import RowReader
from .attention.score_edit import ScoreEdit
from .counterfactuals import changes
from .decoding import contrast_decoding, recipes
from .errors import GazeLensError
from .evaluation import evaluate, rejudge
from .heads.comparison import compare_heads, compare_rankings
from .heads.head_scores import HeadScores
from .heads.head_set import Head, HeadSet
from .inputs.vlm_inputs import VLMInputs
from .interventions import when
from .interventions.attention_knockout import knockout
from .interventions.steering import Mode, boost_and_suppress, max_suppress_all, steer, suppress_all, suppress_image
from .model.hooked_vlm import HookedVLM
from .model.steered_block import steering
from .patching import (
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
    rank_by_effect,
    resample_ablate,
    sweep_bands,
    zero_ablate,
)
from .regions.heat_map import HeatMap
from .regions.image_tokens import ImageTokens
from .regions.layout import Region
from .regions.picture import Picture, panels
from .regions.segments import Passages, passages
from .regions.shapes import Box, Mask, Polygon, Union
from .regions.video import Seconds, Video
from .scoring.gaze_score import score_heads
from .tiny import load_tiny
from .tiny.smollm2 import load_smollm2
from .tracking import Trajectory, track

__version__: str
__all__ = [
    "AttentionBias",
    "Box",
    "Direction",
    "GazeLensError",
    "Group",
    "Head",
    "HeadScores",
    "HeadSet",
    "HeatMap",
    "HookedVLM",
    "ImageTokens",
    "Mask",
    "MassEdit",
    "Mode",
    "Pair",
    "Passages",
    "PatchResult",
    "Picture",
    "Polygon",
    "Positions",
    "QueryKeyPositions",
    "Region",
    "RowReader",
    "ScoreEdit",
    "Seconds",
    "Trajectory",
    "Union",
    "VLMInputs",
    "Video",
    "attribute",
    "attribute_edges",
    "boost_and_suppress",
    "changes",
    "comics",
    "compare_heads",
    "compare_rankings",
    "contrast_decoding",
    "counterfactual",
    "data",
    "evaluate",
    "evaluation",
    "knockout",
    "load_smollm2",
    "load_tiny",
    "max_suppress_all",
    "mean_ablate",
    "mean_difference",
    "metrics",
    "panels",
    "paper",
    "passages",
    "patch",
    "path_hooks",
    "path_patch",
    "rank_by_effect",
    "recipes",
    "rejudge",
    "resample_ablate",
    "score_heads",
    "show",
    "steer",
    "steering",
    "suppress_all",
    "suppress_image",
    "sweep_bands",
    "testing",
    "track",
    "when",
    "zero_ablate",
]
