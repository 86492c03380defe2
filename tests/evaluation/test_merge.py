"""Evaluations that jobs or ranks share: the files of one process, whoever dies on the way."""

import os
import signal

import pytest
from PIL import Image
from processes import FORK, LIMIT, on_ranks

import gaze_lens as gl
from gaze_lens import HeadSet, Picture, comics
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, generate, generate_answers, question
from gaze_lens.evaluation.merge import FILE, file_of, merge_generations
from gaze_lens.evaluation.runner import merge

CONDITIONS = [Condition("gaze", HeadSet(["L2H0", "L1H4"])), Condition("none")]
FILES = [FILE, "answers.csv", "accuracy.csv", "by_target.csv", "comparisons.csv", "results.json", "report.html"]
PROTOCOL = question(max_new_tokens=6)


@pytest.fixture(scope="module")
def pictures():
    """Four strips, and in their midst a picture that no processor takes."""
    long = Picture(Image.new("RGB", (9000, 9)), gl.panels(2, 9000, 9))
    strips = comics.synthetic(4, seed=80, panels=2)
    return [*strips[:2], long, *strips[2:]]


@pytest.fixture
def one_process(tiny_model, pictures, tmp_path):
    """What one process writes."""
    gl.evaluate(tiny_model, pictures, CONDITIONS, protocol=PROTOCOL, out=tmp_path / "one", progress=False)
    return tmp_path / "one"


def make(model, pictures, out, shard, **options):
    options = {"protocol": PROTOCOL, "progress": False, **options}
    return generate_answers(model, pictures, CONDITIONS, path=out / file_of(shard), shard=shard, **options)


def refute(one, other):
    assert [name for name in FILES if (one / name).read_bytes() != (other / name).read_bytes()] == []


def test_two_ranks_write_what_one_process_writes(tiny_model, pictures, one_process, tmp_path):
    def work(rank):
        results = gl.evaluate(tiny_model, pictures, CONDITIONS, protocol=PROTOCOL, out=tmp_path / "two", progress=False)
        in_memory = gl.evaluate(tiny_model, pictures, CONDITIONS, protocol=PROTOCOL, progress=False)
        return str(results), str(in_memory), [record.key for record in results.generations.records]

    first, second = on_ranks(work, tmp_path)
    assert first == second
    assert first[0] == first[1]
    assert len(first[2]) == 4 * 2 * 2
    refute(one_process, tmp_path / "two")


def test_a_shard_that_was_killed_is_resumed_and_the_merged_run_is_that_of_one_process(
    tiny_model, pictures, one_process, tmp_path, monkeypatch
):
    out, real, calls = tmp_path / "jobs", generate.answers, []

    def killed(*args):
        if calls:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(generate, "answers", killed)
        process = FORK.Process(target=make, args=(tiny_model, pictures, out, (1, 3)))
        process.start()
        process.join(LIMIT)
    assert process.exitcode == -signal.SIGKILL
    make(tiny_model, pictures, out, (0, 3))
    with pytest.raises(InputError, match="not all of its 3 shards: 3/3 missing; 2/3 not finished. Run these"):
        merge(out)
    make(tiny_model, pictures, out, (2, 3))
    make(tiny_model, pictures, out, (1, 3), resume=True)
    results = merge(out)
    assert results.missing == 0
    refute(one_process, out)
    merge(out)
    refute(one_process, out)


def test_shards_that_do_not_fit_together_are_refused(tiny_model, pictures, tmp_path):
    with pytest.raises(InputError, match="holds no shards of a run"):
        merge_generations(tmp_path)
    make(tiny_model, pictures[:2], tmp_path, (0, 2))
    make(tiny_model, pictures[:2], tmp_path, (1, 2), seed=1)
    with pytest.raises(InputError, match=r"generations-2-of-2.jsonl holds a run with other seed"):
        merge_generations(tmp_path)
    (tmp_path / file_of((1, 2))).unlink()
    make(tiny_model, pictures[:2], tmp_path, (1, 3))
    with pytest.raises(InputError, match="shards of runs in 2 and 3 parts"):
        merge_generations(tmp_path)
    assert not (tmp_path / FILE).exists()
