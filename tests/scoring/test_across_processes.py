"""Runs that several processes share: equal to one process to the last bit, whoever dies on the way."""

import json
import os
import signal

import pytest
import torch
from processes import FORK, LIMIT, on_ranks

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.cli import discovery
from gaze_lens.data import Pictures
from gaze_lens.data.picture_digests import image_digest
from gaze_lens.errors import ImageError, InputError
from gaze_lens.runs import processes
from gaze_lens.runs.locks import one_writer
from gaze_lens.scoring import across_processes


@pytest.fixture
def strips():
    """Five strips with names, of three panels or two, and one that cannot be read."""
    pictures = [comics.synthetic(1, seed=70 + k, panels=3 - k % 2)[0] for k in range(5)]
    readers = {f"strip {k}": lambda strip=strip: strip for k, strip in enumerate(pictures)}

    def damaged():
        raise ImageError("not an image")

    return Pictures({**readers, "damaged": damaged}, source="here")


def same(one, other):
    return torch.equal(one.samples.nan_to_num(-1), other.samples.nan_to_num(-1)) and one.provenance == other.provenance


@pytest.mark.parametrize("batch_size", [1, 2])
def test_scores_of_two_ranks_are_those_of_one_process(tiny_model, strips, tmp_path, batch_size):
    strips = strips[:5]
    expected = gl.score_heads(tiny_model, strips, batch_size=batch_size, progress=False)

    def work(rank):
        scores = across_processes.score_heads(tiny_model, strips, batch_size=batch_size, progress=False)
        return scores.samples.numpy(), scores.provenance

    for samples, provenance in on_ranks(work, tmp_path):
        assert same(gl.HeadScores(torch.from_numpy(samples), provenance=provenance), expected)
    assert same(across_processes.score_heads(tiny_model, strips, batch_size=batch_size, progress=False), expected)


def test_a_rank_without_strips_gets_the_scores_of_the_others(tiny_model, strips, tmp_path):
    work = lambda rank: across_processes.score_heads(tiny_model, strips[:1], progress=False).samples.numpy()  # noqa: E731
    first, second = on_ranks(work, tmp_path)
    assert (first == second).all()
    assert len(first) == 1


def test_discovery_by_two_ranks_writes_what_one_process_writes(tiny_model, strips, tmp_path):
    expected = discovery.discover(tiny_model, strips, tmp_path / "one", top=5)
    work = lambda rank: discovery.discover(tiny_model, strips, tmp_path / "two", top=5).samples.numpy()  # noqa: E731
    for samples in on_ranks(work, tmp_path):
        assert torch.equal(torch.from_numpy(samples).nan_to_num(-1), expected.samples.nan_to_num(-1))
    files = [gl.HeadScores.load(tmp_path / name / "scores.safetensors") for name in ("one", "two")]
    assert same(*files)
    names = {path.name for path in (tmp_path / "one").iterdir() if path.is_file()} - {"scores.safetensors"}
    assert "heads.json" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert expected.provenance["strips"] == 5, "one cannot be read"


def killed_after(monkeypatch, number):
    """Let this process be killed when it has sampled so many strips."""
    real, calls = discovery.read_strips, []

    def score_strips(*args, **options):
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return real(*args, **options)

    monkeypatch.setattr(discovery, "read_strips", score_strips)


def begun(partial):
    return len(list(partial.glob("*.safetensors")))


def test_the_shard_of_a_rank_that_died_is_resumed(tiny_model, strips, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        killed_after(patched, 1)
        shard = {"shard": (0, 2)}
        process = FORK.Process(target=discovery.sample_strips, args=(tiny_model, strips, tmp_path), kwargs=shard)
        process.start()
        process.join(LIMIT)
    assert process.exitcode == -signal.SIGKILL
    assert begun(tmp_path / "strips") == 1
    discovery.sample_strips(tiny_model, strips, tmp_path, shard=(1, 2))
    with pytest.raises(InputError, match="has not all of its 2 shards: 1/2 not finished. Run these"):
        discovery.merge_samples(tmp_path)
    with pytest.raises(InputError, match="add --resume"):
        discovery.sample_strips(tiny_model, strips, tmp_path, shard=(0, 2))
    discovery.sample_strips(tiny_model, strips, tmp_path, shard=(0, 2), resume=True)
    merged = discovery.merge_samples(tmp_path, top=5)
    assert same(merged, discovery.discover(tiny_model, strips, tmp_path / "one", top=5))
    assert (tmp_path / "heads.json").read_bytes() == (tmp_path / "one" / "heads.json").read_bytes()


def test_a_run_of_two_ranks_goes_on_with_one(tiny_model, strips, tmp_path, monkeypatch):
    """Whoever goes on makes only what is not there; its bar begins where the run was."""
    on_ranks(lambda rank: len(discovery.discover(tiny_model, strips[:3], tmp_path).samples), tmp_path)
    whole = tmp_path / "strips" / "run.json"
    content = json.loads(whole.read_text())
    partial = sorted((tmp_path / "strips").glob("*.safetensors"))
    partial[0].unlink()
    calls, real = [], discovery.read_strips
    monkeypatch.setattr(discovery, "read_strips", lambda *args, **more: calls.append(1) or real(*args, **more))
    discovery.discover(tiny_model, strips[:3], tmp_path, resume=True)
    assert len(calls) == 1
    assert json.loads(whole.read_text()) == content


def test_shards_that_do_not_fit_together_are_refused(tiny_model, strips, tmp_path):
    with pytest.raises(InputError, match="holds no shards of a run"):
        discovery.merge_samples(tmp_path)
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match=r"give \(i, n\) with i from 0 to n - 1"):
            discovery.sample_strips(tiny_model, strips, tmp_path, shard=shard)
    discovery.sample_strips(tiny_model, strips, tmp_path, shard=(1, 3))
    with pytest.raises(InputError, match="has not all of its 3 shards: 1/3, 3/3 missing"):
        discovery.merge_samples(tmp_path)
    with pytest.raises(
        InputError, match="run-2-of-3.json holds a run with other digest, strips; choose another folder"
    ):
        discovery.sample_strips(tiny_model, strips[:4], tmp_path, shard=(0, 3))
    discovery.sample_strips(tiny_model, strips, tmp_path, shard=(0, 2))
    with pytest.raises(InputError, match="shards of runs in 2 and 3 parts"):
        discovery.merge_samples(tmp_path)
    (tmp_path / "strips" / "run-1-of-2.json").unlink()
    discovery.sample_strips(tiny_model, strips, tmp_path, shard=(0, 3))
    discovery.sample_strips(tiny_model, strips, tmp_path, shard=(2, 3))
    third = tmp_path / "strips" / "run-3-of-3.json"
    content = json.loads(third.read_text())
    content["run"]["weights"] = "other"
    third.write_text(json.dumps(content))
    with pytest.raises(InputError, match="run-3-of-3.json holds a run with other weights"):
        discovery.merge_samples(tmp_path)
    content["run"]["weights"] = json.loads((tmp_path / "strips" / "run-1-of-3.json").read_text())["run"]["weights"]
    third.write_text(json.dumps(content))
    next((tmp_path / "strips").glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match="The sample of strip 'strip .' in .* is missing or damaged"):
        discovery.merge_samples(tmp_path)


