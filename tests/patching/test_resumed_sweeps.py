"""Sweeps over paths and bands that are stopped, killed and gone on with; those of `gl.patch` are in test_patching."""

import json
import os
import signal

import pytest
import torch
from processes import FORK, LIMIT
from reference import picture

import gaze_lens as gl
from gaze_lens.errors import InputError


def metric(logits):
    return logits[:, -1, 65] - logits[:, -1, 66]


class Stopping:
    """The metric, how often it was asked for, and what happens at some call, counted from one."""

    def __init__(self, at=None, then=None):
        self.calls, self.at, self.then = 0, at, then

    def __call__(self, logits):
        self.calls += 1
        if self.calls == self.at:
            self.then()
        return metric(logits)


class Paths:
    """`gl.path_patch` on a pair of prompts, one cell a forward: eight cells."""

    fewer = {"senders": [(0, 1), (1, 2), (1, 3)]}
    others = [
        ({"receivers": [(2, 1)]}, "what"),
        ({"into": "k", "receivers": [(2, 0), (2, 1)]}, "what"),
        ({"positions": ["every", "last"]}, "positions"),
        ({"metric": lambda logits: metric(logits) + 1}, "values of the metric"),
    ]

    def __init__(self, model):
        self.model = model
        self.clean, self.corrupted = (
            model.prepare([picture(96, 64, seed), picture(96, 64, seed + 1)], [words, f"a {words}"])
            for seed, words in ((0, "what?"), (5, "where"))
        )

    def __call__(self, **options):
        arguments = {
            "senders": [(0, 1), (0, 3), (1, 0), (1, 2)], "receivers": [(2, 0), (3, 1)], "into": "q", "metric": metric,
            "positions": ["image", "last"], "batch_size": 2, "progress": False, **options,
        }  # fmt: skip
        return gl.path_patch(self.model, self.clean, self.corrupted, **arguments)


class Bands:
    """`gl.sweep_bands` on a batch of two, one band a forward: seven bands."""

    fewer = {"bands": [range(1, 4), range(3, 4), range(0, 1)]}
    others = [
        ({"scale": 1.0}, "scale"),
        ({"positions": "image"}, "positions"),
        ({"metric": {"other": metric}}, "metrics"),
        ({"towards": None}, "clean inputs"),
    ]

    def __init__(self, model):
        self.model = model
        self.inputs, self.goal = (
            model.prepare([picture(96, 64, 1), picture(96, 64, 2)], [words] * 2) for words in ("what now", "that way")
        )
        self.direction = gl.mean_difference(model, self.goal, self.inputs)

    def __call__(self, **options):
        bands = [range(0, 1), range(0, 2), range(1, 2), range(1, 3), range(2, 3), range(2, 4), range(3, 4)]
        arguments = {
            "direction": self.direction, "bands": bands, "scale": 1.5, "positions": "last", "towards": self.goal,
            "metric": metric, "batch_size": 2, "progress": False, **options,
        }  # fmt: skip
        return gl.sweep_bands(self.model, self.inputs, **arguments)


@pytest.fixture(params=[Paths, Bands])
def sweep(request, shelf):
    return request.param(shelf.get("Qwen3-VL")[0])


def test_a_finished_file_is_the_result_and_takes_more_cells(sweep, tmp_path):
    path, expected = tmp_path / "new" / "sweep.jsonl", sweep()
    first = sweep(resume=path)
    assert torch.equal(first.values, expected.values)
    lines = path.read_text().splitlines()
    columns = list(first.index_df)
    assert [json.loads(line)["values"][0] for line in lines[1:]] == first.values.tolist()
    assert [[json.loads(line)[name] for name in columns] for line in lines[1:]] == first.index_df.to_numpy().tolist()
    counted = Stopping()
    again = sweep(resume=path, metric=counted)
    assert counted.calls == 2  # the unpatched runs
    assert torch.equal(again.values, first.values)
    assert again.index_df.equals(first.index_df)
    assert path.read_text().splitlines() == lines
    some = sweep(resume=path, **sweep.fewer)
    assert torch.equal(some.values, sweep(**sweep.fewer).values)
    assert path.read_text().splitlines()[: len(lines)] == lines
    assert len(path.read_text().splitlines()) == len(lines) + (2 if isinstance(sweep, Paths) else 1)


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_interrupted_sweep_goes_on(sweep, tmp_path):
    path, expected = tmp_path / "sweep.jsonl", sweep()
    with pytest.raises(KeyboardInterrupt):
        sweep(resume=path, metric=Stopping(6, interrupt))
    assert len(path.read_text().splitlines()) == 1 + 3
    counted = Stopping()
    assert torch.equal(sweep(resume=path, metric=counted).values, expected.values)
    assert counted.calls == 2 + len(expected.index_df) - 3


def test_a_killed_sweep_loses_only_the_cell_in_work(sweep, tmp_path):
    path, expected = tmp_path / "sweep.jsonl", sweep()
    process = FORK.Process(target=sweep, kwargs={"resume": path, "metric": Stopping(5, kill)})
    process.start()
    process.join(LIMIT)
    assert process.exitcode == -signal.SIGKILL
    path.write_bytes(path.read_bytes()[:-7])  # and half of the last line
    counted = Stopping()
    assert torch.equal(sweep(resume=path, metric=counted).values, expected.values)
    assert counted.calls == 2 + len(expected.index_df) - 1
    assert len(path.read_text().splitlines()) == 1 + len(expected.index_df)


def test_files_of_other_runs_are_refused_and_left_alone(sweep, tmp_path):
    path = tmp_path / "sweep.jsonl"
    sweep(resume=path, **sweep.fewer)
    content = path.read_bytes()
    for change, message in sweep.others:
        with pytest.raises(InputError, match=f"belongs to another run; its .*{message}.* differ"):
            sweep(resume=path, **change)
    other = {Paths: Bands, Bands: Paths}[type(sweep)](sweep.model)
    with pytest.raises(InputError, match="belongs to another run; its what"):
        other(resume=path)
    assert path.read_bytes() == content


def test_another_direction_is_another_run(shelf, tmp_path):
    sweep, path = Bands(shelf.get("Qwen3-VL")[0]), tmp_path / "bands.jsonl"
    sweep(resume=path)
    turned = gl.Direction(-sweep.direction.vectors, sweep.direction.layers)
    with pytest.raises(InputError, match="belongs to another run; its direction differ"):
        sweep(resume=path, direction=turned)
