"""Disks that are full, folders that are files, and files that may not be written: the library's own error."""

import errno
import os
from pathlib import Path

import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import InputError
from gaze_lens.evaluation.judges.reply_cache import ReplyCache
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.runs.files import write_whole
from gaze_lens.runs.journal import Journal, header
from gaze_lens.runs.locks import one_writer

SCORES = HeadScores(torch.full((1, 1, 1, 2, 2), 0.5))


def lock(path):
    with one_writer(path):
        pass


WRITERS = {
    "heads": lambda path: gl.HeadSet(["L1H0"]).save(path),
    "scores": SCORES.save,
    "a table": SCORES.to_csv,
    "a ranking": SCORES.save_ranking,
    "a direction": gl.Direction(torch.ones(1, 4), (1,)).save,
    "a journal": lambda path: Journal.open(path, header("things", {})),
    "a lock": lock,
    "replies": ReplyCache,
    "a figure": lambda path: gl.show.scores(SCORES).save(f"{path}.png"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_folder_that_is_a_file_is_named(tmp_path, write):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(
        InputError, match=r"out.name.* cannot be written \((File exists|Not a directory)\): expected a folder"
    ):
        write(tmp_path / "out" / "name")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_is_full_or_read_only_is_named(tmp_path, monkeypatch, number):
    (tmp_path / "old.json").write_text("as it was")

    def fail(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    journal = Journal.open(tmp_path / "things.jsonl", header("things", {}))
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=rf"old.json cannot be written \({os.strerror(number)}\)"):
        write_whole(tmp_path / "old.json", b"new")
    with pytest.raises(InputError, match=rf"other.jsonl cannot be written \({os.strerror(number)}\)"):
        Journal.open(tmp_path / "other.jsonl", header("things", {}))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match=rf"things.jsonl cannot be written \({os.strerror(number)}\)"):
        journal.append([{"row": 1}])
    assert (tmp_path / "old.json").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.json", "things.jsonl"]
