"""The zoo: members that differ in one thing are trained, measured, and reported in a table and pictures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gaze_lens import comics
from gaze_lens.errors import InputError
from gaze_lens.heads.head_scores import HeadScores
from training import zoo
from training.evaluate import SEED, EvaluationSetup
from training.phases import Phase
from training.recipe import Size
from training.zoo_report import table, write_report

SMALL = Size(width=32, layers=2, heads=8, kv_heads=2, head_width=16, mlp=48, vision_width=32, vision_mlp=48)
ROWS = {"question_rows": 2, "narration_rows": 1, "scene_rows": 1}
PHASES = (Phase("vision", 2, 0.0, 1e-2, end=1.0, **ROWS), Phase("learn", 2, 1e-2, 1e-2, end=1.0, **ROWS))
NAMES = ("base", "llava", "frozen", "random tower")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "PHASES", PHASES)
        patch.setattr(zoo, "MEMBERS", {name: replace(zoo.MEMBERS[name], size=SMALL) for name in NAMES})
        out = tmp_path_factory.mktemp("zoo")
        for name in ("base", "llava"):
            zoo.train_member(name, out, seed=0, device="cpu", strips=2)
        patch.setattr(zoo, "measure", None)  # members that have figures are neither measured nor trained
        patch.setattr(zoo, "Trainer", None)
        for name in ("base", "llava"):
            zoo.train_member(name, out, seed=0, device="cpu", strips=2)
    return out


def test_members_are_measured_once_and_reported(trained):
    written = write_report(trained, zoo.MEMBERS)
    assert [path.name for path in written] == ["table.md", "maps.png", "steering.png"]
    for name in ("base", "llava"):
        figures = json.loads((trained / name / "figures.json").read_text())
        scores = HeadScores.load(trained / name / "scores.safetensors")
        assert torch.allclose(torch.tensor(figures["contrast"]), scores.contrast, atol=1e-4)
        assert figures["looking"]["heads"] == 16
        assert figures["steering"].keys() == {"1"}  # at most 9 % of 16 heads
        assert 0 <= figures["random"] <= 1
        assert figures["verdict"]["heads"] == []
    lines = (trained / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| base", "| llava"]
    assert len({line.count("|") for line in lines}) == 1
    for path in written[1:]:
        Image.open(path).verify()


def test_heads_are_selected_on_other_strips_than_the_test(trained, monkeypatch, tmp_path):
    setups = []

    class Scripted(EvaluationSetup):
        """One with given figures: three heads do best on the strips for selection, one on those for the test."""

        @classmethod
        def of(cls, model, strips, draws=20, *, seed=SEED):
            setups.append(super().of(model, strips, draws, seed=seed))
            return setups[-1]

        def steered(self, heads, **_):
            good = 3 if self.strips is setups[0].strips else 1
            return {"forced choice": {"value": float(heads is not None and len(heads) == good)}}

    monkeypatch.setattr(zoo, "EvaluationSetup", Scripted)
    monkeypatch.setattr(zoo, "MOST", 0.5)
    folder = tmp_path / "base" / "checkpoint"
    shutil.copytree(trained / "base" / "checkpoint", folder)
    figures = zoo.measure(folder, strips=1)
    assert figures["best"] == 3
    assert [figures["steering"][k]["forced choice"]["value"] for k in (1, 2, 3)] == [1, 0, 0]
    assert setups[0].strips[0].image.tobytes() != comics.synthetic(1, seed=SEED)[0].image.tobytes()
    assert HeadScores.load(tmp_path / "base" / "scores.safetensors").ranked() == setups[0].scores.ranked()


def test_the_table_holds_what_was_measured():
    share = {"value": 0.914, "low": 0.9, "high": 0.93}
    figures = {
        "parameters": 2_000_000, "looking": {"heads": 72, "best": [{"head": "L2H0", "contrast": 0.8}]},
        "answering": {"k-th panel": {"exact": share}}, "verdict": {"heads": ["L2H0", "L1H4"], "share": 0.5},
        "verdict at the answer": {"heads": ["L2H0"]},
        "steering": {"2": {"forced choice": share}}, "best": 2, "random": 0.17, "all": {"forced choice": share},
    }  # fmt: skip
    cells = table({"base": figures}).splitlines()[2].split(" | ")
    assert cells[1:4] == ["2.00 M", "72", "91.4"]
    assert cells[7] == "1"
    assert cells[9:12] == ["91.4 [90.0, 93.0]", "2 heads", "17.0"]


def test_a_report_on_nothing_says_how_to_make_something(tmp_path):
    with pytest.raises(InputError, match="no measured member.*training.zoo --out"):
        write_report(tmp_path, zoo.MEMBERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_member_freezes_what_it_says(name, monkeypatch):
    monkeypatch.setattr(zoo, "PHASES", PHASES)
    member = replace(zoo.MEMBERS[name], size=SMALL)
    trainer = member.trainer(0, "cpu")
    tower = trainer.architecture.tower_parameters(trainer.model)
    before = [parameter.clone() for parameter in tower]
    phases = []
    while trainer.phase is not None:
        phases.append(trainer.phase.name)
        trainer.step()
        if trainer.step_index == 2 and member.pretrained:
            assert not torch.equal(before[0], tower[0])
            before = [parameter.clone() for parameter in tower]
    assert phases == (["vision"] * 2 if member.pretrained else []) + ["learn"] * 2
    assert all(torch.equal(*pair) for pair in zip(before, tower, strict=True)) == member.frozen


def test_the_page_holds_the_stored_figures():
    folder = Path(__file__).parents[2] / "docs"
    paths = {name: folder / "zoo" / name / "figures.json" for name in zoo.MEMBERS}
    members = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    assert len(members) > 2
    page = (folder / "zoo.md").read_text()
    assert table(members) in page
    for name, figures in members.items():
        assert f"| {name} |" in page.split("\n## ")[0]
        assert figures["random"] < 0.2 < figures["steering"][str(figures["best"])]["forced choice"]["low"], name
