"""The study: runs are trained and measured once, continue where they stopped, and are reported from their files."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gaze_lens.errors import InputError
from training import study
from training import study_plan as plan
from training.recipe import Size
from training.study_plan import CORE, RUNS, TREATMENTS, Run

TINY = Size(width=32, layers=2, heads=8, kv_heads=2, head_width=16, mlp=48, vision_width=32, vision_mlp=48)
PAGE = Path(__file__).parents[2] / "docs" / "study" / "plan.md"


def small_plan(patch):
    few_rows = {"question_rows": 2, "narration_rows": 1, "scene_rows": 1}
    phases = plan.phases
    patch.setitem(study.VARIANTS, "core", plan.Variant(size=TINY, steps=50))
    patch.setattr(plan, "phases", lambda *args: tuple(replace(phase, **few_rows) for phase in phases(*args)))
    patch.setattr(plan, "TOWER_STEPS", 2)
    patch.setattr(study, "OBSERVED_STRIPS", 1)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        small_plan(patch)
        for treatment in "ac":
            study.run_one(Run(treatment, 0), out / "out", out / "states", strips=1)
        patch.setattr(study, "measure", None)  # runs that have figures are neither trained nor measured
        patch.setattr(study, "train", None)
        study.run_one(Run("a", 0), out / "out", out / "states", strips=1)
    return out


@pytest.mark.slow
def test_a_run_leaves_all_outcomes_and_what_was_seen_along_it(done):
    pytest.importorskip("scipy")
    from training.study_report import OUTCOMES, observations, read_runs

    found = read_runs(done / "out")
    assert list(found) == [Run("a", 0), Run("c", 0)]
    for figures in found.values():
        assert (figures["steps"], figures["tower steps"], figures["strips"]) == (50, 2, 1)
        assert figures["selection"].keys() == figures["steering"].keys() == {"1", "2", "3", "4"}  # a quarter of 16
        assert all(-1 <= outcome(figures) <= 16 for outcome in OUTCOMES.values())
    steps, seen = observations(done / "out", Run("a", 0))
    assert steps == [50]
    assert seen[0]["steered"].keys() == {"1", "2", "4"}


@pytest.mark.slow
def test_the_readout_is_measured_again_on_runs_with_a_checkpoint(done, tmp_path):
    figures = json.loads((done / "out" / "core-a-0" / "figures.json").read_text())
    path, checkpoint = tmp_path / "figures.json", done / "states" / "core-a-0-50" / "checkpoint"
    for other in ({"readout": {}}, {"diverged": "learn, step 3"}):
        path.write_text(json.dumps(figures | other))
        study.read_again(checkpoint, path)
        assert json.loads(path.read_text()) == (figures if "readout" in other else figures | other)
    path.write_text(json.dumps(figures | {"readout": {}}))
    study.read_again(tmp_path / "checkpoint", path)
    assert json.loads(path.read_text())["readout"] == {}


@pytest.mark.slow
def test_a_and_c_share_a_tower_that_only_a_changes(done):
    towers = list((done / "states").glob("tower-*"))
    assert [folder.name for folder in towers] == ["tower-contrast-32-2-0"]
    shared = torch.load(towers[0] / "state.pt")["model"]
    for treatment, changed in (("a", True), ("c", False)):
        model = torch.load(done / "states" / f"core-{treatment}-0-50" / "state.pt")["model"]
        names = [name for name in model if "vision_tower" in name]
        assert names
        assert all(model[name].equal(shared[name]) for name in names) != changed
        assert not any(model[name].equal(shared[name]) for name in model if "projector" in name)


@pytest.mark.parametrize("treatment", ["a", "b", "c", "d"])
def test_treatments_start_from_the_tower_that_the_plan_says(treatment, tmp_path, monkeypatch):
    small_plan(monkeypatch)
    run = Run(treatment, 1)
    tower = study.pretrained_tower(run, tmp_path)
    assert (tower is None) == (treatment == "d")
    random = study.language_trainer(run, None).model.model.vision_tower.state_dict()
    trainer = study.language_trainer(run, tower)
    start = trainer.model.model.vision_tower.state_dict()
    assert all(value.equal(random[name]) for name, value in start.items()) == (treatment == "d")
    assert any(p.requires_grad for p in trainer.model.model.vision_tower.parameters()) == (treatment == "a")
    assert "facts" not in " ".join(trainer.step())  # no loss but that of the answers


def test_observing_changes_nothing_in_the_training(monkeypatch):
    small_plan(monkeypatch)
    observed, plain = (study.language_trainer(Run("d", 0), None) for _ in range(2))
    observed.step()
    plain.step()
    study.observe(observed)
    assert observed.step() == plain.step()


def test_the_core_has_four_seeds_of_each_treatment_and_what_follows_is_behind_it():
    assert [run.name for run in CORE[:5]] == ["core-a-0", "core-c-0", "core-b-0", "core-d-0", "core-a-1"]
    assert len(CORE) == 16
    assert RUNS[:16] == CORE
    assert len({run.name for run in (*RUNS, *plan.PILOT)}) == len(RUNS) + len(plan.PILOT)
    assert {run.treatment for run in RUNS[16:]} == {"a", "c"}
    assert plan.PILOT_SEED not in {run.seed for run in RUNS}


def test_the_page_says_the_plan_that_the_code_has():
    page = PAGE.read_text()
    for name, treatment in TREATMENTS.items():
        start = {"contrast": "contrastive training", "classify": "training as a classifier", "": "random initial"}
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |")).split("|")
        assert row[2].strip().startswith(start[treatment.pretraining])
        assert row[3].strip().startswith("frozen") == treatment.frozen
    small = plan.SMALL
    assert f"{small.layers} layers with {small.heads} heads, {small.width} wide" in page
    assert f"({small.vision_layers} layers, {small.vision_width} wide" in page
    assert f"Seeds {plan.SEEDS[0]} to {plan.SEEDS[-1]}" in page
    assert f"seed {plan.PILOT_SEED}" in page
    assert f"{plan.TOWER_STEPS:,} steps" in page
    assert f"The number of steps with the language model is {plan.STEPS:,}, and not the rule's" in page
    assert f"with {plan.VARIANTS['long'].steps:,} steps" in page
    assert f"Measured on {plan.STRIPS} strips" in page
    assert "1, 2, 3, 4, 5, 6 and 8 of 32" in page
    assert plan.COUNTS_UP_TO * small.heads * small.layers == 8
    assert f"{plan.BASE.width} wide with {plan.BASE.layers} layers of {plan.BASE.heads} heads" in page


def test_phases_are_a_quarter_and_the_rest():
    learn, practise = plan.phases(1000, 0.004)
    assert (learn.steps, practise.steps) == (250, 750)
    assert (learn.image_penalty, practise.image_penalty) == (0.004, 0.0)


def test_a_run_that_diverges_is_reported_as_such_and_not_begun_again(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    from training.study_report import read_runs, results

    small_plan(monkeypatch)
    monkeypatch.setattr(study, "observe", None)
    losses, trainers = study.Trainer.losses, []

    def diverge(trainer, rng, phase, /):
        trainers.append(trainer)
        for kind, loss, figures in losses(trainer, rng, phase):
            yield kind, loss * (float("nan") if len(trainers) == 3 else 1.0), figures

    monkeypatch.setattr(study.Trainer, "losses", diverge)
    for _ in range(2):
        study.run_one(Run("d", 0), tmp_path, tmp_path / "states", strips=1)
    assert len(trainers) == 3
    figures = json.loads((tmp_path / "core-d-0" / "figures.json").read_text())
    assert figures["diverged"] == "learn, step 3: the loss is nan"
    assert all(parameter.isfinite().all() for parameter in trainers[-1].model.parameters())
    assert (tmp_path / "core-d-0" / "log.jsonl").exists()
    assert read_runs(tmp_path) == {}
    text = results(tmp_path)
    assert "Diverged, and in no mean and no test: core-d-0 (learn, step 3: the loss is nan)." in text
    assert "0 of 32 planned runs are measured" in text


def test_a_tower_that_diverges_is_told_by_its_run(tmp_path, monkeypatch):
    small_plan(monkeypatch)
    monkeypatch.setattr(study.TowerTrainer, "losses", lambda *_: iter([("strips", torch.tensor(torch.inf), {})]))
    study.run_one(Run("b", 0), tmp_path, tmp_path / "states", strips=1)
    figures = json.loads((tmp_path / "core-b-0" / "figures.json").read_text())
    assert figures["diverged"] == "tower, step 1: the loss is inf"
    assert not (tmp_path / "core-b-0" / "log.jsonl").exists()


@pytest.mark.slow
def test_the_report_holds_what_was_measured(done, tmp_path):
    pytest.importorskip("scipy")
    from training.study_report import OUTCOMES, read_runs, results, within, write_report

    written = write_report(done / "out")
    assert [path.name for path in written] == ["results.md", "outcomes.png", "formation.png"]
    for path in written[1:]:
        Image.open(path).verify()
    text = written[0].read_text()
    assert "2 of 32 planned runs are measured. Of the core: 1 seeds of a, 0 seeds of b, 1 seeds of c" in text
    figures = read_runs(done / "out")[Run("a", 0)]
    row = next(line for line in text.splitlines() if line.startswith("| a | 0 |"))
    peak = OUTCOMES["peak steering"](figures)
    assert f"| {peak:.2f} | {figures['best']} |" in row
    assert int(within(figures, 0.09)) == 1
    assert "| a - c | largest contrast |" in text
    assert "| - | 0.500 | exploratory |" in text  # one seed each: no test
    with pytest.raises(InputError, match="no measured run"):
        results(tmp_path)
    shutil.copytree(done / "out" / "core-a-0", tmp_path / plan.PILOT[0].name)
    assert [path.name for path in write_report(tmp_path)] == ["results.md"]
    pilot = (tmp_path / "results.md").read_text()
    assert "0 of 32 planned runs" in pilot
    assert f"| a, pilot, 1000 steps | {plan.PILOT_SEED} |" in pilot


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "marked"), [(4, ""), (3, ", too few seeds for evidence")])
def test_the_primary_outcomes_are_corrected_and_called_evidence_with_four_seeds_only(done, tmp_path, seeds, marked):
    pytest.importorskip("scipy")
    from training.study_report import results

    figures = json.loads((done / "out" / "core-a-0" / "figures.json").read_text())
    log = (done / "out" / "core-a-0" / "log.jsonl").read_text()
    for treatment, contrast in (("a", 0.9), ("c", 0.1)):
        for seed in plan.SEEDS[:seeds]:
            folder = tmp_path / Run(treatment, seed).name
            folder.mkdir()
            verdict = figures["verdict"] | {"contrast": contrast + seed / 100}
            (folder / "figures.json").write_text(json.dumps(figures | {"verdict": verdict}))
            (folder / "log.jsonl").write_text(log)
    text = results(tmp_path)
    assert "| cannot see |" in text
    assert text.count("### Treatments compared") == 2
    row = next(line for line in text.splitlines() if line.startswith("| a - c | largest contrast |"))
    assert row.endswith(f" Holm: {0.029 if seeds == 4 else 0.1:.3f}{marked} |")
    assert row.startswith("| a - c | largest contrast | 0.80 |")
    if seeds == 4:
        assert "| 53.88 | 0.014 | 0.014 |" in row
        assert "| largest contrast | 0.92 [0.89, 0.94] | 0.12 [0.09, 0.14] |" in text


def test_every_number_on_the_page_is_of_a_file_that_the_study_wrote():
    pytest.importorskip("scipy")
    from training.study_report import BEGIN, END, filled, results

    page = (PAGE.parent.parent / "study.md").read_text(encoding="utf-8")
    tables = results(PAGE.parent)
    assert filled(page, tables) == page
    own = re.sub(rf"{BEGIN}.*{END}|## In the paper.*?(?=\n## )", "", page, flags=re.DOTALL)
    assert set(re.findall(r"\d+\.\d+", own)) - set(re.findall(r"\d+\.\d+", tables)) == set()
    for name in re.findall(r"\]\(study/([^)#]+)\)", page):
        assert (PAGE.parent / name).exists(), name
    for without in ("", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"):
        with pytest.raises(InputError, match="once each"):
            filled(without, tables)
