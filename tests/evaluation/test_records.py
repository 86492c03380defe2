"""Records: lines are complete whatever happens to the process that writes them, and a run can be resumed."""

import json
import multiprocessing
import random
import time

import pytest

from gaze_lens import HeadSet, comics
from gaze_lens.errors import InputError
from gaze_lens.evaluation import Condition, Generations, generate_answers, question
from gaze_lens.runs.journal import Journal, header, read

RUN = {"model": "m", "seed": 3}
CONDITIONS = [Condition("gaze", HeadSet(["L2H0", "L1H4"])), Condition("none")]
FORK = multiprocessing.get_context("fork")


def test_lines_come_back_as_they_were(tmp_path):
    path = tmp_path / "a" / "lines.jsonl"
    journal = Journal.open(path, header("lines", RUN))
    written = journal.append([{"text": 'ä "quoted"\nline \u2028', "numbers": (1, 2.5, None)}])
    journal.append([{"n": 2}])
    assert written == [{"text": 'ä "quoted"\nline \u2028', "numbers": [1, 2.5, None]}]
    assert read(path, kind="lines", run=RUN) == (RUN, [*written, {"n": 2}])
    assert [json.loads(line) for line in path.read_text().split("\n")[1:-1]] == [*written, {"n": 2}]
    again = Journal.open(path, header("lines", RUN), resume=True)
    assert again.lines == [*written, {"n": 2}]


