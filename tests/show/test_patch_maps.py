"""Figures of patching: the numbers in them are the result's, and what is written on them is true."""

from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from gaze_lens import PatchResult, show
from gaze_lens.errors import InputError

LAYERS, HEADS = 3, 4


def result(columns, values, **options):
    """A result whose corrupted metric is -1 and whose clean metric is 3, on two rows."""
    rows = torch.tensor(values, dtype=torch.float32)[:, None] * 4 - 1
    options = {"baseline": torch.tensor([-1.0, -1.0]), "clean": torch.tensor([3.0, 3.0]), **options}
    return PatchResult(
        rows.expand(-1, 2), [], pd.DataFrame(columns), ["metric"], reduced=False, has_metric_axis=False, what="z",
        shape=(LAYERS, HEADS), **options,
    )  # fmt: skip


@pytest.fixture
def by_head():
    """Two groups; L1H2 brings back all of it at the last token, L0H3 works against it, the rest does little."""
    cells = [(layer, head, name) for layer in range(LAYERS) for head in range(HEADS) for name in ("image", "last")]
    strong = {(1, 2, "last"): 1.0, (0, 3, "last"): -0.5, (2, 1, "last"): 0.06}
    columns = dict(zip(("layer", "head", "positions"), zip(*cells, strict=True), strict=True))
    return result(columns, [strong.get(cell, 0.01) for cell in cells])


@pytest.fixture
def by_layer():
    cells = [(layer, name) for layer in range(LAYERS) for name in ("panel 4", "last")]
    columns = dict(zip(("layer", "positions"), zip(*cells, strict=True), strict=True))
    return result(columns, [1.0, 0.0, 0.25, 0.75, 0.0, 1.0])


def written(axes):
    return [text.get_text() for text in axes.findobj(matplotlib.text.Text) if text.get_text()]


def test_every_group_has_a_map_of_layers_and_heads_on_one_scale(by_head):
    plot = show.patching(by_head)
    assert plot.data["positions"] == ("image", "last")
    assert plot.data["values"].shape == (2, LAYERS, HEADS)
    for group, (axes, name) in enumerate(zip(plot.figure.axes, ("image", "last"), strict=False)):
        assert axes.get_title(loc="left") == name
        assert np.allclose(axes.images[0].get_array(), by_head.grid(name))
        assert np.allclose(axes.images[0].get_array(), plot.data["values"][group])
        assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (-1.0, 1.0)


def test_heads_that_matter_are_named_and_the_others_are_not(by_head):
    plot = show.patching(by_head)
    assert str(plot).splitlines() == [
        "Patching z: recovery",
        "  image: no head brings back 0.05 or more",
        "  last: L1H2 1.00, L0H3 -0.50, L2H1 0.06",
    ]
    marks = {text.get_position(): text.get_text() for text in plot.figure.axes[1].texts if "." in text.get_text()}
    assert marks == {(2, 1): "1.00", (3, 0): "-.50", (1, 2): ".06"}
    assert not [text for text in plot.figure.axes[0].texts if "." in text.get_text()]


def test_one_group_of_several_can_be_shown(by_head):
    plot = show.patching(by_head, positions="last")
    assert plot.data["values"].shape == (1, LAYERS, HEADS)
    assert "Patching z: recovery, patched at last" in written(plot.figure.axes[0])
    assert show.patching(by_head, positions=["last", "image"]).data["positions"] == ("last", "image")


def test_without_heads_layers_stand_beside_groups_with_their_numbers(by_layer):
    plot = show.patching(by_layer)
    axes = plot.figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["panel 4", "last"]
    assert np.allclose(plot.data["values"], [[1, 0.25, 0], [0, 0.75, 1]])
    numbers = {text.get_position(): text.get_text() for text in axes.texts if text.get_text()[:1] in "01"}
    assert numbers[1, 1] == "0.75"
    assert numbers[2, 0] == "0.00"
    assert "panel 4, by layer: 1.00 0.25 0.00" in str(plot)


def test_layers_that_were_not_patched_stay_empty(by_head):
    some = (by_head.index_df["layer"] == 1).to_numpy()
    part = replace(by_head, values=by_head.values[some], index_df=by_head.index_df[some].reset_index(drop=True))
    values = show.patching(part, positions="last").data["values"][0]
    assert np.isnan(values[[0, 2]]).all()
    assert np.isfinite(values[1]).all()


def test_a_large_model_has_ranks_for_numbers_and_values_beyond_one_widen_the_scale():
    n_layers, n_heads = 36, 32
    cells = [(layer, head, "last") for layer in range(n_layers) for head in range(n_heads)]
    columns = dict(zip(("layer", "head", "positions"), zip(*cells, strict=True), strict=True))
    values = [10.5 if cell[:2] == (20, 3) else 0.2 if cell[:2] == (30, 1) else 0.0 for cell in cells]
    plot = show.patching(replace(result(columns, values), shape=(n_layers, n_heads)))
    axes = plot.figure.axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts if text.get_text().isdigit()} == {
        (3, 20): "1",
        (1, 30): "2",
    }
    assert axes.images[0].norm.vmax == pytest.approx(10.5)
    assert str(plot).endswith("last: L20H3 10.50, L30H1 0.20")


def test_what_cannot_be_shown_is_refused(by_head):
    with pytest.raises(InputError, match="expected one value for every layer"):
        show.patching(result({"positions": ["image"]}, [0.5]))
    edges = by_head.index_df.assign(receiver="L2H0")
    with pytest.raises(InputError, match="receiver"):
        show.patching(replace(by_head, index_df=edges))
    with pytest.raises(InputError, match="'nowhere' was given"):
        show.patching(by_head, positions="nowhere")
    with pytest.raises(InputError, match="No group"):
        show.patching(by_head, positions=[])
    with pytest.raises(InputError, match="no difference to bring back"):
        show.patching(replace(by_head, clean=by_head.baseline))
    several = replace(by_head, values=by_head.values[None], has_metric_axis=True)
    with pytest.raises(InputError, match="several metrics"):
        show.patching(several)


def test_maps_with_none_below_them_have_their_heads_numbered():
    cells = [(0, head, f"panel {k}") for k in range(5) for head in range(HEADS)]
    columns = dict(zip(("layer", "head", "positions"), zip(*cells, strict=True), strict=True))
    figure = show.patching(result(columns, [0.5] * len(cells))).figure
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.images]
    numbered = [bool(axes.xaxis.get_tick_params()["labelbottom"]) for axes in shown]
    assert numbered == [False, False, True, True, True]
    assert [axes.get_xlabel() for axes in shown] == ["", "", "head", "head", "head"]
