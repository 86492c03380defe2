"""Figures: the numbers in them against independent ones, what is written on them, and that nothing is left behind."""

import gc
import re
import weakref

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from gaze_lens import Box, HeadScores, HeadSet, Mask, Picture, Polygon, Trajectory, Union, show, steer
from gaze_lens.comics.generator import scenes
from gaze_lens.errors import GazeLensError, HeadError, ImageError, InputError, RegionError
from gaze_lens.model.generation import Generation
from gaze_lens.regions.outlines import outlines
from gaze_lens.show.picture_axes import Sheet
from gaze_lens.show.plot import MASS, SIGNED

LAYERS, HEADS, PANELS = 3, 4, 3


@pytest.fixture
def scores():
    """Five strips; L1H2 looks where it is asked to, L2H0 at the second panel."""
    samples = torch.rand(5, LAYERS, HEADS, PANELS, PANELS, generator=torch.Generator().manual_seed(0)) * 0.1
    samples[:, 1, 2] += 0.6 * torch.eye(PANELS)
    samples[:, 2, 0, :, 1] += 0.5
    return HeadScores(samples, model="someone/some-model")


def trajectory(mass, tokens=None, regions=("left", "right"), weighted=False, seed=0):
    n_steps, n_heads, _ = mass.shape
    tokens = tuple(f" t{i}" for i in range(n_steps)) if tokens is None else tokens
    ids = torch.zeros(1, n_steps).long()
    rest = torch.rand(3, n_steps, n_heads, generator=torch.Generator().manual_seed(seed))
    heads = HeadSet([(0, i) for i in range(n_heads)])
    return Trajectory(mass, *rest, heads, regions, tokens, Generation(("".join(tokens),), ids, ids), weighted)


