"""The rows over several models, and what a row says that cannot be run."""

import pandas
import pytest

from gaze_lens import paper
from gaze_lens.errors import GazeLensError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.paper.model_rows import depth_figures


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
