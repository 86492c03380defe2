"""Journals whose first line is no header, or whose lines are no JSON."""

import json

import pytest

from gaze_lens.errors import InputError
from gaze_lens.runs import journal

RUN = {"seed": 1}
HEADER = journal.header("things", RUN)
FIRST = {
    "a line of a run": {"row": 1},
    "another format": {**HEADER, "format": "gaze_lens things 2"},
    "no format": {"run": RUN},
    "no run": {"format": HEADER["format"]},
    "a run of none": {**HEADER, "run": None},
    "a run as a list": {**HEADER, "run": []},
    "a run as text": {**HEADER, "run": "x"},
}


@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize("run", [RUN, None])
def test_a_journal_without_its_header_is_named(tmp_path, first, run):
    path = tmp_path / "things.jsonl"
    path.write_text(json.dumps(first) + "\n" + json.dumps({"row": 1}) + "\n")
    with pytest.raises(InputError, match=r"things.jsonl has no settings of a run|things.jsonl holds no things"):
        journal.read(path, kind="things", run=run)
    with pytest.raises(InputError, match=r"things.jsonl has no settings of a run|things.jsonl holds no things"):
        journal.Journal.open(path, journal.header("things", run), resume=True)


@pytest.mark.parametrize("line", ["[" * 200_000, "{", "[]", "7", "\udcff"])
def test_lines_that_are_no_json_are_numbered(tmp_path, line):
    path = tmp_path / "things.jsonl"
    content = json.dumps(HEADER) + "\n" + line + "\n"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"Line 2 of .*things.jsonl cannot be read"):
        journal.read(path, kind="things")


def test_a_journal_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "things.jsonl"
    journal.write(path, RUN, [{"row": 1}], kind="things")
    assert journal.read(path, kind="things", run=RUN) == (RUN, [{"row": 1}])
