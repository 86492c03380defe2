"""What is read off a trajectory: the region described, agreement, lag, switches; its tables and files. By hand."""

import json
import math

import numpy as np
import pandas
import pytest
import torch

import gaze_lens as gl
from gaze_lens.errors import InputError, RegionError
from gaze_lens.heads.head_set import HeadSet
from gaze_lens.model.generation import Generation
from gaze_lens.tracking import schedule_agreement

REGIONS = ("panel 1", "panel 2", "panel 12")
TOKENS = (
    "Well",
    ". Pa",
    "nel",
    " 1",
    ": a",
    " Red",
    " ring",
    ".",
    " PANEL",
    "\n12",
    ": moon",
    "s.",
    " Panel 2",
    "<end>",
)
P1, P2, P12 = REGIONS
DESCRIBED = (None, P1, P1, P1, P1, P1, P1, P1, P12, P12, P12, P12, P2, P2)


def make(mass, tokens=None, regions=REGIONS, **rest):
    n_steps, n_heads, _ = mass.shape
    tokens = tuple(f" {i}" for i in range(n_steps)) if tokens is None else tokens
    ids = torch.arange(n_steps)[None]
    heads = HeadSet([(i, 2 * i) for i in range(n_heads)], model="some/model", provenance={"seed": 3})
    generation = Generation(("".join(tokens),), ids[:, 1:], ids)
    others = torch.rand(3, n_steps, n_heads, generator=torch.Generator().manual_seed(1))
    return gl.Trajectory(mass, *others, heads, regions, tokens, generation, **rest)


def looking(*regions, n_heads=1, much=0.6, little=0.1):
    """One mass for each step: much on the region named, little on the others."""
    wanted = torch.tensor([REGIONS.index(name) for name in regions])
    mass = torch.full((len(regions), n_heads, 3), little)
    mass[torch.arange(len(regions)), :, wanted] = much
    return mass


# --- The region described ------------------------------------------------------------------------------------------


def test_a_marker_opens_its_region_up_to_the_next():
    trajectory = make(torch.rand(14, 1, 3), TOKENS)
    assert trajectory.described_by_markers() == DESCRIBED
    assert trajectory.described_by_markers({P2: "ring", P1: "Red"})[4:] == (None, P1, *[P2] * 8)
    with pytest.raises(InputError, match=r"None of the markers \['sky'\] is in the text 'Well. Panel 1"):
        trajectory.described_by_markers({P1: "sky"})
    with pytest.raises(InputError, match="expected a text for each region, and no two the same"):
        trajectory.described_by_markers({P1: "Red", P2: "red "})
    with pytest.raises(RegionError, match=r"\['sky'\] were not tracked: expected some of \['panel 1'"):
        trajectory.described_by_markers({"sky": "ring"})


def test_words_of_one_caption_alone_are_about_its_region():
    captions = {P1: "A red ring.", P2: "A blue ring (a sky).", P12: "moons"}
    trajectory = make(torch.rand(14, 1, 3), TOKENS, captions=captions)
    expected = [None] * 14
    expected[5], expected[10], expected[11] = P1, P12, P12  # "Red", "moons"; "ring" and "a" are of two captions
    assert trajectory.described_by_words() == tuple(expected)
    described = trajectory.described_by_words({P1: ["well"], P2: ["RING", "a"]})
    assert [step for step, name in enumerate(described) if name] == [0, 4, 6]
    with pytest.raises(InputError, match=r"None of the words \['sky'\] is in the text"):
        trajectory.described_by_words({P1: ["sky"]})
    with pytest.raises(InputError, match="'ring' is a word of 'panel 1' and 'panel 2'"):
        trajectory.described_by_words({P1: ["ring"], P2: ["ring"]})
    with pytest.raises(InputError, match=r"None of the words \[\] is in the text"):
        make(torch.rand(14, 1, 3), TOKENS).described_by_words()


