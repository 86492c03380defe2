"""Every dotted name that the documents of version 0.1 named (README, docs/ and tutorials/) can still be reached."""

import importlib
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch

import gaze_lens as gl
from gaze_lens.deprecation import MOVED, PROGRAMS

ROOT = Path(__file__).parents[2]
MODULES = """
cache capabilities comics data discovery distributed errors evaluation evaluation.judges evaluation.run
evaluation.sharing evaluation.statistics families families.adapters families.features families.geometry generation
images patching patching.changes patching.descriptions patching.features patching.metrics serve show testing tiny
tracking verdict wording
"""
NAMES = """
cache.VLMActivationCache capabilities.Capabilities capabilities.ImageCapabilities capabilities.LayerCapabilities
discovery.discover discovery.merge_samples discovery.sample_strips distributed.score_heads evaluation.accuracy
evaluation.judges.CaptionMatch evaluation.judges.Description evaluation.judges.LikelihoodJudge evaluation.random_order
evaluation.run.merge evaluation.sharing.file_of evaluation.sharing.merge_generations evaluation.steer_to_every_panel
evaluation.switch_at_panel_ends families.Family families.adapters.PathAdapter families.adapters.Paths
families.family_of families.features.image_by_image families.geometry.stretched_grid families.register
generation.Generation images.read_image patching.agreement patching.aligned_groups patching.check_aligned
patching.descriptions.descriptions patching.features.FeatureChange patching.group patching.groups serve.Limits
testing.BUILDERS testing.tiny tracking.Agreement verdict.Verdict
"""
SHORT = """
AttentionBias Box GazeLensError Group Head HeadSet HeadSet.load HookedVLM.from_pretrained HookedVLM.wrap Mask Picture
Place.of Polygon Positions.everything Positions.of Positions.since RowReader Trajectory.load attribute attribute_edges
boost_and_suppress changes.blank changes.ordinal changes.question changes.recolour changes.swap comics.NARRATE
comics.NARRATE_FREELY comics.OPEN comics.ORDINALS comics.ask comics.ask_place comics.grid comics.place comics.scenes
comics.strip comics.synthetic counterfactual data.borders data.find_panels data.gutters data.read_coco data.read_strips
evaluate evaluation.conditions evaluation.head_counts evaluation.judges.LikelihoodJudge evaluation.strengths knockout
load_tiny max_suppress_all mean_ablate metrics.answer_log_probability metrics.logit_difference patch patching.group
path_hooks path_patch rejudge score_heads show.attention show.attention_map show.circuitsvis show.course show.matrices
show.patching show.picture show.scores show.staircase show.steering steer suppress_all suppress_image testing.tiny track
zero_ablate
"""


def reached(base, name):
    for part in name.split("."):
        base = getattr(base, part)
    return base


@pytest.mark.parametrize("module", [f"gaze_lens.{name}" for name in MODULES.split()])
def test_a_module_still_imports_and_a_moved_one_warns(module):
    if module in MOVED:
        sys.modules.pop(module, None)  # as an import warns once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        importlib.import_module(module)
    moved = [str(warning.message) for warning in caught if str(warning.message).startswith(f"{module} is now")]
    assert len(moved) == (module in MOVED)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES.split())
def test_a_name_is_still_in_its_module(name):
    module, _, attribute = name.rpartition(".")
    assert reached(importlib.import_module(f"gaze_lens.{module}"), attribute) is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SHORT.split())
def test_a_name_under_gl_is_still_there(name):
    assert reached(gl, name) is not None


@pytest.mark.parametrize("old", PROGRAMS)
def test_a_program_that_left_the_package_says_where_it_is(old):
    with pytest.raises(ImportError, match=f"{old} is not part of gaze_lens any more: run python -m {PROGRAMS[old]} in"):
        importlib.import_module(old)
    assert (ROOT / PROGRAMS[old].replace(".", "/")).with_suffix(".py").is_file()


def test_python_says_it_in_one_line():
    """`python -m` prints the text of an ImportError that comes while it looks for the module, without a traceback."""
    with pytest.raises(ImportError, match="Error while finding module specification for .*run python -m training.zoo"):
        runpy.run_module("gaze_lens.tiny.zoo", run_name="__main__")


@pytest.mark.parametrize(
    "make",
    [
        lambda **about: gl.HeadSet(["L1H0"], **about),
        lambda **about: gl.HeadScores(torch.rand(1, 1, 1, 2, 2), **about),
        lambda **about: gl.Direction(torch.zeros(1, 4), (0,), **about),
    ],
)
def test_provenance_has_an_old_name(make):
    with pytest.warns(
        DeprecationWarning, match=r"\(found=\) is now called provenance=; the old name goes in version 0.3"
    ):
        made = make(found={"seed": 1})
    assert made.provenance == {"seed": 1}
    with pytest.warns(DeprecationWarning, match=r"\.found is now called provenance"):
        assert made.found == {"seed": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(provenance={"seed": 2}).provenance == {"seed": 2}
