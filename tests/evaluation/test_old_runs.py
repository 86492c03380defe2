"""What version 0.1 wrote (`fixtures/make_run.py`): a run with its judgements, and replies of language models."""

import json
import shutil
from pathlib import Path

import pytest

import gaze_lens as gl
from gaze_lens import HeadSet, comics
from gaze_lens.evaluation import Condition, Generations, rejudge
from gaze_lens.evaluation.judges import CaptionMatch, LanguageModelJudge, LikelihoodJudge
from gaze_lens.evaluation.merge import FILE
from gaze_lens.evaluation.records import Record

RUN = Path(__file__).parent / "fixtures" / "run_v01"
HEADS = HeadSet(["L1H6", "L1H11"])
CONDITIONS = [Condition("gaze", HEADS), Condition("elsewhere", HEADS, elsewhere=True), Condition("none")]


@pytest.fixture
def folder(tmp_path):
    """A copy of the folder."""
    return Path(shutil.copytree(RUN, tmp_path / "run"))


@pytest.fixture(scope="module")
def strips():
    return comics.synthetic(2, seed=60, panels=3)


def test_records_are_read_whatever_their_key_for_the_place_steered_to(folder):
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()[1:]]
    old = {tuple(map(tuple, line["aims"])) for line in lines if line["kind"] == "answer"}
    records = Generations.read(folder / FILE).records
    assert len(records) == 18
    assert {record.steered_to and tuple(map(tuple, record.steered_to)) for record in records} == old
    assert len(old) > 1, "some were steered elsewhere"
    for record in records:
        line = record.to_line()
        assert "steered_to" in line
        assert "aims" not in line
        assert Record.from_line(line) == record
    with pytest.warns(DeprecationWarning, match=r"Record\.aims is now called steered_to"):
        assert records[0].aims == records[0].steered_to


def test_a_run_goes_on_where_the_old_version_stopped(folder, tiny_model, strips):
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[: content.rindex(b'{"kind": "answer"') + 20])  # its last answer is torn
    results = gl.evaluate(tiny_model, strips, CONDITIONS, out=folder, resume=True, progress=False)
    assert results.missing == 0
    keys = [record.key for record in Generations.read(RUN / FILE).records]
    assert [record.key for record in results.generations.records] == keys
    assert '"aims"' in (folder / FILE).read_text().splitlines()[-2]
    assert '"steered_to"' in (folder / FILE).read_text().splitlines()[-1]


def test_judgements_of_the_old_version_are_not_made_again_where_that_costs_something(
    folder, tiny_model, strips, monkeypatch
):
    """They do not say which text was judged, and a warning says so."""
    monkeypatch.setattr(LikelihoodJudge, "judge_all", lambda *_, **__: pytest.fail("asked"))
    with pytest.warns(UserWarning, match="18 judgements are of version 0.1, which did not store which text was judged"):
        results = rejudge(folder, LikelihoodJudge(tiny_model), pictures=strips, progress=False)
    assert results.accuracy("gaze").value == 1
    assert results.accuracy("elsewhere").value == 0
    assert results.answers.error.isna().all()


def test_judgements_of_the_old_version_are_made_again_where_that_costs_nothing(folder):
    """They are written down where they differ."""
    stored = next(folder.glob("judgements-captionmatch*"))
    content, right = stored.read_text(), rejudge(folder, CaptionMatch(), progress=False)
    assert stored.read_text() == content
    stored.write_text(content.replace('"correct": true', '"correct": false'))
    wrong, n_right = stored.read_text(), content.count('"correct": true')
    assert n_right > 0
    again = rejudge(folder, CaptionMatch(), progress=False)
    assert again.judgements == right.judgements
    added = stored.read_text().removeprefix(wrong)
    assert added.count('"correct": true') == len(added.splitlines()) == n_right
    rejudge(folder, CaptionMatch(), progress=False)
    assert stored.read_text() == wrong + added, "now they say which text they are of"


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_replies_that_the_old_version_stored_are_not_asked_for_again(folder, provider, monkeypatch):
    for name in ("ANTHROPIC_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "a-key-that-nobody-may-see")
    judge = LanguageModelJudge(provider, model="some-model", cache=folder / "replies.sqlite", workers=1)
    monkeypatch.setattr(judge.provider, "send", lambda _body: pytest.fail("asked again"))
    before = {path.name for path in folder.iterdir()}
    with pytest.warns(UserWarning, match="version 0.1"):
        stored = rejudge(folder, judge, progress=False)
    for path in folder.glob("judgements-languagemodel*"):
        path.unlink()
    again = rejudge(folder, judge, progress=False)
    assert again.judgements == stored.judgements
    assert again.answers.match.unique().tolist() == ["panel 2"]
    after = {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
    assert after < before, "judgements have the names of files that they had"
