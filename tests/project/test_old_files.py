"""What version 0.1 wrote is read unchanged: files that `fixtures/version_0_1/make.py` made with it, and its figures."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import gaze_lens as gl

FOLDER = Path(__file__).parent / "fixtures" / "version_0_1"
NUMBERS = json.loads((FOLDER / "numbers.json").read_text())


@pytest.fixture(scope="module")
def strip():
    return gl.comics.synthetic(2, seed=31, panels=3)[0]


def test_heads(tiny_model):
    heads = gl.HeadSet.load(FOLDER / "heads.json", model=tiny_model.cfg.model_name, fingerprint=tiny_model.fingerprint)
    assert [str(head) for head in heads] == NUMBERS["heads"]


def test_scores():
    scores = gl.HeadScores.load(FOLDER / "scores.safetensors")
    assert str(scores) == NUMBERS["scores"]
    assert torch.equal(scores.score, torch.tensor(NUMBERS["score"]))
    assert list(scores.top(2)) == list(gl.HeadSet.load(FOLDER / "heads.json"))


def test_a_trajectory():
    trajectory = gl.Trajectory.load(FOLDER / "trajectory.safetensors")
    assert str(trajectory) == NUMBERS["text"]
    assert trajectory.agreement([trajectory.regions[0]] * len(trajectory.mass)).looked == NUMBERS["agreement"]


def test_a_direction(tiny_model):
    direction = gl.Direction.load(FOLDER / "direction.safetensors", fingerprint=tiny_model.fingerprint)
    norms = [direction.vector(layer).norm().item() for layer in (2, 3)]
    assert norms == pytest.approx(NUMBERS["norms"], rel=1e-6)


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


def test_the_folder_of_a_run(tmp_path):
    folder = Path(shutil.copytree(FOLDER / "run", tmp_path / "run"))
    results = gl.rejudge(folder, progress=False)
    files = [path.name for path in FOLDER.joinpath("run").glob("*.jsonl")]
    assert len(files) == 2
    for name in files:
        assert (folder / name).read_bytes() == (FOLDER / "run" / name).read_bytes(), "nothing was judged again"
    results.table().to_csv(tmp_path / "accuracy.csv", index=False)
    assert (tmp_path / "accuracy.csv").read_text() == (FOLDER / "run" / "accuracy.csv").read_text()
