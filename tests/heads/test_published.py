"""Files of the paper's authors' scripts, and of repositories on the hub."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

import gaze_lens as gl
from gaze_lens.errors import HeadError
from gaze_lens.heads import hub_files

FINGERPRINT = "family-3x4x8x16"


@pytest.fixture
def scores():
    samples = torch.rand(5, 3, 4, 6, 6, generator=torch.Generator().manual_seed(0)) / 6
    return gl.HeadScores(samples, model="owner/name", fingerprint=FINGERPRINT)


def test_what_the_scripts_read_is_written(scores, tmp_path):
    scores.save_published(tmp_path)
    mean = np.load(tmp_path / "mean_panel_attention.npy")
    gaze = np.load(tmp_path / "gaze_scores.npy")
    assert (mean.shape, mean.dtype, gaze.shape, gaze.dtype) == ((6, 3, 4, 6), np.float32, (3, 4), np.float32)
    samples = scores.samples.double().numpy()
    for asked, layer, head, attended in np.random.default_rng(0).integers((6, 3, 4, 6), size=(20, 4)):
        expected = sum(samples[strip, layer, head, asked, attended] for strip in range(5)) / 5
        assert mean[asked, layer, head, attended] == pytest.approx(expected, abs=1e-6)
    assert gaze[2, 1] == pytest.approx(sum(mean[k, 2, 1, k] for k in range(6)) / 6, abs=1e-6)
    ranking = json.loads((tmp_path / "gaze_head_ranking.json").read_text())
    assert [(one["layer"], one["head"]) for one in ranking] == scores.ranked()


def test_what_the_scripts_write_is_read(scores, tmp_path):
    scores.save_published(tmp_path)
    read = gl.HeadScores.load(tmp_path / "mean_panel_attention.npy", fingerprint=FINGERPRINT)
    for statistic in ("score", "contrast", "correlation"):
        torch.testing.assert_close(getattr(read, statistic), getattr(scores, statistic), atol=1e-6, rtol=0)
    assert read.top(4) == scores.top(4)
    assert read.top(4).fingerprint == FINGERPRINT
    assert read.interval().isnan().all()
    for name in ("mean_panel_attention.npy", "gaze_scores.npy", "gaze_head_ranking.json"):
        assert list(gl.HeadSet.load(tmp_path / name)) == scores.ranked()
    with pytest.raises(HeadError, match="expected 3 layers|have the fingerprint"):
        gl.HeadScores.load(tmp_path / "mean_panel_attention.npy", fingerprint="family-2x4x8x16")


def test_files_that_do_not_fit_are_refused(scores, tmp_path):
    scores.save_published(tmp_path)
    np.save(tmp_path / "gaze_scores.npy", np.full((3, 4), 0.5))
    with pytest.raises(HeadError, match="are not the gaze scores of"):
        gl.HeadScores.load(tmp_path / "mean_panel_attention.npy")
    for name, content in [
        ("flat.npy", np.zeros(3)),
        ("words.npy", np.array([["a"]])),
        ("nan.npy", np.array([[np.nan]])),
    ]:
        np.save(tmp_path / name, content)
        with pytest.raises(HeadError, match=r"holds .* expected gaze_scores.npy"):
            gl.HeadSet.load(tmp_path / name)
    (tmp_path / "damaged.npy").write_bytes(b"not an array")
    with pytest.raises(HeadError, match="damaged.npy cannot be read"):
        gl.HeadSet.load(tmp_path / "damaged.npy")
    with pytest.raises(HeadError, match="absent.npy cannot be read"):
        gl.HeadScores.load(tmp_path / "absent.npy")
    np.save(tmp_path / "wide.npy", np.zeros((5, 3, 4, 6)))
    with pytest.raises(HeadError, match="5 questions and 6 panels"):
        gl.HeadScores.load(tmp_path / "wide.npy")


def test_heads_of_a_repository_on_the_hub(scores, tmp_path, monkeypatch):
    file = tmp_path / "heads.json"
    scores.top(3).save(file)
    asked = []
    monkeypatch.setattr(
        hub_files, "hf_hub_download", lambda *given, **options: asked.append((given, options)) or str(file)
    )
    heads = gl.HeadSet.load("hf:owner/heads@v1/qwen/heads.json", fingerprint=FINGERPRINT)
    assert heads == scores.top(3)
    gl.HeadSet.load("hf:owner/heads/heads.json")
    assert asked == [
        (("owner/heads", "qwen/heads.json"), {"revision": "v1"}),
        (("owner/heads", "heads.json"), {"revision": None}),
    ]
    with pytest.raises(HeadError, match="hf:owner/heads/heads.json holds heads of the architecture family-3x4x8x16"):
        gl.HeadSet.load("hf:owner/heads/heads.json", fingerprint="family-2x4x8x16")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("no file"), "the hub cannot be reached"),
        (EntryNotFoundError("no file"), "owner/heads has no file heads.json"),
        (OSError("disk full"), r"cannot be fetched \(disk full\)"),
    ],
)
def test_errors_of_the_hub_are_told(monkeypatch, error, message):
    def fail(*_given, **_options):
        raise error

    monkeypatch.setattr(hub_files, "hf_hub_download", fail)
    with pytest.raises(HeadError, match=message):
        gl.HeadSet.load("hf:owner/heads/heads.json")


def test_a_name_that_is_no_file_of_the_hub():
    with pytest.raises(HeadError, match="hf:owner/heads names no file of the hub: expected hf:owner/name/path"):
        gl.HeadSet.load("hf:owner/heads")
