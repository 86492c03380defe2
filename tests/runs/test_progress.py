"""Progress in a log is whole lines; on a terminal it is tqdm's bar."""

import sys
from io import StringIO

import pytest

import gaze_lens as gl
from gaze_lens.runs.progress import SECONDS, Bar


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log(monkeypatch, capsys):
    """Reads what went to the log."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    return lambda: capsys.readouterr().err


def test_a_stage_is_one_line_of_a_log(log):
    for _ in Bar(range(500), "answers: gaze, random"):
        pass
    with Bar(total=3, desc="strips", initial=1) as bar:
        bar.set_postfix(answers=12, refresh=False)
        bar.update(2)
    written = log()
    lines = written.splitlines()
    assert lines[0].startswith("answers: gaze, random: 500 of 500 in 00:0")
    assert lines[1].startswith("strips: 3 of 3 in 00:0")
    assert lines[1].endswith("answers=12")
    assert len(lines) == 2
    assert "\r" not in written


def test_long_work_has_a_line_a_minute(log):
    clock = [0.0]
    bar = Bar(total=10, desc="strips")
    bar._time = lambda: clock[0]
    bar.start_t = bar.last_print_t = 0.0
    for _ in range(10):
        clock[0] += 0.6 * SECONDS
        bar.update()
    bar.close()
    assert [line.split(" in ")[0] for line in log().splitlines()] == [f"strips: {n} of 10" for n in (2, 4, 6, 8, 10)]


def test_a_bar_that_is_switched_off_says_nothing(log):
    for _ in Bar(range(3), "strips", disable=True):
        pass
    assert log() == ""


def test_on_a_terminal_it_is_tqdms_bar(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in Bar(range(3), "strips"):
        pass
    assert "\r" in stream.getvalue()
    assert "3/3" in stream.getvalue()


def test_an_evaluation_is_two_lines_of_a_log_one_with_its_conditions(tiny_model, log):
    conditions = [gl.evaluation.Condition("gaze", gl.HeadSet(["L1H6"])), gl.evaluation.Condition("none")]
    gl.evaluate(tiny_model, gl.comics.synthetic(3, seed=0, panels=2), conditions)
    lines = [line for line in log().splitlines() if " of " in line]
    assert [line.split(" in ")[0] for line in lines] == ["pictures (gaze, none): 3 of 3", "judging: 12 of 12"]
    assert lines[0].endswith("answers=12")
