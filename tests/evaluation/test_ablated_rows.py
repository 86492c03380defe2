"""The condition "ablate": the heads' output is its mean in the rows of the condition, and nowhere else."""

import pytest
import torch

import gaze_lens as gl
from gaze_lens import HeadSet, comics, evaluation
from gaze_lens.errors import HookError, InputError
from gaze_lens.evaluation import Condition, asking, dynamic_narration, generate_answers, runner
from gaze_lens.evaluation.ablated_rows import Ablations

GAZE = HeadSet(["L1H6", "L1H11", "L1H7"])
OTHERS = HeadSet(["L4H1", "L3H2", "L1H0"])
CONDITIONS = [
    Condition("none"),
    Condition("ablate", GAZE, ablate=True),
    Condition("ablate-band", OTHERS, ablate=True),
    Condition("gaze", GAZE),
]


@pytest.fixture(scope="module")
def strips():
    return comics.synthetic(3, seed=60, panels=3)


@pytest.fixture(scope="module")
def answers(tiny_model, strips):
    return generate_answers(tiny_model, strips, CONDITIONS, protocol=asking(), progress=False)


def test_answers_of_a_batch_are_those_of_mean_ablation_alone(tiny_model, strips, answers):
    prompts = [comics.ask(k) for k in range(3)]
    reference = [tiny_model.prepare([strip] * 3, prompts) for strip in strips]
    hooks = {
        "none": [],
        "ablate": gl.mean_ablate(tiny_model, GAZE, reference),
        "ablate-band": gl.mean_ablate(tiny_model, OTHERS, reference),
    }
    assert len(answers.records) == 3 * 4 * 3
    changed = dict.fromkeys(hooks, 0)
    for record in answers.records:
        if record.condition == "gaze":
            continue
        strip = strips[int(record.picture)]
        inputs = tiny_model.prepare(strip, record.prompt)
        alone = str(tiny_model.generate(inputs, fwd_hooks=hooks[record.condition], max_new_tokens=15))
        assert record.text == alone
        changed[record.condition] += alone != str(tiny_model.generate(inputs, max_new_tokens=15))
        assert record.mode == (), "an ablation has no mode of steering"
    assert changed["none"] == 0
    assert changed["ablate"] > 0


def test_the_model_needs_its_gaze_heads(tiny_model, answers):
    results = evaluation.rejudge(answers, progress=False)
    accuracy = {name: results.accuracy(name).value for name in results.names}
    assert accuracy["none"] > 0.8
    assert accuracy["ablate"] < 0.5
    assert accuracy["ablate-band"] > accuracy["ablate"]
    table = results.table().set_index("condition")
    assert table.strength.isna().to_dict() == {"none": True, "ablate": True, "ablate-band": True, "gaze": False}
    repeated = results.answers.groupby("condition").repeats.count()
    assert repeated["ablate-band"] == 0, "to repeat the unsteered answer is no miss of an ablation"
    assert repeated["gaze"] == 9


def test_the_report_says_what_is_ablated(answers, tmp_path):
    runner.save(evaluation.rejudge(answers, progress=False), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "ablate: 3 heads ablated" in page
    assert "gaze: 3 heads<" in page or "gaze: 3 heads</" in page
    assert "ablate 0: L1H6, L1H11, L1H7 ablated" in page


def test_a_run_with_ablations_is_the_same_in_small_batches_shards_and_when_it_goes_on(
    tiny_model, strips, answers, tmp_path
):
    expected = {record.key: record.text for record in answers.records}
    options = {"protocol": asking(), "progress": False, "batch_size": 4, "path": tmp_path / "answers.jsonl"}
    shard = generate_answers(tiny_model, strips, CONDITIONS, shard=(1, 2), **options)
    assert {record.key: record.text for record in shard.records} == {
        key: text for key, text in expected.items() if key[0] == "1"
    }
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    (tmp_path / "answers.jsonl").write_text("\n".join(lines[:6]) + "\n")
    again = generate_answers(tiny_model, strips, CONDITIONS, shard=(1, 2), resume=True, **options)
    assert {record.key: record.text for record in again.records} == {r.key: r.text for r in shard.records}
    loaded = [Condition.from_dict(condition.to_dict()) for condition in CONDITIONS]
    assert loaded == CONDITIONS
    assert "ablate" not in CONDITIONS[-1].to_dict(), "runs of other conditions are described as before"


def test_what_cannot_be_ablated_is_refused(tiny_model, strips):
    with pytest.raises(InputError, match="no target that could move"):
        generate_answers(tiny_model, strips, CONDITIONS, protocol=dynamic_narration(), progress=False)
    with pytest.raises(InputError, match="ablates heads: give heads"):
        Condition("ablate", None, ablate=True)
    with pytest.raises(InputError, match="leave out elsewhere"):
        Condition("ablate", GAZE, elsewhere=True, ablate=True)


def test_a_batch_of_other_rows_is_refused(tiny_model, strips):
    inputs = tiny_model.prepare([strips[0]] * 2, ["Say.", "Go."])
    ablations = Ablations(tiny_model, lambda: [inputs])
    ((name, hook),) = ablations.hooks(Condition("ablate", HeadSet(["L1H6"]), ablate=True), [1], 2)
    point = type("Hook", (), {"name": name, "layer": lambda self: 1})()
    z = torch.rand(2, 3, tiny_model.cfg.n_heads, 4)
    with pytest.raises(HookError, match="Rows of 2 are ablated, and a forward has 3"):
        hook(torch.rand(3, 3, tiny_model.cfg.n_heads, 4), point)
    edited = hook(torch.rand(2, 3, tiny_model.cfg.n_heads, tiny_model.cfg.d_head), point)
    assert edited.shape[0] == len(z)
