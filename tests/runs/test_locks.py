"""One writer at a time, whoever dies on the way; and a file that changes or vanishes under its writer."""

import os
import signal

import pytest
from processes import FORK, LIMIT

from gaze_lens.errors import InputError
from gaze_lens.runs.journal import Journal, header, read
from gaze_lens.runs.locks import one_writer

RUN = {"seed": 3}


def in_another_process(work):
    """The exit code of a process that calls a function: 0, 1 for an InputError, or minus a signal."""

    def called():
        try:
            work()
        except InputError:
            os._exit(1)

    process = FORK.Process(target=called)
    process.start()
    process.join(LIMIT)
    return process.exitcode


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    path = tmp_path / "out" / "lines.jsonl"

    def write():
        with one_writer(path):
            pass

    with one_writer(path):
        assert in_another_process(write) == 1
        with pytest.raises(InputError, match=r"lines\.jsonl is being written by another process.*--shard i/n"):
            write()
        with one_writer(tmp_path / "out" / "others.jsonl"), one_writer(None):
            pass
    assert in_another_process(write) == 0
    write()


def test_the_lock_of_a_dead_process_blocks_nobody(tmp_path):
    path = tmp_path / "lines.jsonl"

    def die():
        with one_writer(path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_another_process(die) == -signal.SIGKILL
    assert [one.name for one in tmp_path.iterdir()] == [".lines.jsonl.lock"]
    with one_writer(path):
        pass


def test_an_error_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), one_writer(tmp_path / "a"):
        raise KeyError
    with one_writer(tmp_path / "a"):
        pass


def test_a_file_that_vanishes_is_an_error_at_the_next_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    journal = Journal.open(path, header("lines", RUN))
    journal.append([{"n": 1}])
    path.unlink()
    with pytest.raises(InputError, match=r"lines\.jsonl has vanished while it was written"):
        journal.append([{"n": 2}])
    assert not path.exists()


def test_lines_of_somebody_else_are_an_error_at_the_next_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    first = Journal.open(path, header("lines", RUN))
    second = Journal.open(path, header("lines", RUN), resume=True)
    second.append([{"n": 1}])
    with pytest.raises(InputError, match="was changed by something else while it was written"):
        first.append([{"n": 1}])
    second.append([{"n": 2}])
    assert read(path, kind="lines")[1] == [{"n": 1}, {"n": 2}]


def test_a_shard_is_known_by_its_header(tmp_path):
    path = tmp_path / "lines.jsonl"
    Journal.open(path, header("lines", RUN, shard=(0, 2))).append([{"n": 1}])
    assert read(path, kind="lines", run=RUN, shard=(0, 2)) == read(path, kind="lines") == (RUN, [{"n": 1}])
    for shard in ((1, 2), (0, 1)):
        with pytest.raises(InputError, match=r"holds shard 1/2 of a run, expected .*: it was copied or renamed"):
            read(path, kind="lines", run=RUN, shard=shard)
        with pytest.raises(InputError, match="it was copied or renamed"):
            Journal.open(path, header("lines", RUN, shard=shard), resume=True)
    old = tmp_path / "old.jsonl"
    old.write_text('{"format": "gaze_lens lines 1", "run": {"seed": 3}}\n')
    assert read(old, kind="lines", run=RUN, shard=(1, 2)) == (RUN, []), "version 0.1 wrote no shard"