def test_ranges_say_it_themselves():
    trajectory = make(torch.rand(5, 1, 3))
    assert trajectory.described_in([(range(3, 5), P1), (range(0, 1), P2)]) == (P2, None, None, P1, P1)
    with pytest.raises(InputError, match=r"range\(3, 6\) is no range of the text: expected some of its tokens, 0 to 4"):
        trajectory.described_in([(range(3, 6), P1)])
    with pytest.raises(InputError, match="Token 1 is in two of the ranges"):
        trajectory.described_in([(range(0, 2), P1), (range(1, 3), P2)])
    with pytest.raises(RegionError, match="were not tracked"):
        trajectory.described_in([(range(0, 2), "sky")])


# --- Agreement, lag, switches --------------------------------------------------------------------------------------


def test_agreement_equals_a_loop_over_tokens():
    mass = torch.rand(14, 3, 3, generator=torch.Generator().manual_seed(0))
    result = make(mass, TOKENS).agreement(DESCRIBED)
    hits, on_it, on_any, by_head = 0, 0.0, 0.0, [[0.0, 0.0] for _ in range(3)]
    for step, name in enumerate(DESCRIBED):
        if name is None:
            continue
        means = [sum(float(mass[step, head, region]) for head in range(3)) for region in range(3)]
        hits += means.index(max(means)) == REGIONS.index(name)
        for head in range(3):
            here = float(mass[step, head, REGIONS.index(name)])
            on_it, on_any = on_it + here, on_any + float(mass[step, head].sum())
            by_head[head] = [by_head[head][0] + here, by_head[head][1] + float(mass[step, head].sum())]
    assert (result.n_tokens, result.n_regions) == (13, 3)
    assert result.looked == pytest.approx(hits / 13)
    assert result.mass == pytest.approx(on_it / on_any)
    assert result.by_head.tolist() == pytest.approx([here / any_ for here, any_ in by_head])


def test_heads_that_follow_the_text_agree_and_even_ones_do_not():
    described = (P1, P1, None, P2, P12, P12)
    following = make(looking(P1, P1, P1, P2, P12, P12, little=0.0)).agreement(described)
    assert (following.looked, following.mass) == (1.0, 1.0)
    assert make(torch.full((6, 2, 3), 0.2)).agreement(described).mass == pytest.approx(1 / 3)
    nothing = make(torch.zeros(6, 1, 3)).agreement(described)
    assert math.isnan(nothing.mass)
    with pytest.raises(InputError, match="5 entries were given for 6 tokens"):
        make(torch.rand(6, 1, 3)).agreement(described[:5])
    with pytest.raises(RegionError, match=r"said to describe \['sky'\]"):
        make(torch.rand(6, 1, 3)).agreement((*described[:5], "sky"))
    with pytest.raises(InputError, match="No token is said to describe a region"):
        make(torch.rand(6, 1, 3)).agreement([None] * 6)


@pytest.mark.parametrize("shift", [-2, 0, 1, 3])
def test_a_gaze_that_is_shifted_has_the_shift_as_its_lag(shift):
    described = [P1] * 6 + [P2] * 6 + [P12] * 6 + [P1] * 6
    gaze = [described[min(max(step - shift, 0), 23)] for step in range(24)]
    trajectory = make(looking(*gaze, n_heads=2))
    result = trajectory.segments(described)
    assert result["start"].tolist() == [0, 6, 12, 18]
    assert result["stop"].tolist() == [6, 12, 18, 24]
    assert result["region"].tolist() == [P1, P2, P12, P1]
    assert result["lag"].tolist()[1:3] == [shift, shift]
    assert trajectory.lag(described) == shift


def test_a_segment_spans_tokens_about_nothing_and_may_have_no_gaze():
    mass = looking(P1, P2, P2, P2, P1)
    mass[:, :, 2] = 0.0
    result = make(mass).segments([None, P2, None, P2, P12])
    assert result[["start", "stop"]].to_numpy().tolist() == [[1, 4], [4, 5]]
    assert result["lag"].tolist()[0] == 0
    assert np.isnan(result["lag"].tolist()[1])
    assert result["share"].tolist() == pytest.approx([0.6 / 0.7, 0.0])
    assert make(mass).lag([None, P2, None, P2, P12]) == 0


