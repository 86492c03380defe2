"""Nothing that an evaluation returns is silently wrong: stale judgements, failed answers, two writers, losses."""

import json
import shutil
import traceback
from functools import partial

import pytest
import torch
from processes import on_ranks

import gaze_lens as gl
from gaze_lens import HeadSet, Picture, comics
from gaze_lens.data import Pictures
from gaze_lens.errors import ImageError, InputError, ModelError
from gaze_lens.evaluation import Condition, Generations, dynamic_narration, generate_answers, judges, question, rejudge
from gaze_lens.evaluation.merge import FILE, file_of, merge_generations
from gaze_lens.evaluation.runner import merge
from gaze_lens.runs.locks import one_writer

GAZE = HeadSet(["L1H6", "L1H11"])
CONDITIONS = [Condition("gaze", GAZE), Condition("none")]
PROTOCOL = question(max_new_tokens=12)


@pytest.fixture(scope="module")
def strips():
    return comics.synthetic(3, seed=60, panels=2)


@pytest.fixture(scope="module")
def complete(tiny_model, strips, tmp_path_factory):
    """The folder of a run."""
    out = tmp_path_factory.mktemp("complete")
    evaluated(tiny_model, strips, out)
    return out


@pytest.fixture
def folder(complete, tmp_path):
    """A copy of it."""
    return shutil.copytree(complete, tmp_path / "run")


def evaluated(model, pictures, out=None, **options):
    options = {"protocol": PROTOCOL, "progress": False, **options}
    return gl.evaluate(model, pictures, CONDITIONS, out=out, **options)


def lazy(pictures, left_out=None, **broken):
    """Pictures that are read late; broken: name -> the error. The tests' type checker may read one, too."""

    def read(name):
        by_checker = any("beartype" in frame.f_code.co_filename for frame, _ in traceback.walk_stack(None))
        if name in broken and not by_checker:
            raise ImageError(broken[name])
        return pictures[name]

    return Pictures({name: partial(read, name) for name in pictures}, source="here", left_out=left_out)


# Stale judgements


def rewritten(folder, change):
    """Change the lines of the answers, as a run that was made again does."""
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    (folder / FILE).write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


class Counting(judges.CaptionMatch):
    """Counts what it is asked."""

    asked = 0

    def judge(self, description):
        type(self).asked += 1
        return super().judge(description)


def test_an_answer_that_was_made_again_is_judged_again(folder, complete):
    def spoil(line):
        is_spoiled = line.get("kind") == "answer" and line["condition"] == "gaze"
        return {**line, "text": "", "pieces": [""]} if is_spoiled else line

    right = rejudge(complete, progress=False)
    for path in folder.glob("judgements*"):
        path.unlink()
    good = (folder / FILE).read_bytes()
    rewritten(folder, spoil)
    assert rejudge(folder, progress=False).accuracy("gaze").value == 0
    (folder / FILE).write_bytes(good)
    Counting.asked = 0
    repaired = rejudge(folder, Counting(), progress=False)
    assert (repaired.judgements, Counting.asked) == (right.judgements, 12)
    assert rejudge(folder, progress=False).judgements == right.judgements
    assert rejudge(folder, progress=False).accuracy("gaze").value == right.accuracy("gaze").value > 0
    rejudge(folder, Counting(), progress=False)
    assert Counting.asked == 12, "what was judged is not judged again"


def test_other_captions_are_judged_again(folder):
    def swap(line):
        if line.get("kind") != "picture":
            return line
        return {**line, "captions": dict(zip(line["captions"], reversed(line["captions"].values()), strict=True))}

    before = rejudge(folder, progress=False).accuracy("gaze").value
    rewritten(folder, swap)
    assert rejudge(folder, progress=False).accuracy("gaze").value == pytest.approx(1 - before) != before


class Short(judges.Judge):
    def judge_all(self, descriptions, **_):
        return [judges.Judgement(None, correct=False)] * (len(descriptions) - 1)


def test_a_judge_that_leaves_one_out_is_refused(folder, strips):
    with pytest.raises(InputError, match="Short returned 11 judgements of 12 texts, expected one for each"):
        rejudge(folder, Short(), pictures=strips, progress=False)


# Answers that are no answers


def spoil_row(monkeypatch, model, spoiled):
    """Let the logits be NaN in the rows for which `spoiled(prompt, row)`."""
    real = type(model).generate

    def generate(self, inputs, *, fwd_hooks=(), **options):
        rows = [row for row in range(inputs.n_rows) if spoiled(inputs, row)]

        def hook(logits, hook):
            logits = logits.clone()
            logits[rows, -1] = torch.nan
            return logits

        return real(self, inputs, fwd_hooks=[*fwd_hooks, ("unembed.hook_out", hook)], **options)

    monkeypatch.setattr(type(model), "generate", generate)


