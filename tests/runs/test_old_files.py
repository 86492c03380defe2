"""Files that version 0.1 wrote are read as they are."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import gaze_lens as gl
from gaze_lens.cli import discovery
from gaze_lens.data import Pictures
from gaze_lens.regions.reading import read_image

OLD = Path(__file__).parent / "fixtures" / "v01"
SCORED = {"method": "gaze score", "at": "prompt", "strips": 3}


@pytest.fixture(scope="module")
def strips():
    """The two strips of the old run, with their pixels of then."""
    made = zip("ab", gl.comics.synthetic(2, seed=3), strict=True)
    return {name: gl.Picture(read_image(OLD / f"{name}.png"), one.regions, one.captions) for name, one in made}


def test_heads_and_scores():
    scores = gl.HeadScores.load(OLD / "scores.safetensors", model="some/model", fingerprint="2x3")
    assert torch.equal(scores.samples, torch.rand(3, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert scores.provenance == SCORED
    heads = gl.HeadSet.load(OLD / "heads.json", model="some/model", fingerprint="2x3")
    assert heads == scores.top(2, "contrast")
    assert heads.provenance == SCORED | {"rank_by": "contrast", "top": 2}


def test_a_direction_and_a_trajectory():
    direction = gl.Direction.load(OLD / "direction.safetensors", fingerprint="2x3")
    assert direction.vectors.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (direction.layers, direction.provenance["method"]) == ((1, 3), "mean difference")
    trajectory = gl.Trajectory.load(OLD / "trajectory.safetensors")
    assert (str(trajectory.heads), trajectory.heads.provenance) == ("L1H6", {"seed": 3})
    assert str(trajectory) == "red bar above"


def test_a_run_of_discover_goes_on(tiny_model, strips, tmp_path, monkeypatch):
    """All samples are there, so that none is made."""
    shutil.copytree(OLD / "run", tmp_path / "run")
    monkeypatch.setattr(discovery, "score_strips", None)
    pictures = Pictures({name: lambda strip=strip: strip for name, strip in strips.items()}, source="here")
    scores = discovery.discover(tiny_model, pictures, tmp_path / "run", top=2, resume=True)
    expected = gl.HeadScores.load(OLD / "run" / "scores.safetensors")
    assert torch.equal(scores.samples, expected.samples)
    assert scores.provenance == expected.provenance
    assert gl.HeadSet.load(tmp_path / "run" / "heads.json") == gl.HeadSet.load(OLD / "run" / "heads.json")


@torch.no_grad()
def test_sweeps_go_on(tiny_model, strips, tmp_path):
    """What the files hold is not run again."""
    for name in ("sweep.jsonl", "bands.jsonl"):
        shutil.copy(OLD / name, tmp_path / name)
    question, change = "What happens in the fourth panel from the left?", gl.changes.ordinal("second")
    clean, corrupted = gl.counterfactual(tiny_model, strips["a"], question, change)
    metric = gl.metrics.logit_difference(tiny_model, "red", "green")
    options = {"metric": metric, "progress": False}
    sweep = gl.patch(
        tiny_model, clean, corrupted, what="z", where=[1], positions="last", resume=tmp_path / "sweep.jsonl", **options
    )
    direction = gl.Direction(torch.arange(4 * 128.0).reshape(4, 128) / 1024, tuple(range(4)))
    bands = gl.sweep_bands(tiny_model, clean, direction, bands=2, scale=0.5, resume=tmp_path / "bands.jsonl", **options)
    for name, result in (("sweep.jsonl", sweep), ("bands.jsonl", bands)):
        assert (tmp_path / name).read_bytes() == (OLD / name).read_bytes()
        lines = [json.loads(line) for line in (OLD / name).read_text().splitlines()[1:]]
        assert result.values.flatten().tolist() == [line["values"][0][0] for line in lines]


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
