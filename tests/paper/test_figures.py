"""The rows' numbers against small cases that are worked out by hand, and against the answers on disk."""

import pandas
import pytest

from gaze_lens.heads.head_set import HeadSet
from gaze_lens.paper import Settings
from gaze_lens.paper.choosing import counts_of, scaled
from gaze_lens.paper.narration_rows import blind_figures, steps_correlation
from gaze_lens.paper.selected_heads import band_of
from gaze_lens.runs.journal import read

CONDITIONS = {"fig3a": "question", "tab4": "strengths", "tab3": "random sources"}


def figures_of(found, row):
    return {figure.name: figure for figure in found[row].result.figures}


@pytest.mark.parametrize(("row", "run"), CONDITIONS.items())
def test_rates_are_shares_of_the_answers_on_disk(reproduced, row, run):
    out, found, _ = reproduced
    answers = pandas.read_csv(out / "runs" / run / "answers.csv")
    figures = figures_of(found, row)
    for condition, rows in answers.groupby("condition"):
        assert figures[condition].value == pytest.approx(100 * rows.correct.sum() / len(rows))
        assert figures[condition].n_strips == rows.picture.nunique() == 1


def test_answers_that_repeat_the_unsteered_one_are_misses(reproduced):
    out, found, _ = reproduced
    answers = pandas.read_csv(out / "runs" / "question" / "answers.csv", keep_default_na=False)
    unsteered = answers[answers.condition == "none"]
    plain = {(row.picture, row.target): set(row.text.split()) for row in unsteered.itertuples()}
    rows = answers[answers.condition == "random"]
    right = [
        row.correct == "1.0" and len(words & other) < 0.9 * len(words | other)
        for row in rows.itertuples()
        for words, other in [(set(row.text.split()), plain[row.picture, row.target])]
    ]
    assert figures_of(found, "fig3a")["random, repeats as misses"].value == pytest.approx(100 * sum(right) / len(right))


def test_head_counts_are_the_papers_shares():
    assert counts_of(1152) == [5, 10, 25, 50, 75, 100, 150, 200, 300, 500]
    assert [scaled(count, 72) for count in (5, 10, 100, 500)] == [1, 1, 6, 31]  # 0.3, 0.6, 6.25, 31.25


def test_figures_by_count_are_of_the_scaled_numbers_of_heads(reproduced):
    out, found, _ = reproduced
    answers = pandas.read_csv(out / "runs" / "counts" / "answers.csv")
    figures = figures_of(found, "tab5")
    for published, own in ((5, 1), (10, 1), (100, 6)):
        share = 100 * answers[answers.condition == f"gaze {own}"].correct.mean()
        assert figures[f"gaze {published}"].value == pytest.approx(share)


def test_the_selectors_share_the_heads_that_their_lists_share(reproduced):
    _, found, _ = reproduced
    figures = figures_of(found, "tab6")
    run, _ = read(reproduced[0] / "runs" / "question" / "generations.jsonl", kind="generations")
    heads = {one["name"]: set(one["heads"] or ()) for one in run["conditions"]}
    chosen = len(heads["gaze"])
    if chosen == scaled(100, 72):
        assert figures["100: gaze and Image Heads"].value == len(heads["gaze"] & heads["Image Heads"])
    assert figures["100: two by chance"].value == pytest.approx(6 * 6 / 72)
    assert figures["10: two by chance"].value == pytest.approx(1 / 72)


@pytest.mark.parametrize(
    ("heads", "band"), [(["L2H0"], (2, 2)), (["L2H0", "L2H1"], (1, 3)), (["L0H0", "L0H1", "L0H2"], (0, 2))]
)
def test_the_band_of_random_heads_has_twice_as_many_others(heads, band):
    settings = Settings(layers=6, heads=4)  # 2 heads need 6 in the band, 3 need 9
    assert band_of(HeadSet(heads), settings) == band


@pytest.mark.parametrize(("looked_at", "rho"), [("aabc", 0.9486833), ("cba", -1), ("bbb", 0)])
def test_a_staircase_is_a_rank_correlation_of_steps_and_places(looked_at, rho):
    assert steps_correlation(looked_at, "abc") == pytest.approx(rho)


def test_the_blind_judges_table():
    nothing = {"condition": "gaze", "draw": 0, "error": None, "skipped": None, "failed": None}
    strips = {"p": [(0, 2, 2), (1, 0, 0), (2, 1, 1)], "q": [(0, 1, 0), (1, 2, 1), (2, 0, 2)]}  # turn, place, described
    strips["r"] = [(0, 1, None), (1, 2, None), (2, 0, None)]
    rows = [
        {"picture": picture, "turn": turn, "place": place, "match_place": described, **nothing}
        for picture, pieces in strips.items() for turn, place, described in pieces
    ]  # fmt: skip
    figures = {one.name: one.value for one in blind_figures(pandas.DataFrame(rows), "gaze")}
    assert figures["gaze, as scheduled"] == pytest.approx(100 * 3 / 9)
    assert figures["gaze, as the natural order"] == pytest.approx(100 * 3 / 9)
    assert figures["gaze, rho with the schedule"] == pytest.approx((1 - 0.5) / 2)  # p: 1; q: -0.5; r describes nothing
    assert figures["gaze, rho with the natural order"] == pytest.approx((-0.5 + 1) / 2)


def test_the_blind_judge_judges_the_texts_of_dynamic_narration(reproduced):
    out, found, _ = reproduced
    answers = pandas.read_csv(out / "runs" / "dynamic" / "answers.csv")
    gaze = answers[answers.condition == "gaze"]
    figures = figures_of(found, "tab8")
    assert figures["gaze, as scheduled"].value == pytest.approx(100 * (gaze.match_place == gaze.place).mean())
    assert figures["gaze, as the natural order"].value == pytest.approx(100 * (gaze.match_place == gaze.turn).mean())
