"""`--shard i/n` and `gaze-lens merge`: the files of one process."""

import json

import pytest

from gaze_lens import HeadSet, comics
from gaze_lens.errors import InputError


def same(one, other, *names):
    assert [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()] == []


def test_discover_in_shards(run, tmp_path):
    (tmp_path / "strips").mkdir()
    for index, strip in enumerate(comics.synthetic(3, seed=50, panels=3)):
        strip.image.save(tmp_path / "strips" / f"s{index}.png")
    (tmp_path / "strips" / "s1b.png").write_bytes(b"no image")
    options = ("discover", "--model", "tiny", "--strips", tmp_path / "strips", "--panels", 3, "--top", 4, "--out")
    assert "Left out: an image cannot be read (1): s1b" in run(*options, tmp_path / "one").output
    assert json.loads((tmp_path / "one" / "left_out.json").read_text()) == {"s1b": "an image cannot be read"}
    result = run(*options, tmp_path / "jobs", "--shard", "2/2")
    assert "Left out: an image cannot be read (1): s1b\n" in result.output
    assert f"Shard 2/2 is done. When all are: gaze-lens merge {tmp_path / 'jobs'}" in result.output
    with pytest.raises(InputError, match="not all of its 2 shards: 1/2 missing"):
        run("merge", tmp_path / "jobs")
    run(*options, tmp_path / "jobs", "--shard", "1/2", "--resume")
    result = run("merge", tmp_path / "jobs", "--top", 4)
    assert "Left out: an image cannot be read (1): s1b\n" in result.output
    assert "3 strips of up to 3 panels" in result.output
    same(tmp_path / "one", tmp_path / "jobs", "heads.json", "scores.csv", "gaze_head_ranking.json", "verdict.json")
    same(tmp_path / "one", tmp_path / "jobs", "left_out.json")
    run(*options, tmp_path / "single", "--shard", "1/1")
    same(tmp_path / "one", tmp_path / "single", "heads.json")
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(InputError, match="write i/n with i from 1 to n"):
            run(*options, tmp_path / "none", "--shard", wrong)


def test_evaluate_in_shards(run, tmp_path, tiny_model):
    heads = HeadSet(["L2H0", "L1H4"], model=tiny_model.cfg.model_name, fingerprint=tiny_model.fingerprint)
    heads.save(tmp_path / "heads.json")
    options = (
        "evaluate", "--strips", "synthetic:3", "--panels", 2, "--heads", tmp_path / "heads.json", "--max-new-tokens", 8,
        "--conditions", "gaze,none", "--judge", "f1", "--out",
    )  # fmt: skip
    run(*options, tmp_path / "one")
    for shard in ("1/2", "2/2"):
        assert f"Shard {shard} is done" in run(*options, tmp_path / "jobs", "--shard", shard).output
    assert not (tmp_path / "jobs" / "report.html").exists()
    result = run("merge", tmp_path / "jobs", "--judge", "f1")
    assert "report.html" in result.output
    same(tmp_path / "one", tmp_path / "jobs", "generations.jsonl", "results.json", "accuracy.csv", "report.html")