def written(figure):
    """All text on a figure, and in its axes."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


# --- Plot ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_saved_by_suffix_and_the_same_data_give_the_same_file(scores, tmp_path, suffix, start):
    path = tmp_path / "new" / f"map.{suffix}"
    show.scores(scores).save(path)
    assert path.read_bytes().startswith(start)
    assert list(path.parent.iterdir()) == [path]
    assert show.scores(scores).render(suffix) == path.read_bytes()


def test_a_png_has_160_dots_an_inch_and_is_shown_at_notebook_width(scores):
    plot = show.scores(scores)
    data, about = plot._repr_png_()
    assert data == plot.render()
    assert int.from_bytes(data[16:20], "big") == 9 * 160
    assert about["width"] == 9 * 96


def test_a_file_is_complete_or_not_there(scores, tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError("no space")

    (tmp_path / "map.png").write_bytes(b"before")
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(GazeLensError, match="no space"):
        show.scores(scores).save(tmp_path / "map.png")
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]
    assert (tmp_path / "map.png").read_bytes() == b"before"


@pytest.mark.parametrize("name", ["map.gif", "map", "map.png.txt"])
def test_an_unknown_suffix_is_refused_before_anything_is_written(scores, tmp_path, name):
    with pytest.raises(GazeLensError, match=re.escape("ends in .png, .svg, .pdf")):
        show.scores(scores).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_pyplot_or_in_memory_and_the_users_style_does_not_matter(scores):
    before, plain = dict(matplotlib.rcParams), show.matrices(scores, ["L1H2"]).render()
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30, "text.parse_math": True}):
        plot = show.matrices(scores, ["L1H2"])
        assert plot.render() == plain
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
    figure = weakref.ref(plot.figure)
    del plot
    gc.collect()
    assert figure() is None


def test_a_changed_figure_is_shown_as_changed(scores):
    plot = show.scores(scores)
    before = plot.render()
    plot.figure.axes[0].set_title("mine", loc="left")
    assert plot.render() != before


# --- scores and matrices ------------------------------------------------------------------------------------------


def slow(scores, layer, head, statistic):
    matrix = scores.samples.numpy().mean(0)[layer, head]
    own = np.mean([matrix[k, k] for k in range(PANELS)])
    if statistic == "score":
        return own
    return own - np.mean([matrix[k, j] for k in range(PANELS) for j in range(PANELS) if j != k])


@pytest.mark.parametrize("statistic", ["score", "contrast"])
def test_a_map_of_scores_holds_every_heads_value_and_the_best_first(scores, statistic):
    plot = show.scores(scores, statistic=statistic)
    values = plot.data["values"]
    for layer in range(LAYERS):
        for head in range(HEADS):
            assert values[layer, head] == pytest.approx(slow(scores, layer, head, statistic), abs=1e-6)
    assert plot.data["heads"][0] == "L1H2"
    assert list(plot.data["best"]) == sorted(values.flatten(), reverse=True)[:10]
    low, high = plot.data["intervals"]
    assert (low <= plot.data["best"]).all()
    assert (plot.data["best"] <= high).all()
    assert f"{plot.data['best'][0]:.3f}" in str(plot).splitlines()[1]
    assert str(plot).startswith(f"some-model: {statistic} of every head")


def test_a_map_of_scores_is_labelled_and_names_heads_where_they_are(scores):
    figure = show.scores(scores).figure
    axes, bars, bar = figure.axes[0], figure.axes[1], figure.axes[2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("head", "layer")
    assert labels(axes.xaxis) == ["0", "1", "2", "3"]
    assert labels(axes.yaxis) == ["0", "1", "2"]
    assert bar.get_ylabel() == "attention mass, 0-1"
    assert labels(bars.yaxis)[0].split() == ["1", "L1H2"]
    for text in axes.texts:
        if text.get_text().startswith("L"):
            column, row = text.get_position()
            assert text.get_text() == f"L{row}H{column}"


def test_heads_that_look_nowhere_are_not_marked():
    samples = torch.zeros(2, 2, 2, 2, 2)
    samples[:, 1, 0] = 0.8 * torch.eye(2)
    plot = show.scores(HeadScores(samples))
    assert [text.get_text() for text in plot.figure.axes[0].texts if text.get_text().startswith("L")] == ["L1H0"]
    assert plot.data["heads"] == ("L1H0", "L0H0", "L0H1", "L1H1")


def test_white_is_zero_where_values_have_signs(scores):
    norm = show.scores(scores, statistic="correlation").figure.axes[0].images[0].norm
    assert norm.vmin == -norm.vmax
    assert min(SIGNED(norm(0.0))[:3]) > 0.97
    assert min(MASS(0.0)[:3]) > 0.95


def test_one_strip_has_no_interval_and_a_large_model_has_ranks_for_names():
    samples = torch.rand(1, 36, 32, 2, 2, generator=torch.Generator().manual_seed(0))
    plot = show.scores(HeadScores(samples))
    assert plot.data["intervals"] is None
    axes = plot.figure.axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text().isdigit()] == [str(k) for k in range(1, 11)]
    assert len(axes.get_xticks()) <= 16
    assert str(plot).startswith("Score of every head")


def test_an_unknown_statistic_is_refused(scores):
    with pytest.raises(HeadError, match="'score', 'contrast', 'correlation'"):
        show.scores(scores, statistic="mass")


def test_matrices_are_those_of_the_heads_on_one_colour_scale(scores):
    plot = show.matrices(scores, ["L2H0", "L1H2"])
    np.testing.assert_allclose(plot.data["matrix"][0], scores.samples[:, 2, 0].numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(plot.data["matrix"][1], scores.samples[:, 1, 2].numpy().mean(0), rtol=1e-5)
    maps = plot.figure.axes[:2]
    assert [axes.get_title(loc="left") for axes in maps] == ["L2H0", "L1H2"]
    assert {axes.images[0].get_clim() for axes in maps} == {(0.0, float(plot.data["matrix"].max()))}
    assert maps[0].get_ylabel() == "panel asked about"
    assert maps[1].get_xlabel() == "panel attended to"
    assert labels(maps[0].xaxis) == labels(maps[0].yaxis) == ["1", "2", "3"]
    number = f"{plot.data['matrix'][0, 0, 1]:.2f}".removeprefix("0")
    assert [text.get_text() for text in maps[0].texts if text.get_position() == (1, 0)] == [number]
    assert plot.figure.axes[-1].get_ylabel() == "attention mass, 0-1"
    assert "L2H0" in str(plot)


def test_panels_that_were_never_seen_together_stay_empty():
    samples = torch.full((2, 1, 1, 3, 3), 0.2)
    samples[0, ..., 2, :] = samples[0, ..., :, 2] = torch.nan
    samples[1, ..., 2, 0] = torch.nan
    samples[0, ..., 2, 0] = torch.nan
    with pytest.raises(HeadError):
        HeadScores(samples)  # so a matrix never has an empty cell
    samples[1, ..., 2, 0] = 0.4
    assert show.matrices(HeadScores(samples), ["L0H0"]).data["matrix"][0, 2, 0] == pytest.approx(0.4)


def test_wrong_sets_of_heads_are_refused(scores):
    with pytest.raises(HeadError, match="set of heads is empty"):
        show.matrices(scores, [])
    with pytest.raises(HeadError, match="L3H0 lie outside"):
        show.matrices(scores, ["L3H0"])
    with pytest.raises(HeadError, match="expected 1 to 24"):
        show.matrices(HeadScores(torch.rand(1, 5, 5, 2, 2)), [(i, j) for i in range(5) for j in range(5)])


# --- attention ----------------------------------------------------------------------------------------------------


def test_attention_is_that_of_the_pattern_and_its_shares_are_sums_over_tokens(model, strip):
    inputs = model.prepare(strip, "What is this?")
    heads = ["L2H1", "L0H3"]
    plot = show.attention_map(model, inputs, heads)
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    for index, (layer, head) in enumerate([(2, 1), (0, 3)]):
        row = cache[f"blocks.{layer}.attn.hook_pattern"][0, head, -1].numpy()
        np.testing.assert_allclose(plot.data["attention"][index], row, atol=1e-5)
        image = sum(row[p] for p in inputs.image_tokens[0].positions.tolist())
        assert plot.data["on_image"][index] == pytest.approx(image, abs=1e-5)
        for k, name in enumerate(strip.regions):
            mass = sum(row[p] for p in inputs.region(name).positions[0])
            assert plot.data["on_regions"][index, k] == pytest.approx(mass, abs=1e-5)
    assert plot.data["regions"] == ("panel 1", "panel 2", "panel 3")
    assert f"L0H3  image {plot.data['on_image'][1]:.2f} (panel 1 {plot.data['on_regions'][1, 0]:.2f}" in str(plot)
    texts = written(plot.figure)
    assert f"mean of 2: {plot.data['on_image'].mean():.2f} on the image" in texts
    assert "attention mass on an image token, 0-1 (numbers: on a region)" in texts
    assert any("the last prompt token" in text for text in texts)


def test_attention_of_a_padded_row_an_early_token_and_a_picture_without_regions(model, strip):
    picture = Picture(strip.image.resize((64, 64)))
    inputs = model.prepare([strip, picture], ["What is this, do you think?", "What?"])
    plot = show.attention_map(model, inputs, ["L1H0"], position=-3, row=1)
    alone = model.prepare(picture, "What?")
    single = show.attention_map(model, alone, ["L1H0"], position=alone.layout.length - 3)
    padding = inputs.layout.length - alone.layout.length
    assert padding > 0
    assert (plot.data["attention"][:, :padding] == 0).all()
    np.testing.assert_allclose(plot.data["attention"][:, padding:], single.data["attention"], atol=1e-5)
    assert plot.data["on_regions"].shape == (1, 0)
    assert "last prompt token" not in str(plot)


@pytest.mark.parametrize("family", ["Gemma 4", "Gemma 3", "LLaVA"])
def test_attention_from_an_early_token_is_that_of_the_pattern(shelf, strip, family):
    """Gemma 4 drops early queries in its last layers where only the last logits are asked for."""
    model, _ = shelf.get(family)
    inputs = model.prepare(strip, "What is going on here, and why is it?")
    position, heads = inputs.layout.text[0][-5], HeadSet([(layer, 0) for layer in range(model.cfg.n_layers)])
    plot = show.attention_map(model, inputs, heads, position=position)
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("hook_pattern"))
    for index, (layer, head) in enumerate(heads):
        row = cache[f"blocks.{layer}.attn.hook_pattern"][0, head, position].numpy()
        np.testing.assert_allclose(plot.data["attention"][index], row, atol=1e-5)


def test_attention_shows_what_steering_does(model, strip):
    inputs = model.prepare(strip, "What?")
    heads = HeadSet(["L1H0", "L3H2"])
    plot = show.attention_map(model, inputs, heads, fwd_hooks=steer(heads, inputs.region("panel 2")))
    np.testing.assert_allclose(plot.data["on_regions"], [[0, 1, 0]] * 2, atol=1e-4)


def test_attention_draws_two_images_and_the_first_eight_of_many_heads(model, strip):
    scene = scenes(1, seed=0)[0]
    inputs = model.prepare([[strip, scene]], ["What?"])
    plot = show.attention_map(model, inputs, [(layer, head) for layer in range(4) for head in range(3)])
    assert plot.data["attention"].shape == (12, inputs.layout.length)
    assert plot.data["regions"] == (*strip.regions, *scene.regions)
    total = sum(plot.data["attention"][:, tokens.positions.tolist()].sum(1) for tokens in inputs.image_tokens)
    np.testing.assert_allclose(plot.data["on_image"], total, rtol=1e-5)
    assert sum(" on the image" in text for text in written(plot.figure)) == 9


def test_attention_refuses_what_it_cannot_show(model, strip):
    inputs = model.prepare(strip, "What?")
    with pytest.raises(HeadError, match="set of heads is empty"):
        show.attention_map(model, inputs, [])
    with pytest.raises(HeadError, match="L9H9 lie outside"):
        show.attention_map(model, inputs, ["L9H9"])
    with pytest.raises(InputError, match="Position 500 is no token"):
        show.attention_map(model, inputs, ["L0H0"], position=500)
    with pytest.raises(InputError, match="no row 1"):
        show.attention_map(model, inputs, ["L0H0"], row=1)
    padded = model.prepare([strip, strip], ["What is this?", "What?"])
    with pytest.raises(InputError, match="Position 0 is no token of row 1"):
        show.attention_map(model, padded, ["L0H0"], position=0, row=1)


def test_a_region_smaller_than_a_token_has_no_share(model, strip):
    picture = Picture(strip.image, {"all": Box(0, 0, 96, 32), "dot": Box(1, 1, 3, 3)})
    plot = show.attention_map(model, model.prepare(picture, "What?"), ["L0H0"])
    assert np.isnan(plot.data["on_regions"][0, 1])
    assert plot.data["on_regions"][0, 0] == pytest.approx(plot.data["on_image"][0], abs=1e-6)


# --- staircase ----------------------------------------------------------------------------------------------------


def test_a_staircase_is_the_mean_over_heads_and_steps_where_it_is_most():
    mass = torch.tensor([[[0.5, 0.1], [0.3, 0.1]], [[0.1, 0.2], [0.1, 0.6]], [[0.0, 0.9], [0.2, 0.0]]])
    plot = show.staircase(trajectory(mass, tokens=(" a", "\n", " $1$")))
    np.testing.assert_allclose(plot.data["mass"], [[0.4, 0.1], [0.1, 0.4], [0.1, 0.45]], rtol=1e-5)
    assert plot.data["looked_at"].tolist() == [0, 1, 1]
    axes, bar = plot.figure.axes
    assert labels(axes.xaxis) == ["a", "↵", "$1$"]
    assert labels(axes.yaxis) == ["left", "right"]
    assert bar.get_ylabel() == "attention mass, 0-1"
    treads = axes.collections[0].get_segments()[:3]
    assert [segment[:, 1].tolist() for segment in treads] == [[0, 0], [1, 1], [1, 1]]
    assert str(plot).splitlines() == ["Where 2 heads look while the model writes", "  left: ' a'", "  right: '\\n $1$'"]
    plot.render()


def test_characters_that_no_font_has_are_drawn_without_a_word(recwarn):
    show.staircase(trajectory(torch.rand(1, 1, 2), tokens=("\U000e0041",))).render()
    assert not recwarn.list


def test_a_schedule_is_drawn_as_far_as_the_text_goes():
    mass = torch.rand(10, 1, 2, generator=torch.Generator().manual_seed(0))
    plot = show.staircase(trajectory(mass, weighted=True), schedule=[(0, "right"), (4, "left"), (20, "right")])
    assert plot.data["switches"] == (0, 4)
    axes, bar = plot.figure.axes
    frames = [(patch.get_x(), patch.get_width(), round(patch.get_y() + 0.46)) for patch in axes.patches]
    assert frames == [(-0.5, 4, 1), (3.5, 6, 0)]
    assert bar.get_ylabel() == "attention mass x value norm"


def test_a_long_text_has_its_tokens_thinned():
    plot = show.staircase(trajectory(torch.rand(300, 1, 2)))
    axes = plot.figure.axes[0]
    assert len(axes.get_xticks()) <= 64
    assert labels(axes.xaxis)[1] == f"t{axes.get_xticks()[1]}"
    assert "of 300" in axes.get_xlabel()


def test_a_staircase_refuses_steps_without_data_and_strange_schedules():
    with pytest.raises(InputError, match="0 steps"):
        show.staircase(trajectory(torch.zeros(0, 1, 2)))
    with pytest.raises(InputError, match="no NaN"):
        show.staircase(trajectory(torch.tensor([[[0.1, float("nan")]]])))
    with pytest.raises(RegionError, match=r"names \['middle'\]"):
        show.staircase(trajectory(torch.rand(3, 1, 2)), schedule=[(0, "middle")])


def test_what_the_text_is_about_is_a_bar_under_its_tokens():
    plot = show.staircase(trajectory(torch.rand(6, 1, 2)), described=["left", "left", None, "left", "right", None])
    bars = plot.figure.axes[0].collections[-1].get_segments()
    np.testing.assert_allclose(bars, [[[-0.4, 0.36], [3.4, 0.36]], [[3.6, 1.36], [4.4, 1.36]]])
    assert plot.data["described"] == ("left", "left", None, "left", "right", None)
    with pytest.raises(RegionError, match=r"describe \['middle'\]: expected some of \['left', 'right'\]"):
        show.staircase(trajectory(torch.rand(1, 1, 2)), described=["middle"])


def test_attention_over_time_shows_the_mean_and_the_span_of_the_heads():
    random = trajectory(torch.rand(4, 3, 2))
    random.entropy[1] = float("nan")
    plot = show.attention_over_time(random, described=["left", None, "right", "right"])
    above, middle, below = plot.figure.axes
    image, described = above.lines
    np.testing.assert_allclose(image.get_ydata(), random.on_image.mean(1), rtol=1e-6)
    expected = np.stack([random.mass[0, :, 0], np.full(3, np.nan), random.mass[2, :, 1], random.mass[3, :, 1]])
    np.testing.assert_allclose(plot.data["described"], expected)
    np.testing.assert_allclose(described.get_ydata().filled(np.nan), expected.mean(1), rtol=1e-6)
    assert np.isnan(middle.lines[0].get_ydata().filled(np.nan)).tolist() == [False, True, False, False]
    span = below.collections[0].get_paths()[0].vertices
    assert span[:, 1].min() == pytest.approx(random.sink.min().item())
    assert span[:, 1].max() == pytest.approx(random.sink.max().item())
    assert str(plot).splitlines()[1] == f"  on_image: {random.on_image.mean():.2f} on average"
    assert above.get_ylabel() == "attention mass, 0-1"
    plot.render()


def test_attention_over_time_of_heads_that_never_see_the_image_and_of_nothing(recwarn):
    blind = trajectory(torch.zeros(2, 1, 2))
    blind.entropy[:] = float("nan")
    assert "entropy" not in str(show.attention_over_time(blind))
    assert not recwarn.list
    with pytest.raises(InputError, match="no steps to show"):
        show.attention_over_time(trajectory(torch.zeros(0, 1, 2)))


def test_the_old_name_of_attention_over_time_warns():
    with pytest.warns(DeprecationWarning, match="gaze_lens.show.course is now called attention_over_time"):
        assert show.course is show.attention_over_time


def test_a_tracked_narration_can_be_shown(model, strip):
    from gaze_lens import track

    inputs = model.prepare(strip, "What?")
    tracked = track(model, inputs, ["L1H0", "L2H2"], max_new_tokens=5)
    plot = show.staircase(tracked, schedule=[(0, inputs.region("panel 3"))])
    assert plot.data["mass"].shape == (5, 3)
    assert plot.data["regions"] == ("panel 1", "panel 2", "panel 3")


# --- steering and pictures ----------------------------------------------------------------------------------------


def test_steering_sets_texts_beside_their_targets_and_marks_hits(strip):
    right, wrong = strip.captions["panel 3"], strip.captions["panel 1"]
    plot = show.steering(strip, wrong, {"panel 3": right, "panel 2": wrong, "panel 1": "nothing"})
    assert plot.data["targets"] == ("panel 3", "panel 2", "panel 1")
    assert plot.data["baseline"] == wrong
    assert plot.data["texts"] == (right, wrong, "nothing")
    assert plot.data["described"] == ("panel 3", "panel 1", None)
    assert plot.data["hits"].tolist() == [True, False, False]
    texts = written(plot.figure)
    assert "What the model says, unsteered and steered: 1 of 3 describe the region steered to" in texts
    for text in ("steered to panel 3", "✓ describes panel 3", "✗ describes panel 1", right):
        assert text in texts
    assert len(plot.figure.axes) == 1 + 4  # the picture, and a small one for each text
    assert f"  panel 2: {wrong!r}  (✗ describes panel 1)" in str(plot).splitlines()


def test_steering_without_captions_shows_texts_alone_and_takes_generations(strip):
    picture = Picture(strip.image, strip.regions)
    text = "long " * 400
    generation = Generation(("a\n$b$",), torch.zeros(1, 1).long(), torch.zeros(1, 1).long())
    plot = show.steering(picture, generation, {"panel 1": text})
    assert plot.data["baseline"] == "a\n$b$"
    assert plot.data["texts"] == (text,)
    assert plot.data["hits"] is None
    assert plot.data["described"] is None
    assert max(text.count("\n") for text in written(plot.figure)) == 7  # eight lines, the last cut
    plot.render()


def test_steering_refuses_nothing_and_unknown_regions(strip):
    with pytest.raises(InputError, match="no steered text"):
        show.steering(strip, "a", {})
    with pytest.raises(RegionError, match="no region 'panel 9'"):
        show.steering(strip, "a", {"panel 9": "b"})


def test_a_picture_is_shown_with_its_regions_and_names(strip):
    plot = show.picture(strip)
    assert plot.data["names"] == ("panel 1", "panel 2", "panel 3")
    assert plot.data["boxes"].tolist() == [[0, 0, 32, 32], [32, 0, 64, 32], [64, 0, 96, 32]]
    assert plot.data["size"].tolist() == [96, 32]
    axes = plot.figure.axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text()] == list(strip.regions)
    assert [text.get_position()[0] for text in axes.texts if text.get_text()] == [16, 48, 80]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 96), (32, 0))
    np.testing.assert_allclose(axes.images[0].get_array() * 255, np.asarray(strip.image), atol=0.01)
    assert strip.captions["panel 2"] in str(plot)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_a_picture_of_any_mode_is_shown(strip, mode):
    other = Picture(strip.image.convert(mode), strip.regions, strip.captions)
    shown = show.picture(other).figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown * 255, np.asarray(other.image.convert("RGB")), atol=0.01)
    assert show.steering(other, "b", {"panel 1": "a"}).figure


def test_any_image_can_be_shown_and_what_is_none_is_refused(tmp_path):
    plot = show.picture(np.zeros((40, 30, 3), np.uint8))
    assert plot.data["names"] == ()
    assert plot.data["boxes"].shape == (0, 4)
    with pytest.raises(ImageError, match="no image file"):
        show.picture(tmp_path / "missing.png")


def test_a_large_picture_is_drawn_at_a_lower_resolution_in_the_right_place():
    picture = Picture(Image.new("RGB", (5000, 400)), {"right half": Box(2500, 0, 5000, 400)})
    axes = show.picture(picture).figure.axes[0]
    assert max(axes.images[0].get_array().shape) <= 1600
    assert axes.images[0].get_extent() == [0, 5000, 400, 0]


def test_outlines_go_around_every_kind_of_shape():
    def area(line):
        x, y = line.T
        return abs((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2

    array = np.zeros((20, 30), bool)
    array[5:15, 10:25] = True
    box, polygon, mask = Box(1, 2, 5, 8), Polygon([(0, 0), (10, 0), (0, 10)]), Mask(array)
    assert [area(line) for line in outlines(box)] == [24]
    assert [area(line) for line in outlines(polygon)] == [50]
    (around,) = outlines(mask)
    assert area(around) == pytest.approx(150, abs=1)
    assert (around.min(0).tolist(), around.max(0).tolist()) == ([10, 5], [25, 15])
    assert [area(line) for line in outlines(Union([box, polygon]))] == [24, 50]


def test_panels_side_by_side_are_told_from_other_regions(strip):
    assert Sheet.of([strip]).in_row
    assert not Sheet.of([scenes(1, seed=0)[0]]).in_row
    overlapping = {"a": Box(0, 0, 40, 32), "b": Box(20, 0, 60, 32)}
    assert not Sheet.of([Picture(strip.image, overlapping)]).in_row
    both = Sheet.of([strip, Picture(strip.image.resize((48, 64)))])
    assert both.size[1] == 64
    assert both.scales == (2.0, 1.0)
    assert both.lefts[1] > 192


@pytest.mark.parametrize("name", show.__all__)
def test_the_public_names_are_functions_with_docstrings(name):
    assert callable(getattr(show, name))
    assert getattr(show, name).__doc__