def test_a_run_is_not_overwritten_and_another_run_is_refused(tmp_path):
    path = tmp_path / "lines.jsonl"
    Journal.open(path, header("lines", RUN)).append([{"n": 1}])
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"lines.jsonl is there already; resume it \(resume=True, --resume\)"):
        Journal.open(path, header("lines", RUN))
    for resume in (True, False):
        with pytest.raises(InputError, match="holds a run with other seed; choose another folder"):
            Journal.open(path, header("lines", {**RUN, "seed": 4}), resume=resume)
    with pytest.raises(InputError, match="holds no judgements: expected a file whose first line has format"):
        Journal.open(path, header("judgements", RUN), resume=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no json\n", b"something without an end of line", b"[1]\n", b"\xff\n"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="lines.jsonl"):
        Journal.open(path, header("lines", RUN), resume=True)
    assert path.read_bytes() == content


def test_wherever_a_file_was_cut_it_can_be_gone_on_with(tmp_path):
    path, lines = tmp_path / "lines.jsonl", [{"n": n, "text": "ä" * n} for n in range(4)]
    journal = Journal.open(path, header("lines", RUN))
    journal.append(lines)
    content = path.read_bytes()
    ends = [n for n in range(len(content)) if content[n : n + 1] == b"\n"]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        journal = Journal.open(path, header("lines", RUN), resume=True)
        there = max(0, sum(end < cut for end in ends) - 1)
        assert journal.lines == lines[:there], cut
        journal.append(lines[there:])
        assert path.read_bytes() == content


def grow(path):
    """Add numbered lines, some of them long, until killed."""
    journal = Journal.open(path, header("lines", RUN), resume=True)
    number = len(journal.lines)
    while True:
        journal.append([{"n": n, "text": "x" * (n * 7919 % 300_000)} for n in range(number, number + 3)])
        number += 3


def killed_when(process, grown, patience=120):
    """Start a process and kill it, by SIGKILL, as soon as something is so."""
    process.start()
    limit = time.monotonic() + patience
    while process.is_alive() and not grown() and time.monotonic() < limit:
        time.sleep(0.0005)
    process.kill()
    process.join()
    return process.exitcode


def test_a_process_that_is_killed_leaves_lines_that_can_be_read(tmp_path):
    path, rng = tmp_path / "lines.jsonl", random.Random(0)
    for _ in range(25):
        size = path.stat().st_size if path.exists() else 0
        more = size + rng.randrange(1, 1_500_000)
        process = FORK.Process(target=grow, args=(path,))
        assert killed_when(process, lambda more=more: path.exists() and path.stat().st_size > more) == -9
        _, lines = read(path, kind="lines", run=RUN)
        assert [line["n"] for line in lines] == list(range(len(lines)))
        assert all(len(line["text"]) == line["n"] * 7919 % 300_000 for line in lines)
    assert len(lines) > 25


def answer(model, path, **options):
    strips = comics.synthetic(3, seed=70, panels=3)
    return generate_answers(
        model, strips, CONDITIONS, protocol=question(), path=path, batch_size=2, progress=False, **options
    )


def comparable(path):
    _, lines = read(path, kind="generations")
    return sorted(json.dumps(line, sort_keys=True) for line in lines)


@pytest.fixture(scope="module")
def complete(tiny_model, tmp_path_factory):
    """The file of a run that nobody disturbed."""
    path = tmp_path_factory.mktemp("complete") / "generations.jsonl"
    answer(tiny_model, path)
    return path


def test_a_run_that_is_killed_goes_on_and_says_the_same(tiny_model, tmp_path, complete):
    path, size, rng = tmp_path / "generations.jsonl", complete.stat().st_size, random.Random(1)
    moments = sorted(rng.randrange(1, size - 200) for _ in range(4))
    records = []
    for moment in moments:
        process = FORK.Process(target=answer, args=(tiny_model, path), kwargs={"resume": True})
        assert killed_when(process, lambda moment=moment: path.exists() and path.stat().st_size >= moment) == -9
        before, records = records, Generations.read(path).records
        assert records[: len(before)] == before, "what was written stays"
    assert 0 < len(records) < 18
    generations = answer(tiny_model, path, resume=True)
    assert len(generations.records) == len({record.key for record in generations.records}) == 18
    assert comparable(path) == comparable(complete)


def test_what_is_done_is_not_done_again(tiny_model, tmp_path, complete, monkeypatch):
    path = tmp_path / "generations.jsonl"
    lines = complete.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # all but the last answer
    real, asked = type(tiny_model).generate, []
    monkeypatch.setattr(type(tiny_model), "generate", lambda model, inputs, **o: asked.append(inputs.n_rows) or real(
        model, inputs, **o))  # fmt: skip
    answer(tiny_model, path, resume=True)
    assert asked == [1]
    assert path.read_bytes() == complete.read_bytes()
    asked.clear()
    answer(tiny_model, path, resume=True)
    assert not asked


def test_other_weights_pictures_heads_seeds_and_questions_are_other_runs(tiny_model, shelf, complete):
    strips = comics.synthetic(3, seed=70, panels=3)
    fewer = [Condition("gaze", HeadSet(["L2H0"])), CONDITIONS[1]]

    def refused(what, *, model=tiny_model, pictures=strips, conditions=CONDITIONS, protocol=None, **options):
        with pytest.raises(InputError, match=f"holds a run with other {what}; choose another folder"):
            generate_answers(
                model, pictures, conditions, protocol=protocol or question(), path=complete, resume=True, **options
            )

    refused("pictures_digest", pictures=comics.synthetic(3, seed=71, panels=3))
    refused("pictures, pictures_digest", pictures=strips[:2])
    refused("conditions", conditions=fewer)
    refused("protocol", protocol=question("What is this?"))
    refused("seed", seed=1)
    refused("architecture, model, weights", model=shelf.get("Qwen3-VL")[0])
    weight = tiny_model.original_model.model.language_model.norm.weight
    try:
        weight.data[0] += 1
        refused("weights")
    finally:
        weight.data[0] -= 1


def test_shards_are_parts_of_the_complete_run(tiny_model, tmp_path, complete):
    for index in range(2):
        answer(tiny_model, tmp_path / f"{index}.jsonl", shard=(index, 2))
    parts = [Generations.read(tmp_path / f"{index}.jsonl") for index in range(2)]
    assert [list(part.pictures) for part in parts] == [["0", "2"], ["1"]]
    texts = {record.key: record.text for part in parts for record in part.records}
    assert texts == {record.key: record.text for record in Generations.read(complete).records}
    with pytest.raises(InputError, match=r"shard=\(2, 2\) was given"):
        answer(tiny_model, None, shard=(2, 2))