def test_old_names_still_work():
    trajectory = make(torch.rand(14, 1, 3), TOKENS)
    with pytest.warns(DeprecationWarning, match="Trajectory.stretches is now called segments"):
        stretches = trajectory.stretches(DESCRIBED)
    pandas.testing.assert_frame_equal(stretches, trajectory.segments(DESCRIBED))
    with pytest.warns(DeprecationWarning, match="told= is now called described_regions="):
        assert trajectory.lag(told=DESCRIBED) == trajectory.lag(DESCRIBED)
    with pytest.warns(DeprecationWarning, match="schedule_agreement.stretches is now called segments"):
        assert schedule_agreement.stretches is schedule_agreement.segments


def test_switches_count_tokens_to_the_gaze_and_to_the_words():
    described = (None, P1, None, None, None, P2, None, None, P1)
    trajectory = make(looking(P1, P1, P1, P1, P2, P2, P2, P2, P1))
    result = trajectory.switches([(0, P1), (3, P2), (6, P12), (8, P1), (50, P2)], described)
    assert result["step"].tolist() == [0, 3, 6, 8, 50]
    assert result["region"].tolist() == [P1, P2, P12, P1, P2]
    np.testing.assert_equal(result["gaze"].tolist(), [0, 1, np.nan, 0, np.nan])
    np.testing.assert_equal(result["words"].tolist(), [1, 2, np.nan, 0, np.nan])
    with pytest.raises(RegionError, match=r"The schedule names \['sky'\]"):
        trajectory.switches([(0, "sky")], described)


# --- Tables and files ----------------------------------------------------------------------------------------------


@pytest.fixture
def trajectory():
    mass = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(2))
    trajectory = make(mass, ("a,", "\n", ' "ü', ""), weighted=True, captions={P1: "a red ring."})
    trajectory.entropy[1, 0] = float("nan")
    return trajectory


def test_the_table_has_a_row_for_each_number(trajectory, tmp_path):
    table = trajectory.table()
    assert len(table) == 4 * 2 * 3
    for row in table.to_dict("records"):
        head = list(map(str, trajectory.heads)).index(row["name"])
        assert (row["layer"], row["head"]) == (head, 2 * head)
        assert row["token"] == trajectory.tokens[row["step"]]
        assert row["looked_at"] == trajectory.looked_at[row["step"]]
        assert row["mass"] == float(trajectory.mass[row["step"], head, REGIONS.index(row["region"])])
        for name in ("on_image", "entropy", "sink"):
            np.testing.assert_equal(row[name], float(getattr(trajectory, name)[row["step"], head]))
    trajectory.to_csv(tmp_path / "steps.csv")
    read = pandas.read_csv(tmp_path / "steps.csv", keep_default_na=False, na_values={"entropy": [""]})
    pandas.testing.assert_frame_equal(read, table, check_dtype=False)
    trajectory.to_jsonl(tmp_path / "steps.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [line["token"] for line in lines] == table["token"].tolist()
    assert [line["entropy"] for line in lines[6:12]].count(None) == 3


def test_a_saved_trajectory_is_the_same_when_loaded(trajectory, tmp_path):
    path = tmp_path / "new" / "trajectory.safetensors"
    trajectory.save(path)
    assert path.stat().st_size < 4096
    loaded = gl.Trajectory.load(path)
    pandas.testing.assert_frame_equal(loaded.table(), trajectory.table())
    assert (loaded.heads, loaded.heads.model, loaded.heads.provenance) == (trajectory.heads, "some/model", {"seed": 3})
    for name in ("regions", "tokens", "weighted", "captions"):
        assert getattr(loaded, name) == getattr(trajectory, name)
    assert str(loaded) == str(trajectory)
    assert torch.equal(loaded.generation.tokens, trajectory.generation.tokens)
    assert torch.equal(loaded.generation.sequences, trajectory.generation.sequences)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"cannot be read as a trajectory .*written by Trajectory.save"):
        gl.Trajectory.load(path)
    with pytest.raises(InputError, match="cannot be read as a trajectory"):
        gl.Trajectory.load(tmp_path / "missing.safetensors")


def test_fields_that_do_not_fit_are_refused(trajectory):
    with pytest.raises(InputError, match="A trajectory of 3 tokens, 2 heads and 3 regions was given numbers of shapes"):
        make(trajectory.mass, ("a", "b", "c"))
    assert "weighted attention over 4 tokens, 2 heads, 3 regions: panel 1" in repr(trajectory)
