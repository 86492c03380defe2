"""Figures of the paper's experiments: what they show is what was measured."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch

import gaze_lens as gl
from gaze_lens import comics
from gaze_lens.errors import HeadError, InputError
from gaze_lens.heads.head_scores import HeadScores
from gaze_lens.patching import QuestionStates
from gaze_lens.tracking import track_maps


@pytest.fixture(scope="module")
def scores():
    samples = torch.rand(4, 5, 6, 3, 3, generator=torch.Generator().manual_seed(0)) / 3
    return HeadScores(samples)


def numbers(plot, path):
    """What `to_csv` wrote: {(name, index): value}."""
    plot.to_csv(path)
    with open(path, encoding="utf-8", newline="") as file:
        return {(row["name"], row["index"]): row["value"] for row in csv.DictReader(file)}


def test_the_histogram_counts_all_heads_and_cuts_at_the_lowest_chosen(scores, tmp_path):
    heads = scores.top(7)
    plot = gl.show.score_histogram(scores, heads, bins=10)
    assert plot.data["counts"].sum() == 30
    assert plot.data["chosen"].sum() == 7
    assert plot.data["cut"] == pytest.approx(min(scores.score[head].item() for head in heads))
    written = numbers(plot, tmp_path / "a.csv")
    assert float(written["cut", ""]) == pytest.approx(plot.data["cut"])
    assert int(written["counts", "3"]) == plot.data["counts"][3]
    assert np.isnan(gl.show.score_histogram(scores).data["cut"])
    with pytest.raises(InputError, match="bins=0"):
        gl.show.score_histogram(scores, bins=0)
    with pytest.raises(HeadError):
        gl.show.score_histogram(scores, ["L9H0"])


def test_tick_labels_are_no_formulas(scores):
    plot = gl.show.score_histogram(scores, scores.top(2))
    assert not any("$" in label.get_text() for label in plot.figure.axes[0].get_yticklabels())


def test_chosen_heads_are_framed(scores):
    heads = [(0, 1), (4, 5)]
    plot = gl.show.chosen_heads(scores, heads, statistic="contrast")
    assert np.argwhere(plot.data["chosen"]).tolist() == [[0, 1], [4, 5]]
    np.testing.assert_allclose(plot.data["values"], scores.contrast)
    (frames,) = plot.figure.axes[0].collections
    assert len(frames.get_segments()) == 2
    with pytest.raises(HeadError):
        gl.show.chosen_heads(scores, ["L0H6"])


def test_heads_per_layer():
    plot = gl.show.heads_per_layer({"a": ["L0H1", "L2H3", "L2H0"], "b": ["L1H1"]}, n_layers=4)
    assert plot.data["counts"].tolist() == [[1, 0, 2, 0], [0, 1, 0, 0]]
    assert plot.data["names"] == ("a", "b")
    with pytest.raises(HeadError, match=r"Heads of layers \[4\] were given for a model of 4 layers"):
        gl.show.heads_per_layer(["L4H0"], n_layers=4)


def test_curves_and_bars_show_the_tables(tmp_path):
    table = pd.DataFrame(
        {"heads": [4, 1, 2], "accuracy": [0.5, 0.2, np.nan], "low": [0.4, 0.1, 0], "high": [0.6, 0.3, 0]}
    )
    plot = gl.show.curves({"gaze": table, "random": table[["heads", "accuracy"]]}, x="heads", log=True, chance=0.25)
    assert plot.data["gaze x"].tolist() == [1, 4]
    assert plot.data["gaze y"].tolist() == [0.2, 0.5]
    assert plot.data["gaze high"].tolist() == [0.3, 0.6]
    assert "random low" not in plot.data
    first, second = plot.figure.axes[0].lines[:2]
    assert first.get_ydata().tolist() == second.get_ydata().tolist() == [20, 50]
    assert float(numbers(plot, tmp_path / "c.csv")["gaze y", "1"]) == 0.5

    one = pd.DataFrame({"condition": ["gaze", "all"], "accuracy": [0.9, 0.1], "low": [0.8, 0], "high": [1, 0.2]})
    two = pd.DataFrame({"condition": ["gaze", "random"], "accuracy": [0.7, 0.2]})
    plot = gl.show.bars({"question": one, "narration": two})
    assert plot.data["names"] == ("gaze", "all", "random")
    np.testing.assert_equal(plot.data["y"], [[0.9, 0.1, np.nan], [0.7, np.nan, 0.2]])
    np.testing.assert_equal(plot.data["low"], [[0.8, 0, np.nan], [np.nan] * 3])
    for wrong, message in (
        ({}, "No tables"),
        ({"a": one[["accuracy"]]}, "has no condition"),
        ({"a": one[:0]}, "no row"),
    ):
        with pytest.raises(InputError, match=message):
            gl.show.bars(wrong)
    with pytest.raises(InputError, match="two rows of one condition"):
        gl.show.bars({"a": pd.concat([one, one])})


def test_staircases_share_a_scale(tiny_model):
    strip = comics.synthetic(1, seed=5, panels=3)[0]
    inputs = tiny_model.prepare(strip, comics.NARRATE)
    one, other = (gl.track(tiny_model, inputs, heads, max_new_tokens=8) for heads in (["L1H6"], ["L3H2", "L3H3"]))
    plot = gl.show.staircases({"gaze": one, "random": other})
    assert plot.data["largest"] == pytest.approx(float(one.mean.max()))
    np.testing.assert_array_equal(plot.data["random mass"], other.mean.numpy())
    first, second = (axes.images[0].get_clim() for axes in plot.figure.axes[:2])
    assert first == second == (0, plot.data["largest"])
    weighted = gl.track(tiny_model, inputs, ["L1H6"], weighted=True, max_new_tokens=4)
    for wrong in ({}, {"a": one, "b": weighted}):
        with pytest.raises(InputError):
            gl.show.staircases(wrong)


def test_flips_by_layer():
    table = pd.DataFrame({
        "start": [2, 0], "stop": [4, 1], "flipped": [0.5, 0.0], "low": [0.2, 0], "high": [0.7, 0],
        "difference": [1.0, -3.0], "unsteered": [-4.0, -4.0], "read": [1.0, 1.0], "n": [8, 8],
    })  # fmt: skip
    plot = gl.show.layer_flips(table)
    assert plot.data["layer"].tolist() == [0, 2.5]
    assert plot.data["flipped"].tolist() == [0, 0.5]
    with pytest.raises(InputError, match="is wanted"):
        gl.show.layer_flips(table.drop(columns="low"))


def test_clusters_of_questions():
    generator = torch.Generator().manual_seed(1)
    question = torch.arange(3).repeat(6)
    states = torch.randn(4, 18, 5, generator=generator)
    states[2] += 20 * torch.nn.functional.one_hot(question, 5)
    found = QuestionStates(states, question, (3, 5, 7, 9))
    plot = gl.show.question_clusters(found)
    assert plot.data["silhouette"].argmax() == 2
    assert plot.data["shown"].tolist() == [5, 7, 9]
    np.testing.assert_allclose(plot.data["points"][1], found.plane(7)[["x", "y"]])
    with pytest.raises(InputError, match="give 1 to 4 layers"):
        gl.show.question_clusters(found, layers=[])


def test_maps_of_spans(tiny_model):
    scene = comics.scenes(1, seed=3)[0]
    maps = track_maps(tiny_model, tiny_model.prepare(scene, comics.LIST_THINGS), ["L1H6", "L1H5"], max_new_tokens=20)
    spans = maps.over(maps.phrases(["purple cross", "yellow circle"]))
    plot = gl.show.span_maps(spans)
    assert plot.data["spans"] == ("purple cross", "yellow circle")
    np.testing.assert_array_equal(plot.data["maps"], spans.maps.numpy())
    assert plot.data["boxes"].shape == (plot.data["maps"].shape[1], 4)
    assert "most on object 1" in plot.text
    with pytest.raises(InputError, match="too many for a figure"):
        gl.show.span_maps(maps.over(maps.phrases(["purple"] * 25)))
