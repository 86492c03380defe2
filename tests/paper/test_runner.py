"""The command and `gl.paper.reproduce`: rows, files, resuming, shards."""

import json

import pytest

from gaze_lens import comics, paper
from gaze_lens.errors import InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.paper.row import Cost, Figure, answers


def test_rows_are_found_by_every_name_and_are_in_the_tables_order():
    assert [row.name for row in paper.rows_named(["8", "fig15"])] == ["fig2a", "fig3a"]
    assert paper.rows_named() == list(paper.ROWS)
    numbers = [row.number for row in paper.ROWS]
    assert numbers == sorted(set(numbers))
    with pytest.raises(InputError, match="Rows fig99 were asked for"):
        paper.rows_named(["fig3a", "fig99"])
    with pytest.raises(InputError, match="give a list"):
        paper.rows_named("fig3a")


def test_every_row_is_written_and_announced(reproduced):
    out, found, lines = reproduced
    assert {path.stem for path in (out / "rows").iterdir()} == set(found)
    for row in paper.rows_named(list(found)):
        announced = "impossible here" if found[row.name].result is None else "forwards"
        assert any(line.startswith(f"{row.name} (row {row.number})") and announced in line for line in lines)
    assert (out / "report.html").read_text().count("<h2>") == len(found)


def test_a_rate_over_fewer_than_six_strips_is_too_few(reproduced):
    out, found, _ = reproduced
    (gaze, *_) = found["fig3a"].result.figures
    assert (gaze.n_strips, gaze.shown(), gaze.interval()) == (1, "too few", "")
    assert gaze.value > 50  # it is in the file
    assert "too few" in (out / "report.html").read_text()
    assert Figure("gaze", 83.12, 80.0, 86.0, 6, "%").shown() == "83.1"


def test_a_second_call_does_nothing_again_and_another_run_is_refused(reproduced, tiny_model, strips):
    out, found, _ = reproduced
    lines = []
    again = paper.reproduce(
        tiny_model, ["fig3a"], **strips, out=out, draws=1, every=8, resume=True, progress=False, echo=lines.append
    )
    assert again == found
    assert lines == ["fig3a (row 8), Question steering: done already"]
    options = {"out": out, "progress": False, "echo": lines.append}
    with pytest.raises(InputError, match="resume it"):
        paper.reproduce(tiny_model, ["fig3a"], **strips, draws=1, every=8, **options)
    with pytest.raises(InputError, match="other draws"):
        paper.reproduce(tiny_model, ["fig3a"], **strips, draws=2, every=8, resume=True, **options)


def test_heads_json_recommends_the_number_and_knows_all_strips_that_served(reproduced, strips):
    out, _, _ = reproduced
    ranking = HeadSet.load(out / "heads.json")
    assert len(ranking) == 72
    assert 1 <= ranking.provenance["recommended"] < 72
    assert len(ranking.chosen_on) == len(strips["discovery"]) + len(strips["choosing"])


def test_costs_are_prefills_and_steps():
    assert answers(3, 15) == Cost(3, 42)
    assert (Cost(1, 2) + Cost(3, 4)) * 2 == Cost(8, 12)
    assert Cost(3, 42).forwards == 45


def test_shards_give_what_one_process_gives(reproduced, tiny_model, strips, tmp_path):
    out, _, _ = reproduced
    two = {**strips, "strips": comics.synthetic(2, seed=3, panels=3)}
    folders = {"one": [(0, 1)], "two": [(0, 2), (1, 2)]}
    for name, shards in folders.items():
        (tmp_path / name).mkdir()
        for file in ("scores.safetensors", "heads.json"):
            (tmp_path / name / file).write_bytes((out / file).read_bytes())
        for shard in shards:
            paper.reproduce(
                tiny_model, ["fig3a"], **two, out=tmp_path / name, draws=1, shard=shard, resume=True, progress=False,
                echo=lambda _line: None,
            )  # fmt: skip
    one, other = (json.loads((tmp_path / name / "rows" / "fig3a.json").read_text()) for name in folders)
    assert one["result"] == other["result"]
    assert one["result"]["figures"][0]["n_strips"] == 2


def test_a_shard_without_heads_is_refused(tiny_model, strips, tmp_path):
    with pytest.raises(InputError, match="run the row fig2a first"):
        paper.reproduce(tiny_model, ["fig3a"], **strips, out=tmp_path, shard=(0, 2), progress=False)


def test_the_command(run, tmp_path):
    arguments = ["paper", "fig3a", "--limit", 1, "--n-heads", 2, "--discovery", "synthetic:2", "--choosing", 1]
    result = run(*arguments, "--out", tmp_path)
    assert "fig3a (row 8), Question steering: up to" in result.output
    assert "1 rows are done." in result.output
