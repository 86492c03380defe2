"""`--shard i/n` and `gaze-lens merge`: the files of one process."""

import json

import pytest

from gaze_lens import HeadScores, HeadSet, comics
from gaze_lens.cli.discovery import left_out_of
from gaze_lens.cli.run_record import RunRecord
from gaze_lens.errors import InputError


def same(one, other, *names):
    assert [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()] == []


def test_discover_in_shards(run, tmp_path):
    (tmp_path / "strips").mkdir()
    for index, strip in enumerate(comics.synthetic(3, seed=50, panels=3)):
        strip.image.save(tmp_path / "strips" / f"s{index}.png")
    (tmp_path / "strips" / "s1b.png").write_bytes(b"no image")
    options = ("discover", "--model", "tiny", "--strips", tmp_path / "strips", "--panels", 3, "--out")
    assert "Left out: an image cannot be read (1): s1b" in run(*options, tmp_path / "one", "--top", 4).output
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
    same(tmp_path / "one", tmp_path / "jobs", "left_out.json", "gaze_scores.npy", "mean_panel_attention.npy")
    run("merge", tmp_path / "jobs", "--top", 4, "--rank-by", "image")
    scores = HeadScores.load(tmp_path / "jobs" / "scores.safetensors")
    assert HeadSet.load(tmp_path / "jobs" / "heads.json") == scores.top(4, by="image") != scores.top(4)
    run(*options, tmp_path / "single", "--shard", "1/1", "--top", 4)
    with pytest.raises(InputError, match="give them to `gaze-lens merge`"):
        run(*options, tmp_path / "none", "--shard", "1/2", "--top", 4)
    same(tmp_path / "one", tmp_path / "single", "heads.json")
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(InputError, match="write i/n with i from 1 to n"):
            run(*options, tmp_path / "none", "--shard", wrong)


def test_shards_of_a_discovery_ask_one_question(run, tmp_path):
    options = ("discover", "--model", "tiny", "--strips", "synthetic:2", "--question", "Panel {n}?", "--out")
    run(*options, tmp_path / "one", "--top", 4)
    run(*options, tmp_path / "jobs", "--shard", "1/2")
    with pytest.raises(InputError, match="a run with other question"):
        run("discover", "--model", "tiny", "--strips", "synthetic:2", "--out", tmp_path / "jobs", "--shard", "2/2")
    run(*options, tmp_path / "jobs", "--shard", "2/2")
    run("merge", tmp_path / "jobs", "--top", 4)
    same(tmp_path / "one", tmp_path / "jobs", "heads.json", "scores.csv")


RUN = {"model": "m", "fingerprint": "f", "strips": 1}
RECORD = {"run": RUN, "shard": [0, 2], "left_out": {}, "names": ["a"]}
BROKEN = {
    "empty": "",
    "no JSON": "{",
    "no UTF-8": b"\xff\xfe",
    "nested": "[" * 200_000,
    "a list": "[]",
    "a number": "7",
    **{f"no {key}": json.dumps({k: v for k, v in RECORD.items() if k != key}) for key in ("run", "shard", "left_out")},
    **{
        f"{key} is {value!r}": json.dumps({**RECORD, key: value})
        for key, values in {
            "run": (None, [], "x", {}, {**RUN, "strips": "1"}, {**RUN, "strips": -1}, {"strips": 1}),
            "shard": (None, 7, "1/2", [0], [2, 2], [-1, 2], ["0", "2"], [0.5, 2], {}),
            "names": (7, {}, [7], "a", {"a": 1}),
            "left_out": (None, 7, [7], {"a": 7}, "a"),
        }.items()
        for value in values
    },
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_of_a_discovery_is_named(tmp_path, content):
    path = tmp_path / "run-1-of-2.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        InputError, match=r"run-1-of-2.json (is damaged|cannot be read).*expected the settings of a run"
    ):
        RunRecord.read(path)


def test_records_that_do_not_have_all_strips_are_refused(run, tmp_path):
    (tmp_path / "strips").mkdir()
    for first in range(2):
        record = {**RECORD, "shard": [first, 2], "run": {**RUN, "strips": 3}}
        (tmp_path / "strips" / f"run-{first + 1}-of-2.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run-1-of-2.json names 1 strips, expected 2 of 3: it is damaged"):
        run("merge", tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 7}'])
def test_a_broken_list_of_what_was_left_out_is_named(tmp_path, content):
    (tmp_path / "left_out.json").write_text(content)
    with pytest.raises(InputError, match=r"left_out.json (is damaged|cannot be read)"):
        left_out_of(tmp_path)


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
