"""What version 0.1 wrote is read unchanged: files that `fixtures/version_0_1/make.py` made with it, and its figures."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import gaze_lens as gl
from gaze_lens.cli import discovery
from gaze_lens.data import Pictures
from gaze_lens.regions.reading import read_image

FOLDER = Path(__file__).parent / "fixtures" / "version_0_1"
NUMBERS = json.loads((FOLDER / "numbers.json").read_text())


@pytest.fixture(scope="module")
def strip():
    return gl.comics.synthetic(2, seed=31, panels=3)[0]


def test_heads(tiny_model):
    heads = gl.HeadSet.load(FOLDER / "heads.json", model=tiny_model.cfg.model_name, fingerprint=tiny_model.fingerprint)
    assert [str(head) for head in heads] == NUMBERS["heads"]
    assert heads.provenance == {"method": "gaze score", "at": "prompt", "strips": 2, "rank_by": "score", "top": 2}


def test_scores():
    scores = gl.HeadScores.load(FOLDER / "scores.safetensors")
    assert str(scores) == NUMBERS["scores"]
    assert torch.equal(scores.score, torch.tensor(NUMBERS["score"]))
    assert list(scores.top(2)) == list(gl.HeadSet.load(FOLDER / "heads.json"))


def test_a_trajectory():
    trajectory = gl.Trajectory.load(FOLDER / "trajectory.safetensors")
    assert str(trajectory) == NUMBERS["text"]
    assert [str(head) for head in trajectory.heads] == NUMBERS["heads"]
    assert trajectory.agreement([trajectory.regions[0]] * len(trajectory.mass)).looked == NUMBERS["agreement"]


def test_a_direction(tiny_model):
    direction = gl.Direction.load(FOLDER / "direction.safetensors", fingerprint=tiny_model.fingerprint)
    norms = [direction.vector(layer).norm().item() for layer in (2, 3)]
    assert norms == pytest.approx(NUMBERS["norms"], rel=1e-6)
    assert (direction.layers, direction.provenance["method"]) == ((2, 3), "mean difference")


def test_a_sweep_that_is_done_runs_no_cell_again(tiny_model, strip, tmp_path):
    log = Path(shutil.copy(FOLDER / "patch.jsonl", tmp_path))
    pair = gl.counterfactual(tiny_model, strip, gl.comics.ask(0), gl.changes.question(gl.comics.ask(2)))
    words = [strip.captions[f"panel {panel}"].split()[0] for panel in (1, 3)]
    metric = gl.metrics.logit_difference(tiny_model, *words)
    result = gl.patch(
        tiny_model, pair.clean, pair.corrupted, what="z", where=gl.HeadSet.load(FOLDER / "heads.json"),
        positions=["panel 1", "last"], metric=metric, resume=log, progress=False,
    )  # fmt: skip
    assert log.read_bytes() == (FOLDER / "patch.jsonl").read_bytes()
    assert result.recovery().tolist() == pytest.approx(NUMBERS["recovery"], abs=1e-5)
    expected = pd.read_csv(FOLDER / "patch.csv")
    result.save(tmp_path / "patch.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "patch.csv"), expected, atol=1e-5)


@pytest.fixture(scope="module")
def discovered():
    """The strips of the old run of discover, with their pixels of then."""
    made = zip("ab", gl.comics.synthetic(2, seed=3), strict=True)
    folder = FOLDER / "discovered"
    return {name: gl.Picture(read_image(folder / f"{name}.png"), one.regions, one.captions) for name, one in made}


def test_a_run_of_discover_goes_on(tiny_model, discovered, tmp_path, monkeypatch):
    """All samples are there, so that none is made."""
    old = FOLDER / "discovered" / "run"
    shutil.copytree(old, tmp_path / "run")
    monkeypatch.setattr(discovery, "read_strips", None)
    pictures = Pictures({name: lambda strip=strip: strip for name, strip in discovered.items()}, source="here")
    scores = discovery.discover(tiny_model, pictures, tmp_path / "run", top=2, resume=True)
    expected = gl.HeadScores.load(old / "scores.safetensors")
    assert torch.equal(scores.samples, expected.samples)
    assert scores.provenance == expected.provenance
    assert gl.HeadSet.load(tmp_path / "run" / "heads.json") == gl.HeadSet.load(old / "heads.json")


@torch.no_grad()
def test_a_sweep_over_bands_goes_on(tiny_model, discovered, tmp_path):
    log = Path(shutil.copy(FOLDER / "bands.jsonl", tmp_path))
    inputs = tiny_model.prepare(discovered["a"], "What happens in the fourth panel from the left?")
    metric = gl.metrics.logit_difference(tiny_model, "red", "green")
    direction = gl.Direction(torch.arange(4 * 128.0).reshape(4, 128) / 1024, tuple(range(4)))
    bands = gl.sweep_bands(tiny_model, inputs, direction, bands=2, scale=0.5, metric=metric, resume=log, progress=False)
    assert log.read_bytes() == (FOLDER / "bands.jsonl").read_bytes()
    lines = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert bands.values.flatten().tolist() == [line["values"][0][0] for line in lines]


def test_the_folder_of_a_run(tmp_path):
    folder = Path(shutil.copytree(FOLDER / "run", tmp_path / "run"))
    results = gl.rejudge(folder, progress=False)
    files = [path.name for path in FOLDER.joinpath("run").glob("*.jsonl")]
    assert len(files) == 2
    for name in files:
        assert (folder / name).read_bytes() == (FOLDER / "run" / name).read_bytes(), "nothing was judged again"
    results.table().to_csv(tmp_path / "accuracy.csv", index=False)
    assert (tmp_path / "accuracy.csv").read_text() == (FOLDER / "run" / "accuracy.csv").read_text()