@pytest.mark.parametrize(
    "protocol",
    [PROTOCOL, dynamic_narration(end=".", max_new_tokens=30, where=("prefill", "decode"))],
    ids=lambda p: p.name,
)
def test_answers_whose_logits_are_no_numbers_are_counted_apart_and_tried_again(
    tiny_model, strips, tmp_path, monkeypatch, protocol
):
    expected = evaluated(tiny_model, strips, protocol=protocol)
    with monkeypatch.context() as patched:
        spoil_row(patched, tiny_model, lambda inputs, row: row == inputs.n_rows - 1)
        results = evaluated(tiny_model, strips, tmp_path, protocol=protocol)
    failed = results.generations.failed
    assert [record.condition for record in failed] == ["gaze"] * 3, "the first of each picture"
    kept = [record for record in results.generations.records if not record.failed]
    assert kept == [r for r in expected.generations.records if r.key not in {record.key for record in failed}]
    table = results.table().set_index("condition")
    n_failed = 3 * len(failed[0].targets)
    assert table.failed.to_dict() == {"gaze": n_failed, "none": 0}
    assert table.n["gaze"] == expected.table().n[0] - n_failed
    assert results.missing == 0
    line = f"Failed: 0, gaze, {', '.join(failed[0].targets)}: the logits are NaN or infinite at step 0"
    assert line in str(results)
    assert f"; {n_failed} failed" in str(results)
    assert line in (tmp_path / "report.html").read_text()
    figures = json.loads((tmp_path / "results.json").read_text())
    assert figures["failed answers"][0]["failed"] == "the logits are NaN or infinite at step 0"
    assert [row["failed"] for row in figures["conditions"]] == [n_failed, 0]
    assert "failed" not in expected.table()
    again = evaluated(tiny_model, strips, tmp_path, protocol=protocol, resume=True)
    assert again.generations.records == expected.generations.records
    assert str(again) == str(expected)


def test_a_weight_that_is_no_number_is_an_error_of_every_answer(tiny_model, strips):
    weight = tiny_model.original_model.model.language_model.norm.weight
    before = weight.data[0].item()
    try:
        weight.data[0] = torch.inf
        results = evaluated(tiny_model, strips)
        with pytest.raises(ModelError, match="NaN or infinite"), pytest.warns(match="asking"):
            gl.evaluation.ask_every_panel(tiny_model, strips[:1], progress=False)
    finally:
        weight.data[0] = before
    assert results.table().failed.tolist() == [6, 6]
    assert results.accuracy("gaze") is None
    assert "not judged; 6 failed" in str(results)


# One writer


def test_two_processes_do_not_write_into_one_folder(tiny_model, strips, folder):
    with one_writer(folder / FILE):
        for resume in (True, False):
            with pytest.raises(InputError, match="is being written by another process"):
                evaluated(tiny_model, strips, folder, resume=resume)
        with pytest.raises(InputError, match="is being written by another process"):
            generate_answers(tiny_model, strips, CONDITIONS, protocol=PROTOCOL, path=folder / FILE, resume=True)
    judgements = next(folder.glob("judgements*.jsonl"))
    with one_writer(judgements), pytest.raises(InputError, match="judgements.* is being written by another process"):
        rejudge(folder, progress=False)
    assert evaluated(tiny_model, strips, folder, resume=True).missing == 0


def doubled(folder):
    """Every line twice, as two processes leave them."""
    first, *lines = (folder / FILE).read_text().splitlines()
    (folder / FILE).write_text("\n".join([first, *(line for line in lines for _ in range(2))]) + "\n")


def test_answers_that_are_there_twice_count_once(tiny_model, strips, folder, complete):
    doubled(folder)
    expected = Generations.read(complete / FILE)
    assert Generations.read(folder / FILE).records == expected.records
    results = evaluated(tiny_model, strips, folder, resume=True)
    assert results.table().n.tolist() == [6, 6]
    assert str(results) == str(rejudge(complete, progress=False))


def test_two_different_answers_in_one_place_are_refused(folder):
    lines = (folder / FILE).read_text().splitlines()
    answer = {**json.loads(lines[-1]), "text": "another text"}
    with (folder / FILE).open("a") as file:
        file.write(json.dumps(answer) + "\n")
    with pytest.raises(InputError, match="two different answers about picture '2', condition 'none'"):
        Generations.read(folder / FILE)
    (folder / FILE).write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(InputError, match="An answer about picture '0' comes before its line"):
        rejudge(folder, progress=False)


