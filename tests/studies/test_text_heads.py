"""The study of heads over text: its sets of passages, its ranking, its steps on a small scale, and what ships of it."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import gaze_lens as gl
from gaze_lens.text.caption_matching import words
from gaze_lens.tiny import smollm2
from studies.text_heads import common, texts
from studies.text_heads.__main__ import STEPS
from studies.text_heads.rankings import RANKINGS, ranked, same_per_layer, text_mass
from studies.text_heads.report import write_report

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "docs" / "text_heads"


def test_a_seed_makes_the_same_sets():
    assert texts.make_sets(3, seed=5) == texts.make_sets(3, seed=5) != texts.make_sets(3, seed=6)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_passage_is_told_by_its_name_and_its_topic_only(held_out):
    for one in texts.make_sets(20, seed=0, held_out=held_out):
        for values in (one.texts, one.names, one.topics):
            assert len(set(values)) == texts.SIZE
        for text, name, topic in zip(one.texts, one.names, one.topics, strict=True):
            assert name in text
            assert not set(words(topic)) & {word for other in one.texts for word in words(other)}


def test_held_out_sets_share_no_name_and_no_activity():
    found, tested = ({word for one in sets for text in one.texts for word in words(text)} for sets in (
        texts.make_sets(50, seed=0), texts.make_sets(50, seed=0, held_out=True)
    ))  # fmt: skip
    assert not found & tested


def test_a_label_inside_changes_regions_and_not_the_prompt():
    (one,) = texts.make_sets(1, seed=0)
    outside, inside = one.passages(), one.passages(label_inside=True)
    assert outside.text == inside.text
    assert inside.regions["segment 2"] == f"Segment 2: {outside.regions['segment 2']}"


@pytest.mark.parametrize("form", texts.FORMS)
def test_there_is_a_question_about_each_passage(form):
    (one,) = texts.make_sets(1, seed=0)
    questions = one.questions(form)
    assert len(set(questions)) == texts.SIZE
    assert all(question.startswith("What is said ") and question.endswith("?") for question in questions)


def test_text_mass_is_that_of_a_slow_loop():
    samples = torch.rand(3, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0)) / 6
    scores = gl.HeadScores(samples)
    slow = torch.tensor([[samples[:, layer, head].sum(-1).mean().item() for head in range(4)] for layer in range(2)])
    torch.testing.assert_close(text_mass(samples), slow)
    best = max(((layer, head) for layer in range(2) for head in range(4)), key=lambda head: slow[head].item())
    assert ranked(scores, "all text")[0] == best
    for by in RANKINGS:
        assert len(ranked(scores, by)) == 8


def test_controls_have_as_many_heads_in_each_layer_and_others_where_there_are():
    heads = gl.HeadSet(["L1H0", "L1H2", "L1H3", "L4H1"])
    for seed in range(5):
        drawn = same_per_layer(heads, 4, seed=seed)
        assert {layer: len(own) for layer, own in drawn.by_layer().items()} == {1: 3, 4: 1}
        assert gl.Head(1, 1) in drawn
        assert gl.Head(4, 1) not in drawn
    assert len({str(same_per_layer(heads, 4, seed=seed)) for seed in range(5)}) > 1


def test_a_step_that_has_its_file_is_not_done_again(tmp_path):
    study = common.Study(gl.HookedVLM.wrap(*gl.testing.tiny("LlamaForCausalLM")), tmp_path, tmp_path)
    study.run("a", lambda _: {"x": float("nan"), "y": [1.23456]})
    study.run("a", lambda _: pytest.fail("done again"))
    assert study.result("a") == {"x": None, "y": [1.2346]}


def test_every_step_ships_its_result_or_the_page_says_that_it_does_not():
    page = (ROOT / "docs" / "text_heads.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"Not measured yet, though the command makes it: ([^.]*)\.", page) or [""]
    missing = {name.strip() for name in sentence.replace("\n", " ").split(",") if name}
    assert {path.stem for path in SHIPPED.glob("*.json")} == set(STEPS) - missing
    shown = re.findall(r"\]\(text_heads/([^)]+)\)", page)
    assert shown
    assert all((SHIPPED / name).exists() for name in shown)


def test_the_tables_on_the_page_are_those_of_the_results():
    page = (ROOT / "docs" / "text_heads.md").read_text(encoding="utf-8")
    for line in (SHIPPED / "tables.md").read_text(encoding="utf-8").splitlines():
        assert line in page


@pytest.mark.slow
@pytest.mark.skipif(None in map(find_spec, smollm2.PACKAGES), reason=f"SmolLM2 is not installed: {smollm2.INSTALL}")
def test_steps_run_on_a_small_scale(tmp_path, monkeypatch):
    from studies.text_heads import completion, mechanism, recitation, scoring, steering

    small = {
        common: {"N_SCORED": 2, "N_TUNED": 1, "N_TESTED": 1},
        scoring: {"N_FEWER": 2, "N_WORDED": 2},
        steering: {
            "GRID": [("number", "mass"), ("number", "contrast")], "COUNTS": (5,),
            "STRENGTHS": (3,), "DRAWS": 2, "N_DRAWN": 1, "TOKENS": 6,
        },
        completion: {"N_ABLATED": 1, "N_ASKED": 1, "N_CONTROLS": 1, "TOKENS": 6},
        recitation: {"N_RECITED": 3, "DRAWS": 1}, mechanism: {"N_TRACED": 1},
    }  # fmt: skip
    for module, values in small.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(common, "N_TESTED", 3)
    study = common.Study(gl.load_smollm2(), tmp_path / "out", tmp_path / "work")
    for name in ("scores", "grid", "curves", "test", "kinds", "draws", "recitation"):
        study.run(name, STEPS[name])
    write_report(study)
    assert {"tables.md", "steering.png", "staircase.png"} <= {path.name for path in study.out.iterdir()}
    label = study.result("kinds")["heads"]["L8H0"]["label"]
    assert label["contrast"] > 0.3
