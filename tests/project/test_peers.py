"""`make peers`: how outcomes are compared and explained, and what it says without a network."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gaze_lens as gl

PEERS = Path(gl.__file__).parent.parent / "benchmarks" / "peers"
sys.path.append(str(PEERS))

from comparison import compare, page, summary  # noqa: E402
from explanations import REASONS, reason_of  # noqa: E402


def outcome(outcome, error=""):
    return {"outcome": outcome, "error": error}


PLAIN = {"a": outcome("passed"), "b": outcome("failed", "x"), "c": outcome("passed"), "d": outcome("skipped")}
OURS = {**PLAIN, "b": outcome("passed"), "c": outcome("failed", "gaze_lens.errors.InputError: a | new one")}
IMAGE = {
    "a": outcome("failed", "builtins.AssertionError: 1 == 2"),
    "b": outcome("failed", "y"),
    "d": outcome("skipped"),
}


def test_only_what_the_plain_bridge_passes_can_fail_with_ours_alone():
    compared = compare(PLAIN, OURS, IMAGE)
    alone = [(row.kind, row.test, row.reason) for row in compared.alone]
    assert alone == [("ours", "c", "refused: a / new one"), ("image", "a", None), ("image", "c", None)]
    assert compared.counts["ours"] == Counter(passed=2, skipped=1, **{"fails with ours alone": 1})
    assert compared.counts["image"]["fails with the plain bridge too"] == 1
    lines = summary(compared).splitlines()
    assert lines[-1] == "2 failures with ours alone are not explained."
    assert "unexplained, image: a" in lines
    text = page(compared, "4.3.0")
    assert "| ours, text | 2 | 1 | 1 |" in text
    assert "| not explained | 0 | 2 | `a` |" in text


def test_what_a_limit_on_time_left_out_is_told():
    plain = {**PLAIN, "late": outcome("not begun"), "long": outcome("stopped", "took more than 20 s")}
    compared = compare(plain, {**OURS, "a": outcome("not begun")}, PLAIN)
    expected = [
        "with plain, time was up before 1 tests",
        "with plain, 1 tests were stopped, as they took too long",
        "with ours, time was up before 1 tests",
    ]
    assert compared.cut_short == expected
    assert all(f"Not whole: {line}." in summary(compared) for line in expected)
    assert f"**Not whole:** {'; '.join(expected)}." in page(compared, "4.3.0")
    assert "These are 5 tests" in page(compared, "4.3.0")
    assert [row.test for row in compared.alone] == ["c"]
    assert compare(PLAIN, OURS, IMAGE).cut_short == []


def test_a_reason_is_found_by_test_or_error():
    assert reason_of("ours", "tests/x.py::test_y", "builtins.AssertionError: 1 == 2") is None
    assert (
        reason_of("ours", "t", "gaze_lens.errors.InputError: start_at_layer loses image")
        == dict(REASONS)["start_at_layer loses"]
    )
    assert all(reason and "|" not in reason for _, reason in REASONS)


def test_without_a_package_index_it_says_so_in_one_line():
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, PEERS / "run.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.startswith("make peers downloads the source of transformer-lens")
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")