def test_a_shard_that_was_copied_is_refused(tiny_model, strips, tmp_path):
    options = {"protocol": PROTOCOL, "progress": False}
    one, other = (tmp_path / file_of((n, 2)) for n in range(2))
    generate_answers(tiny_model, strips[:2], CONDITIONS, path=one, shard=(0, 2), **options)
    shutil.copy(one, other)
    with pytest.raises(InputError, match="generations-2-of-2.jsonl holds shard 1/2 of a run, expected 2/2"):
        merge_generations(tmp_path)
    with pytest.raises(InputError, match="holds shard 1/2 of a run, expected 2/2: it was copied or renamed"):
        generate_answers(tiny_model, strips[:2], CONDITIONS, path=other, shard=(1, 2), resume=True, **options)
    for path in (one, other):  # as version 0.1 wrote them
        path.write_text(path.read_text().replace('"shard": "1/2", ', "", 1))
    with pytest.raises(InputError, match="has picture '0' in shard 1/2 and in shard 2/2, expected each in one"):
        merge_generations(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_finished_picture_that_has_vanished_does_not_block_the_others(tiny_model, strips, tmp_path):
    pictures = dict(zip("abc", strips, strict=True))
    evaluated(tiny_model, lazy({name: pictures[name] for name in "abc"}, c="no image"), tmp_path)
    with pytest.warns(UserWarning, match="answers about 'a' are kept, and its picture cannot be compared.*gone"):
        results = evaluated(tiny_model, lazy(pictures, a="gone"), tmp_path, resume=True)
    assert results.missing == 0
    assert results.table().n.tolist() == [6, 6]
    assert results.left_out == {}
    with pytest.raises(InputError, match="another picture of the name 'b'"), pytest.warns(UserWarning, match="'a'"):
        evaluated(tiny_model, lazy({**pictures, "b": strips[0]}, a="gone"), tmp_path, resume=True)
    looking = judges.LikelihoodJudge(tiny_model)
    judged = rejudge(tmp_path, looking, pictures=lazy(pictures, a="gone"), progress=False)
    assert judged.table().errors.tolist() == [2, 2]
    assert "gone" in judged.answers.error.dropna().iloc[0]


def test_a_run_of_other_weights_is_refused_whichever_of_them_differs(tiny_model, strips, folder):
    weight = tiny_model.original_model.model.language_model.layers[3].mlp.up_proj.weight
    try:
        weight.data.view(-1)[1] += 0.5  # between the samples that version 0.1 compared
        with pytest.raises(InputError, match="holds a run with other weights"):
            evaluated(tiny_model, strips, folder, resume=True)
    finally:
        weight.data.view(-1)[1] -= 0.5


# Losses


def test_what_is_left_out_is_named_with_its_reason(tiny_model, strips, tmp_path):
    def pictures():
        named = dict(zip("abc", strips, strict=True))
        return lazy(named, {"an image is missing": ("x", "y")}, b="no image at all")

    results = evaluated(tiny_model, pictures(), tmp_path / "one")
    reason = "Picture 'b' of here cannot be used: no image at all"
    assert results.left_out == {"x": "an image is missing", "y": "an image is missing", "b": reason}
    lines = ["Left out: an image is missing (2): x, y", f"Left out: {reason} (1): b"]
    page = (tmp_path / "one" / "report.html").read_text()
    for line in lines:
        assert line in str(results).splitlines()
        assert line.replace("'", "&#39;") in page
    assert json.loads((tmp_path / "one" / "results.json").read_text())["skipped pictures"] == results.left_out
    assert results.missing == 0
    before = (tmp_path / "one" / FILE).read_bytes()
    assert str(evaluated(tiny_model, pictures(), tmp_path / "one", resume=True)) == str(results)
    assert rejudge(tmp_path / "one", progress=False).left_out == results.left_out
    assert before in (tmp_path / "one" / FILE).read_bytes()
    for shard in ((0, 2), (1, 2)):
        path = tmp_path / "jobs" / file_of(shard)
        generate_answers(tiny_model, pictures(), CONDITIONS, protocol=PROTOCOL, path=path, shard=shard, progress=False)
    assert merge(tmp_path / "jobs").left_out == results.left_out
    assert (tmp_path / "jobs" / FILE).read_bytes() == before
    work = lambda rank: str(evaluated(tiny_model, pictures(), tmp_path / "ranks"))  # noqa: E731
    assert on_ranks(work, tmp_path) == [str(results)] * 2


def test_pictures_that_the_heads_were_chosen_on_are_warned_of(tiny_model, strips, tmp_path):
    scores = gl.score_heads(tiny_model, comics.synthetic(2, seed=60, panels=2), progress=False)
    scores.top(2).save(tmp_path / "heads.json")
    heads = HeadSet.load(tmp_path / "heads.json") | HeadSet(["L0H0"])
    other_regions = Picture(strips[0].image, dict(reversed(strips[0].regions.items())), strips[0].captions)
    options = {"protocol": PROTOCOL, "progress": False, "out": tmp_path / "out"}
    pictures = [other_regions, *strips[1:]]
    message = "2 of the 3 pictures are among those that the heads were chosen on"
    with pytest.warns(UserWarning, match=message):
        results = gl.evaluate(tiny_model, pictures, [Condition("gaze", heads)], **options)
    assert f"Warning: {message}" in str(results)
    assert message in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["chosen on"] == ["0", "1"]
    assert message in str(rejudge(tmp_path / "out", progress=False))
    fresh = gl.evaluate(tiny_model, strips[2:], [Condition("gaze", heads)], protocol=PROTOCOL, progress=False)
    assert "chosen" not in str(fresh)