def test_what_is_left_out_is_written_down_with_its_reason(tiny_model, strips, tmp_path):
    strips = Pictures(strips._readers, source="here", left_out={"an image is missing": ("x",)})
    discovery.discover(tiny_model, strips, tmp_path)
    expected = {"x": "an image is missing", "damaged": "Picture 'damaged' of here cannot be used: not an image"}
    assert discovery.left_out_of(tmp_path) == expected
    for shard in ((0, 2), (1, 2)):
        told = discovery.sample_strips(tiny_model, strips, tmp_path / "jobs", shard=shard)
        assert told == {name: why for name, why in expected.items() if name == "x" or shard == (1, 2)}
    discovery.merge_samples(tmp_path / "jobs")
    assert discovery.left_out_of(tmp_path / "jobs") == expected


def test_the_sample_of_a_picture_that_has_vanished_counts(tiny_model, strips, tmp_path):
    first = discovery.discover(tiny_model, strips[:2], tmp_path)

    def gone():
        raise ImageError("gone")

    fewer = Pictures({strips.names[0]: gone, strips.names[1]: lambda: strips[1]}, source="here")
    with pytest.warns(UserWarning, match="The sample of 'strip 0' is kept, and its picture cannot be compared"):
        second = discovery.discover(tiny_model, fewer, tmp_path, resume=True)
    assert same(first, second)
    assert first.top(1).chosen_on == {image_digest(strips[0]), image_digest(strips[1])}


def test_a_folder_has_one_writer_and_a_shard_its_own_file(tiny_model, strips, tmp_path):
    with one_writer(tmp_path / "strips" / "run.json"), pytest.raises(InputError, match="written by another process"):
        discovery.discover(tiny_model, strips, tmp_path, resume=True)
    discovery.sample_strips(tiny_model, strips, tmp_path, shard=(0, 2))
    first, second = (tmp_path / "strips" / f"run-{n}-of-2.json" for n in (1, 2))
    with one_writer(first), pytest.raises(InputError, match="written by another process"):
        discovery.sample_strips(tiny_model, strips, tmp_path, shard=(0, 2), resume=True)
    second.write_text(first.read_text())
    for again in (
        lambda: discovery.merge_samples(tmp_path),
        lambda: discovery.sample_strips(tiny_model, strips, tmp_path, shard=(1, 2), resume=True),
    ):
        with pytest.raises(InputError, match=r"run-2-of-2.json holds shard 1/2 of a run: it was copied or renamed"):
            again()


def test_a_sample_of_another_picture_is_made_again(tiny_model, strips, tmp_path):
    first = discovery.discover(tiny_model, strips[:2], tmp_path)
    others = Pictures(dict.fromkeys(strips.names[:2], lambda: strips[2]), source="elsewhere")
    second = discovery.discover(tiny_model, others, tmp_path, resume=True)
    assert not torch.equal(first.samples, second.samples)
    assert torch.equal(second.samples[0], second.samples[1])


def test_strips_of_which_none_can_be_read_are_refused(tiny_model, strips, tmp_path):
    with pytest.raises(InputError, match="No strip in .* could be read"):
        discovery.discover(tiny_model, strips[5:], tmp_path)


def test_a_single_process_is_rank_0_of_1():
    assert processes.launched() == (0, 1)
    assert processes.gathered("mine") == ["mine"]
    assert processes.own_device("cuda") == "cuda"


def test_a_job_has_a_shard_of_its_own_or_is_one_of_several_ranks(monkeypatch):
    assert [processes.part_of(text) for text in (None, "1/1", "2/4")] == [None, None, (1, 4)]
    monkeypatch.setattr(processes, "launched", lambda: (0, 2))
    assert processes.part_of(None) is None
    with pytest.raises(InputError, match="torchrun and accelerate launch share out without it"):
        processes.part_of("1/2")
