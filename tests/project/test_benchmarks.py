"""What the benchmarks do with their numbers: slopes, peaks, tables, interrupted runs. No time is tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gaze_lens as gl

sys.path.append(str(Path(gl.__file__).parent.parent / "benchmarks"))

import bookkeeping  # noqa: E402
import common  # noqa: E402
import everything  # noqa: E402
import growth  # noqa: E402
import soak  # noqa: E402
from memory import peak  # noqa: E402

SIZES = [100, 200, 400, 800, 1600]


def test_a_power_of_the_size_is_a_straight_line():
    seconds = [3 * size**1.5 for size in SIZES]
    assert growth.slope(SIZES, seconds) == pytest.approx(1.5)
    assert growth.bend(SIZES, seconds) is None
    assert growth.bend(SIZES[:2], seconds[:2]) is None


@pytest.mark.parametrize("corner", [200, 400, 800])
def test_a_bend_is_found_where_it_is(corner):
    seconds = [max(1.0, size / corner) ** 2 for size in SIZES]
    assert growth.bend(SIZES, seconds) == (corner, pytest.approx(0, abs=1e-9), pytest.approx(2))


def test_the_peak_is_what_a_call_holds_and_not_what_it_returns():
    assert peak(lambda: np.ones(2**23).sum()) == pytest.approx(64, abs=8)
    assert peak(lambda: None) < 8


def test_the_page_of_growth_holds_every_point(tmp_path):
    points = [growth.Point("image tokens", "discovery", size, size / 100, 5.0) for size in SIZES]
    points += [growth.Point("strips", "judging", 10, 0.25)]
    results = {"machine": common.machine(), "command": "python growth.py", "size": "small", "rounds": 2}
    growth.write_page({**results, "points": [vars(point) for point in points]}, tmp_path / "growth.md")
    page = (tmp_path / "growth.md").read_text()
    assert "| 1,600 | 16 s, 5 MB |" in page
    assert "| discovery | 1.00 |  |" in page
    assert "| 10 | 250 ms |" in page
    assert "10 layers of 12 heads" in page


def test_bookkeeping_is_about_a_run_that_is_complete(shelf):
    model, _ = shelf.get("Qwen3-VL")
    measurements = list(bookkeeping.measure(model, 3))
    assert [(subject, n) for subject, n, _, _ in measurements] == [
        ("resuming a run", 3),
        ("judging", 3),
        ("figures", 3),
    ]


class Benchmark:
    """One row, or, if it is to be interrupted, none."""

    def __init__(self, name):
        self.name, self.broken, self.calls = name, False, 0

    def main(self, size, device, rounds=3):  # noqa: ARG002 (as of a benchmark)
        self.calls += 1
        if self.broken:
            raise KeyboardInterrupt
        return [common.Row(self.name, f"{rounds} rounds", "s", 1.0, 2.5, ratio=2.5, target=3.0)]


@pytest.fixture
def benchmarks(monkeypatch):
    modules = {name: Benchmark(name) for name in everything.SUBJECTS}
    monkeypatch.setattr(everything, "import_module", modules.__getitem__)
    return modules


def test_benchmarks_continue_after_an_interruption(benchmarks, tmp_path, capsys):
    out, about = tmp_path / "bench.json", {"size": "0.1B", "device": "cpu"}
    third = benchmarks[everything.SUBJECTS[2]]
    third.broken = True
    with pytest.raises(KeyboardInterrupt):
        everything.run(everything.SUBJECTS, out, **about)
    assert len(json.loads(out.read_text())["rows"]) == 2
    third.broken = False
    everything.run(everything.SUBJECTS, out, **about)
    assert [each.calls for each in benchmarks.values()] == [1, 1, 2, 1, 1]
    results = json.loads(out.read_text())
    assert [row.subject for row in everything.rows_of(results)] == list(everything.SUBJECTS)
    everything.run(everything.SUBJECTS, out, **about)  # it is complete: this is a new run
    assert third.calls == 3


def test_benchmarks_do_not_continue_with_other_arguments(benchmarks, tmp_path):
    out = tmp_path / "bench.json"
    everything.run(everything.SUBJECTS[:2], out, size="0.1B", device="cpu")
    everything.run(everything.SUBJECTS[:3], out, size="0.1B", device="cpu", rounds=1)
    assert [each.calls for each in benchmarks.values()][:3] == [2, 2, 1]


def test_the_table_of_a_file_names_the_machine_and_the_command(benchmarks, tmp_path):
    everything.run(["discovery"], tmp_path / "bench.json", size="0.1B", device="cpu", rounds=2)
    table = everything.markdown(json.loads((tmp_path / "bench.json").read_text()))
    assert "| discovery | 2 rounds | 1 s | 2.5 s |  | 2.5 | 3 | missed |" in table
    assert "--size 0.1B --device cpu --rounds 2" in table
    assert common.machine()["processor"] in table


def test_what_long_use_leaves_behind_is_found():
    flat = [soak.Round(index, 1000 + index % 3, 6) for index in range(60)]
    assert soak.faults(flat) == []
    growing = [soak.Round(index, 1000 + index, 6) for index in range(300)]
    (fault,) = soak.faults(growing)
    assert fault == "Memory grew from 1049 MB after round 49 to 1299 MB after round 299."
    assert "[6, 7]" in soak.faults([*flat, soak.Round(60, 1000, 7)])[0]


@pytest.mark.slow
def test_long_use_leaves_nothing_behind():
    folder = Path(soak.__file__).parent
    subprocess.run([sys.executable, str(folder / "soak.py"), "--rounds", "120"], check=True, env=one_thread())


def one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1"}
