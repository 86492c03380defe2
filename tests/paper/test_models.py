"""The rows over several models, and what a row says that cannot be run."""

import json
from pathlib import Path

import pandas
import pytest

from gaze_lens import paper
from gaze_lens.errors import GazeLensError, InputError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.paper.model_rows import depth_figures
from gaze_lens.paper.study_figures import read_study

DOCS = Path(__file__).parents[2] / "docs"


def test_depth_is_layer_over_number_of_layers():
    median, second_half = depth_figures(HeadSet(["L0H0", "L3H1", "L5H0"]), 6)
    assert median.value == pytest.approx(3 / 6)
    assert second_half.value == pytest.approx(100 * 2 / 3)


def test_rows_that_cannot_be_run_say_why(reproduced):
    _, found, lines = reproduced
    assert "a training" in found["encoder"].reason
    assert "give --models" in found["tab9"].reason
    assert any(line.startswith("encoder (row 23)") and "impossible here" in line for line in lines)
    assert "impossible here" in paper.markdown(found)


def test_junk_is_the_share_of_answers_that_describe_nothing(reproduced):
    out, found, _ = reproduced
    answers = pandas.read_csv(out / "runs" / "counts" / "answers.csv", keep_default_na=False)
    rows = answers[answers.condition == "gaze 31"]
    figures = {figure.name: figure.value for figure in found["junk"].result.figures}
    assert figures["junk, gaze 500"] == pytest.approx(100 * (rows.match == "").mean())


def test_several_models_are_one_table(tiny_model, strips, tmp_path):
    loaded = []
    found = paper.reproduce(
        tiny_model, ["tab9", "tab2"], **strips, out=tmp_path, draws=1, models=["a", "b"], n_heads=2, progress=False,
        load=lambda name: loaded.append(name) or tiny_model, echo=lambda _line: None,
    )  # fmt: skip
    assert loaded == ["a", "b"], "once for both rows"
    one, other = ({figure.name: figure for figure in found[row].result.figures} for row in ("tab9", "tab2"))
    assert one["a, gaze"] == one["b, gaze"].__class__(**{**vars(one["b, gaze"]), "name": "a, gaze"})
    assert one["a, share of all heads in %"].value == pytest.approx(100 * one["a, heads"].value / 72)
    assert {"a, random", "a, all", "b, median depth"} < set(other)


def test_a_row_that_is_refused_leaves_the_others(tiny_model, strips, reproduced, tmp_path):
    def fails(name):
        raise GazeLensError(f"no {name}")

    lines = []
    with pytest.raises(GazeLensError, match="tab9"):
        paper.reproduce(
            tiny_model, ["tab6", "tab9"], **strips, out=tmp_path, draws=1, models=["a"], n_heads=2, progress=False,
            load=fails, echo=lines.append,
        )  # fmt: skip
    assert (tmp_path / "rows" / "tab6.json").exists()
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "rows" / "tab9.json").exists(), "it is tried again"


def write_run(folder, name, contrast=0.0, peak=0.0, **more):
    """figures.json of a run of the study; best: two heads."""
    steering = {"1": {"forced choice": {"value": 0.01}}, "2": {"forced choice": {"value": peak}}}
    values = {"verdict": {"contrast": contrast}, "best": 2, "steering": steering} | more
    (folder / name).mkdir(parents=True)
    (folder / name / "figures.json").write_text(json.dumps(values))


def test_the_encoder_row_shows_means_over_the_seeds_of_a_study(tiny_model, strips, reproduced, tmp_path):
    study, lines = tmp_path / "study", []
    for name, contrast, peak in (("core-a-0", 0.9, 0.5), ("core-a-1", 0.7, 1.0), ("core-c-0", 0.4, 0.25)):
        write_run(study, name, contrast, peak)
    write_run(study, "pilot-1000-a-100", 0.1, 0.1)
    write_run(study, "core-c-1", diverged="at step 7")
    (tmp_path / "out").mkdir()
    for file in ("scores.safetensors", "heads.json"):
        (tmp_path / "out" / file).write_bytes((reproduced[0] / file).read_bytes())
    options = {"out": tmp_path / "out", "draws": 1, "progress": False, "echo": lines.append}
    found = paper.reproduce(tiny_model, ["encoder"], **strips, study=study, **options)
    result = found["encoder"].result
    values = {figure.name.split(":")[0]: figure.value for figure in result.figures}
    assert values == pytest.approx({
        "largest contrast, a": 0.8, "largest contrast, c": 0.4, "peak steering, a": 0.75, "peak steering, c": 0.25,
    })  # fmt: skip
    assert "a 2, c 1." in result.notes[0]
    assert result.notes[1].startswith("core-c-1 diverged")
    assert "it does; open" in paper.markdown(found)
    with pytest.raises(InputError, match="other study"):
        paper.reproduce(tiny_model, ["encoder"], **strips, resume=True, **options)


def test_the_figures_of_the_study_are_those_of_its_page():
    page = (DOCS / "study.md").read_text()
    for outcome in ("largest contrast", "peak steering"):
        line = next(line for line in page.splitlines() if line.startswith(f"| {outcome} |"))
        shown = [float(cell.split("[")[0]) for cell in line.split("|")[2:-1]]
        means = read_study(DOCS / "study").means(outcome)
        assert [round(means[treatment], 2) for treatment in "acbd"] == pytest.approx(shown, abs=0.006)


def test_a_folder_that_is_no_study_is_refused(run, tmp_path):
    arguments = ["paper", "encoder", "--limit", 1, "--discovery", "synthetic:2", "--choosing", 1, "--study", tmp_path]
    with pytest.raises(InputError, match="no measured run"):
        run(*arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "paper.json").exists()
    with pytest.raises(InputError, match="no measured run"):
        read_study(tmp_path)
    write_run(tmp_path, "core-e-0")
    with pytest.raises(InputError, match="treatments e; expected a, c, b, d"):
        read_study(tmp_path)
    write_run(tmp_path, "core-a-0", best=3)
    with pytest.raises(InputError, match=r"core-a-0.figures.json is no file of a study \(KeyError"):
        read_study(tmp_path)
